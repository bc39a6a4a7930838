"""Direct logit attribution: a logit as a sum over components, heads or neurons (Elhage et al., 2021).

The final norm divides by the stream's own spread. With that one number held at what it was, the way from
the stream to a logit is linear, and every part has its exact share:

    logit(w) = sum over parts c of ((c - mean c) / spread * gamma) . w  +  beta . w
"""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gpt2.errors import ConfigError
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.result import Check, Result
from gpt2.inspection.tokens import single_token, token_text
from gpt2.inspection.weights import final_norm, require_position, unembedding

if TYPE_CHECKING:
    from gpt2.inspection.run import Run

UNITS = ("component", "head", "neuron")
Unit = Literal["component", "head", "neuron"]

# Bars in the picture; the rest is one bar, so that they still add up.
_BARS = 24


@dataclass(frozen=True)
class Attribution(Result):
    """What each part adds to the logit of a token, or to its lead over another."""

    kind = "attribution"
    of: str
    unit: str
    position: int
    token: str
    """The token after which is predicted."""
    target: str
    target_id: int
    against: str | None
    against_id: int | None
    parts: list[str]
    values: Tensor
    """(parts,) in logits; biases are parts of their own."""
    total: float
    """Their sum."""
    logit: float
    """What the model computed."""
    check: Check | None = None

    @property
    def _what(self) -> str:
        return f"the logit of ‘{self.target}’" + (f" minus that of ‘{self.against}’" if self.against else "")

    @property
    def title(self) -> str:
        rival = f" rather than ‘{self.against}’" if self.against else ""
        return f"Why ‘{self.target}’{rival} after {self.of}"

    @property
    def summary(self) -> str:
        best, worst = int(self.values.argmax()), int(self.values.argmin())
        return (
            f"{self._what[0].upper()}{self._what[1:]} is {self.logit:.2f}; {self.parts[best]} adds most "
            f"({float(self.values[best]):+.2f}), {self.parts[worst]} least ({float(self.values[worst]):+.2f})."
        )

    @property
    def how_to_read(self) -> str:
        return (
            f"Each bar begins where the one above ends: what the parts add to {self._what}. "
            f"Blue adds, orange takes away; the final norm's spread is held as it was."
        )

    def rows(self) -> list[list[str]]:
        chosen = self._chosen()
        lines = [[part, f"{value:+.3f}"] for part, value in chosen]
        return [["part", "adds"], *lines, ["sum", f"{self.total:+.3f}"]]

    def _chosen(self) -> list[tuple[str, float]]:
        """Parts in order of the computation, or, if there are too many, the strongest and all others together."""
        pairs = list(zip(self.parts, self.values.tolist(), strict=True))
        if len(pairs) <= _BARS:
            return pairs
        strongest = sorted(pairs, key=lambda pair: -abs(pair[1]))[: _BARS - 1]
        rest = self.total - sum(value for _, value in strongest)
        return [*sorted(strongest, key=lambda pair: -pair[1]), (f"{len(pairs) - len(strongest):,} others", rest)]

    def _size(self) -> tuple[float, float]:
        return 7.0, 0.24 * (len(self._chosen()) + 1) + 0.6

    def _draw(self, canvas: Canvas) -> None:
        chosen = [*self._chosen(), ("sum = logit" + (" difference" if self.against else ""), self.total)]
        values = [value for _, value in chosen]
        axes, theme = canvas.axes(), canvas.theme
        ends = list(itertools.accumulate(values[:-1]))
        starts = [0.0, *ends[:-1], 0.0]
        reach = [0.0, *ends, self.total]
        span = (max(reach) - min(reach)) or 1.0
        colours = [theme.accent if value >= 0 else theme.second for value in values[:-1]] + [theme.muted]
        axes.barh(range(len(values)), values, left=starts, color=colours, height=0.72)
        links = range(len(ends))
        axes.vlines(ends, [i - 0.36 for i in links], [i + 1.36 for i in links], color=theme.muted, linewidth=0.7)
        for i, (start, value) in enumerate(zip(starts, values, strict=True)):
            edge = max(start, start + value) + 0.012 * span
            box = {"facecolor": theme.paper, "edgecolor": "none", "pad": 0.8}  # no line runs through the figure
            axes.text(edge, i, f"{value:+.2f}", va="center", fontsize=7.5, color=theme.muted, bbox=box)
        axes.set_yticks(range(len(values)), [part for part, _ in chosen])
        limits = (min(reach) - 0.03 * span, max(reach) + 0.14 * span)
        axes.set(xlabel="logits", ylim=(len(values) - 0.4, -0.6), xlim=limits)
        axes.axvline(0, color=theme.muted, linewidth=0.8)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", alpha=0.6)


@torch.no_grad()
def attribution(
    run: "Run", target: str | int | None = None, against: str | int | None = None, *, unit: str = "component",
    position: int = -1,
) -> Attribution:  # fmt: skip
    """Attribute a logit, or the difference of two, to the parts of the model.

    Args:
        run: a run.
        target: a token as text (with its leading space) or id; None: the likeliest.
        against: another token, whose logit is taken off.
        unit: "component" (embeddings, each attention, each MLP), "head", or "neuron".
        position: after which token; negative ones count from the end.

    Raises:
        ConfigError: text that is not one token, an unknown unit, no such position.
    """
    if unit not in UNITS:
        raise ConfigError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    position = require_position(position, len(run.ids))
    size = run.model.config.vocab_size
    target_id = int(run.logits[position].argmax()) if target is None else single_token(run.tokenizer, target, size)
    against_id = None if against is None else single_token(run.tokenizer, against, size)
    rows = unembedding(run.model).float()
    if against_id == target_id:
        raise ConfigError(f"target and against are the same token, {token_text(run.tokenizer, target_id)!r}")
    direction = rows[target_id] - (rows[against_id] if against_id is not None else 0.0)
    gamma, beta = final_norm(run.model)
    spread = run.cache.view("scale")[0, position].float()

    weighted = gamma.float() * direction / spread
    # (c - mean c) . weighted is c . (weighted - mean weighted): one vector serves every part.
    reader = weighted - weighted.mean()
    parts, values = [], []
    for name, vectors in _parts(run, unit, position, reader):
        parts += name
        values.append(vectors)
    parts.append("final norm's bias")
    values.append((beta.float() @ direction)[None])
    together = torch.cat(values)
    logits = run.logits[position]
    logit = float(logits[target_id] - (logits[against_id] if against_id is not None else 0.0))
    total = float(together.double().sum())
    return Attribution(
        of=run.label if position == len(run.ids) - 1 else f"‘{run.tokens[position]}’ (position {position})",
        unit=unit,
        position=position,
        token=run.tokens[position],
        target=token_text(run.tokenizer, target_id),
        target_id=target_id,
        against=None if against_id is None else token_text(run.tokenizer, against_id),
        against_id=against_id,
        parts=parts,
        values=together,
        total=total,
        logit=logit,
        check=Check(
            f"the shares of all {unit}s and biases add up to the logit", abs(total - logit) / max(1.0, abs(logit))
        ),
    )


def _parts(run: "Run", unit: str, position: int, reader: Tensor) -> list[tuple[list[str], Tensor]]:
    """Names and shares of the parts, in the order of the computation."""

    def share(name: object) -> Tensor:
        return (run.cache.view(name)[0, position].float() @ reader)[None]  # pyright: ignore

    found = [(["token embedding"], share("embed")), (["position embedding"], share("pos_embed"))]
    for layer, block in enumerate(run.model.transformer.h):
        attn_bias = (block.attn.c_proj.bias.detach().float() @ reader)[None]  # pyright: ignore
        mlp_bias = (block.mlp.c_proj.bias.detach().float() @ reader)[None]  # pyright: ignore
        if unit == "head":
            heads = run.head_results(layer)[0, position].float() @ reader
            found.append(([f"head {layer}.{h}" for h in range(len(heads))], heads))
        else:
            found.append(([f"attention {layer}"], share(("attn_out", layer)) - attn_bias))
        found.append(([f"attention {layer}'s bias"], attn_bias))
        if unit == "neuron":
            weight = block.mlp.c_proj.weight.detach().float() @ reader  # pyright: ignore
            neurons = run.cache.view(("post", layer))[0, position].float() * weight
            found.append(([f"neuron {layer}.{n}" for n in range(len(neurons))], neurons))
        else:
            found.append(([f"MLP {layer}"], share(("mlp_out", layer)) - mlp_bias))
        found.append(([f"MLP {layer}'s bias"], mlp_bias))
    return found
