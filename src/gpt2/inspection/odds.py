"""The next token: the whole distribution, and what temperature does to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt2.errors import ConfigError
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.result import Check, Result
from gpt2.inspection.tokens import shorten, token_text
from gpt2.inspection.weights import log_softmax, require_position

if TYPE_CHECKING:
    from gpt2.inspection.run import Run


@dataclass(frozen=True)
class Odds(Result):
    """Probabilities of the next token at several temperatures, over the whole vocabulary. N temperatures, k tokens."""

    kind = "odds"
    of: str
    position: int
    temperatures: list[float]
    tokens: list[str]
    """The k likeliest."""
    ids: Tensor
    """(k,) long."""
    probabilities: Tensor
    """(N, k)."""
    others: Tensor
    """(N,): what all other tokens have together."""
    entropy: Tensor
    """(N,) nats."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"What comes after {self.of}"

    @property
    def summary(self) -> str:
        parts = [
            f"at temperature {t:g} ‘{self.tokens[0]}’ has {float(p[0]):.1%} and the choice is as wide as "
            f"{math.exp(float(h)):.1f} equally likely tokens"
            for t, p, h in zip(self.temperatures, self.probabilities, self.entropy, strict=True)
        ]
        return f"{'; '.join(parts)[0].upper()}{'; '.join(parts)[1:]}."

    @property
    def how_to_read(self) -> str:
        return (
            "Probability of the next token at each temperature; every token of the vocabulary counts, not only these. "
            "Effective tokens: so many equally likely ones would be as uncertain."
        )

    def rows(self) -> list[list[str]]:
        names = [*self.tokens, "all others"]
        columns = torch.cat([self.probabilities, self.others[:, None]], dim=1).T.tolist()
        lines = [[name, *(f"{p:.2%}" for p in row)] for name, row in zip(names, columns, strict=True)]
        widths = ["effective tokens", *(f"{math.exp(float(h)):.1f}" for h in self.entropy)]
        return [["token", *(f"T = {t:g}" for t in self.temperatures)], *lines, widths]

    def _size(self) -> tuple[float, float]:
        return 2.6 * len(self.temperatures) + 0.6, 0.22 * (len(self.tokens) + 1) + 0.7

    def _draw(self, canvas: Canvas) -> None:
        grid = canvas.axes(1, len(self.temperatures), sharey=True)[0] if len(self.temperatures) > 1 else [canvas.axes()]
        labels = [shorten(token, 14) for token in self.tokens] + ["all others"]
        theme = canvas.theme
        for i, axes in enumerate(grid):
            values = [*self.probabilities[i].tolist(), float(self.others[i])]
            colours = [theme.accent] * len(self.tokens) + [theme.muted]
            canvas.bars(axes, labels, values, [f"{v:.1%}" for v in values], colours=colours)
            axes.set_xlim(0, min(1.25, 1.3 * max(values)))  # room for the text of the longest bar
            axes.set_xticks([tick for tick in axes.get_xticks() if tick <= min(1.0, axes.get_xlim()[1])])
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
            width = math.exp(float(self.entropy[i]))
            axes.set_title(f"temperature {self.temperatures[i]:g}, effective tokens {width:.1f}",
                           loc="left", fontsize=8)  # fmt: skip
            axes.set_xlabel("probability")


@torch.no_grad()
def odds(run: "Run", position: int = -1, temperatures: Sequence[float] = (0.5, 1.0, 1.5), k: int = 12) -> Odds:
    """The distribution after one position.

    Args:
        run: a run.
        position: after which token.
        temperatures: each above 0.
        k: likeliest tokens to name.

    Raises:
        ConfigError: no such position, no temperature, or one that is not above 0.
    """
    position = require_position(position, len(run.ids))
    if not temperatures or any(not t > 0 for t in temperatures):
        raise ConfigError(
            f"temperatures must be above 0 (0 always takes the likeliest token), got {list(temperatures)}"
        )
    logits = run.logits[position]
    log_p = torch.stack([log_softmax(logits / t) for t in temperatures])
    ids = logits.topk(min(k, len(logits))).indices
    probabilities = log_p.exp()[:, ids]
    total = log_p.double().exp().sum(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return Odds(
        of=run.label if position == len(run.ids) - 1 else f"‘{run.tokens[position]}’ (position {position})",
        position=position,
        temperatures=[float(t) for t in temperatures],
        tokens=[token_text(run.tokenizer, i) for i in ids.tolist()],
        ids=ids,
        probabilities=probabilities,
        others=(1.0 - probabilities.sum(dim=-1)).clamp(min=0.0),
        entropy=entropy,
        check=Check(f"the probabilities of all {len(logits):,} tokens sum to 1", float((total - 1).abs().max())),
    )
