"""One head answers one query, step by step: products, scores, mask, softmax, weighted sum."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.result import Check, Result, difference
from gpt2.inspection.tokens import shorten
from gpt2.inspection.weights import log_softmax, require_head, require_position

if TYPE_CHECKING:
    from gpt2.inspection.run import Run

_KEYS = 24  # in the picture; of a longer past its end


@dataclass(frozen=True)
class HeadSteps(Result):
    """What happens inside a head at one query. S keys up to and with the query, d dimensions."""

    kind = "head_steps"
    of: str
    layer: int
    head: int
    query: int
    tokens: list[str]
    """(S,) the keys' tokens."""
    q: Tensor
    """(d,)."""
    k: Tensor
    """(S, d)."""
    products: Tensor
    """(S, d): q times k, dimension by dimension; their sum is the raw score."""
    raw: Tensor
    """(S,): q . k."""
    scores: Tensor
    """(S,): raw / sqrt(d)."""
    pattern: Tensor
    """(S,): softmax of the scores."""
    v: Tensor
    """(S, d)."""
    z: Tensor
    """(d,): sum of pattern times v."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"Head {self.layer}.{self.head}, step by step: ‘{self.tokens[-1]}’ asks in {self.of}"

    @property
    def summary(self) -> str:
        best = int(self.pattern.argmax())
        return (
            f"‘{self.tokens[-1]}’ (position {self.query}) takes most from ‘{self.tokens[best]}’ (position {best}): "
            f"q·k {float(self.raw[best]):.2f}, scaled {float(self.scores[best]):.2f}, "
            f"attention {float(self.pattern[best]):.2f}."
        )

    @property
    def how_to_read(self) -> str:
        count = len(self.tokens)
        drawn = f" (the last {_KEYS} of {count}; all count)" if count > _KEYS else ""
        return (
            f"One row per token that the query may see{drawn}. Left to right: q times k in each dimension; their sum, "
            "divided by √d; its softmax; the values. Below the values, z: their sum weighted by the attention. Blue "
            "above zero, orange below, each panel on its own scale."
        )

    def rows(self) -> list[list[str]]:
        columns = zip(self.tokens, self.raw.tolist(), self.scores.tolist(), self.pattern.tolist(), strict=True)
        lines = [
            [str(i), token, f"{raw:.3f}", f"{score:.3f}", f"{p:.3f}"]
            for i, (token, raw, score, p) in enumerate(columns)
        ]
        return [["key", "token", "q·k", "q·k/√d", "attention"], *lines]

    def _size(self) -> tuple[float, float]:
        return 9.0, 0.2 * min(len(self.tokens), _KEYS) + 1.35

    def _draw(self, canvas: Canvas) -> None:
        start = max(0, len(self.tokens) - _KEYS)
        labels = [shorten(token, 10) for token in self.tokens[start:]]
        count = len(labels)
        grid = canvas.figure.subplots(
            2, 4, sharex="col", squeeze=False,
            gridspec_kw={"width_ratios": [3, 1.5, 1.5, 3], "height_ratios": [count, 1.2]},
        )  # fmt: skip
        products, scores, pattern, values = grid[0]
        for axes in grid[1][:3]:
            axes.set_visible(False)
        canvas.matrix(products, self.products[start:], signed=True, rows=labels)
        products.set_title("q times k, by dimension", loc="left")
        products.set_xlabel("dimension of the head")
        products.tick_params(labelbottom=True)
        self._bars(canvas, scores, self.scores[start:], "q·k / √d", signed=True)
        self._bars(canvas, pattern, self.pattern[start:], "attention", signed=False)
        top = max(float(self.v[start:].abs().max()), float(self.z.abs().max()))
        canvas.matrix(values, self.v[start:], signed=True, top=top)
        values.set(yticks=[])
        values.set_title("values v", loc="left")
        canvas.matrix(grid[1][3], self.z[None], signed=True, top=top, rows=["z"])
        grid[1][3].set_xlabel("dimension of the head")

    def _bars(self, canvas: Canvas, axes: object, numbers: Tensor, title: str, signed: bool) -> None:
        theme, values = canvas.theme, numbers.tolist()
        colours = [theme.accent if value >= 0 else theme.second for value in values]
        axes.barh(range(len(values)), values, color=colours, height=0.7)  # pyright: ignore
        low, high = min([*values, 0.0]), max([*values, 0.0])
        span = (high - low) or 1.0
        for i, value in enumerate(values):
            side = 0.03 * span
            axes.text(value + (side if value >= 0 else -side), i, f"{value:.2f}", va="center", fontsize=6.5,  # pyright: ignore
                      ha="left" if value >= 0 else "right", color=theme.muted)  # fmt: skip
        axes.set(yticks=[], xticks=[], ylim=(len(values) - 0.5, -0.5),  # pyright: ignore
                 xlim=(low - (0.45 * span if low < 0 else 0), high + 0.45 * span))  # fmt: skip
        axes.axvline(0, color=theme.muted, linewidth=0.8)  # pyright: ignore
        axes.spines[:].set_visible(False)  # pyright: ignore
        axes.set_title(title, loc="left")  # pyright: ignore


def head_steps(run: "Run", layer: int, head: int, query: int = -1) -> HeadSteps:
    """Take a head apart at one query.

    Raises:
        ConfigError: there is no such head or position.
    """
    layer, head = require_head(run.model, layer, head)
    query = require_position(query, len(run.ids))
    past = slice(0, query + 1)
    q, k, v = (run.cache.view((name, layer))[0, :, head].float() for name in ("q", "k", "v"))
    q, k, v = q[query], k[past], v[past]
    products = q * k
    raw = products.sum(dim=-1)
    scores = raw / math.sqrt(len(q))
    pattern = log_softmax(scores).exp()
    z = pattern @ v
    return HeadSteps(
        run.label, layer, head, query, run.tokens[past], q, k, products, raw, scores, pattern, v, z,
        Check("z made from these steps is the model's z",
              difference(z, run.cache.view(("z", layer))[0, query, head].float())),
    )  # fmt: skip
