"""Attention patterns: one head token by token, or all heads at a glance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.result import Check, Result, difference
from gpt2.inspection.tokens import shorten
from gpt2.inspection.weights import require_head

if TYPE_CHECKING:
    from gpt2.inspection.run import Run


_TILE = 64  # most rows of a head's square in the atlas


@dataclass(frozen=True)
class Attention(Result):
    """The pattern of one head: row q tells how query q divides its attention over the tokens up to itself."""

    kind = "attention"
    of: str
    layer: int
    head: int
    tokens: list[str]
    pattern: Tensor
    """(T, T): from query (row) to key (column)."""
    hide_first: bool
    """Whether the picture leaves the first token out."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"Head {self.layer}.{self.head} reads {self.of}"

    @property
    def summary(self) -> str:
        shown = self._shown()
        if len(shown) > 1:
            shown[0] = 0.0  # it can only look at itself
        q, k = divmod(int(shown.argmax()), shown.shape[1])
        sink = float(self.pattern[1:, 0].mean()) if len(self.tokens) > 1 else 1.0
        return (
            f"The strongest look{' (the first token aside)' if self.hide_first else ''} goes from ‘{self.tokens[q]}’ "
            f"(position {q}) to ‘{self.tokens[k]}’ (position {k}): {float(shown[q, k]):.2f}; "
            f"the first token gets {sink:.0%} on average."
        )

    @property
    def how_to_read(self) -> str:
        hidden = " The first token's column is left out of the colours." if self.hide_first else ""
        return (
            f"Rows: from this token (query). Columns: to this token (key). Grey: the future, never seen. "
            f"Colours by the square root, so that faint looks show.{hidden}"
        )

    def rows(self) -> list[list[str]]:
        lines = []
        for q, token in enumerate(self.tokens):
            best = self.pattern[q].topk(min(3, q + 1))
            looks = [
                f"{self.tokens[k]} {p:.2f}" for p, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            lines.append([str(q), token, "   ".join(looks)])
        return [["query", "token", "looks at"], *lines]

    def _shown(self) -> Tensor:
        shown = self.pattern.clone()
        if self.hide_first:
            shown[:, 0] = 0.0
        return shown

    def _size(self) -> tuple[float, float]:
        side = min(7.6, 1.6 + 0.21 * len(self.tokens))
        return max(5.2, side + 0.9), max(2.6, side)

    def _draw(self, canvas: Canvas) -> None:
        axes = canvas.axes()
        time = len(self.tokens)
        labels = [shorten(token, 10) for token in self.tokens]
        shown = self._shown()
        cells = None
        if time <= 14:
            cells = [
                [f"{v:.2f}"[1:] if 0.005 <= v < 0.995 else ("1" if v >= 0.995 else "") for v in row]
                for row in shown.tolist()
            ]
        canvas.matrix(
            axes, shown, top=None if self.hide_first else 1.0, root=True, visible=torch.ones(time, time).tril().bool(),
            rows=labels, columns=labels, cells=cells, bar="attention (each row sums to 1)",
        )  # fmt: skip
        canvas.stairs(axes, time)
        axes.tick_params(axis="x", rotation=90)
        axes.set(xlabel="to → (key)", ylabel="from ↓ (query)")


@dataclass(frozen=True)
class AttentionAtlas(Result):
    """The patterns of all heads. L layers, H heads."""

    kind = "attention_atlas"
    of: str
    tokens: list[str]
    patterns: Tensor
    """(L, H, T, T)."""
    hide_first: bool
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"All heads read {self.of}"

    @property
    def summary(self) -> str:
        sink = self.patterns[:, :, 1:, 0].mean(dim=-1) if len(self.tokens) > 1 else self.patterns[:, :, 0, 0]
        resting = int((sink > 0.5).sum())
        return (
            f"{self.patterns.shape[0]} layers of {self.patterns.shape[1]} heads; {resting} of them "
            f"{'gives' if resting == 1 else 'give'} the first token more than half of their attention on average."
        )

    @property
    def how_to_read(self) -> str:
        hidden = "; the first token's column is left out" if self.hide_first else ""
        return (
            f"One square per head. Down: from (query). Across: to (key). Grey: the future. "
            f"Colours by the square root, so that faint looks show{hidden}."
        )

    def rows(self) -> list[list[str]]:
        lines = []
        for layer, row in enumerate(self.patterns):
            for head, pattern in enumerate(row):
                entropy = -(pattern.clamp(min=1e-12).log() * pattern).sum(dim=-1).mean()
                to_first, to_previous = pattern[1:, 0], pattern.diagonal(-1)
                # Of a single token none lies before.
                first, previous = (x.mean() if len(x) else torch.tensor(0.0) for x in (to_first, to_previous))
                figures = (first, previous, pattern.diagonal().mean(), entropy)
                lines.append([f"{layer}.{head}", *(f"{float(figure):.2f}" for figure in figures)])
        return [["head", "to first", "to previous", "to itself", "entropy (nats)"], *lines]

    def _size(self) -> tuple[float, float]:
        layers, heads = self.patterns.shape[:2]
        side = min(1.35, 10.0 / heads)
        return max(5.0, side * heads + 1.5), side * layers + 0.35

    def _draw(self, canvas: Canvas) -> None:
        """One image of all heads: a hundred axes would take half a minute to lay out."""
        tiles = self.patterns.clone()
        if self.hide_first:
            tiles[..., 0] = 0.0
        layers, heads, time, _ = tiles.shape
        cell = -(-time // _TILE)  # the largest of a block: a mean would hide thin diagonals
        small = -(-time // cell)
        wide = torch.zeros(layers, heads, small * cell, small * cell)
        wide[..., :time, :time] = tiles
        tiles = wide.view(layers, heads, small, cell, small, cell).amax(dim=(3, 5))
        gap = max(1, small // 12)
        step = small + gap
        mosaic = torch.full((layers * step - gap, heads * step - gap), torch.nan)
        visible = torch.zeros(mosaic.shape, dtype=torch.bool)
        triangle = torch.ones(small, small).tril().bool()
        corners = [(layer * step, head * step) for layer in range(layers) for head in range(heads)]
        for (top, left), tile in zip(corners, tiles.flatten(0, 1), strict=True):
            place = slice(top, top + small), slice(left, left + small)
            mosaic[place], visible[place] = tile, triangle
        axes = canvas.axes()
        canvas.matrix(axes, mosaic, top=1.0, root=True, visible=visible, lines=False, bar="attention")
        canvas.stairs(axes, small, corners)
        middle = (small - 1) / 2
        axes.set_xticks([head * step + middle for head in range(heads)], [str(head) for head in range(heads)])
        axes.set_yticks([layer * step + middle for layer in range(layers)], [str(layer) for layer in range(layers)])
        axes.set(xlabel="head", ylabel="layer", aspect="equal")
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")


def attention_of(run: "Run", layer: int, head: int, *, hide_first: bool = False) -> Attention:
    """The pattern of one head.

    Raises:
        ConfigError: there is no such head.
    """
    layer, head = require_head(run.model, layer, head)
    pattern = run["pattern", layer][0, head].float()
    return Attention(run.label, layer, head, run.tokens, pattern, hide_first, _check(pattern))


def attention_atlas(run: "Run", *, hide_first: bool = False) -> AttentionAtlas:
    """The patterns of all heads."""
    layers = range(run.model.config.num_layers)
    patterns = torch.stack([run.cache.view(("pattern", layer))[0].float() for layer in layers])
    return AttentionAtlas(run.label, run.tokens, patterns, hide_first, _check(patterns))


def _check(pattern: Tensor) -> Check:
    sums = pattern.sum(dim=-1)
    future = float(pattern.triu(1).abs().max())
    residual = max(difference(sums, torch.ones_like(sums)), future)
    return Check("rows sum to 1 and give the future nothing", residual)
