"""The logit lens: read the residual stream after each layer as if the model ended there (nostalgebraist, 2020)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.drawing.style import readable_on
from gpt2.inspection.result import Check, Result, difference
from gpt2.inspection.tokens import shorten, token_text
from gpt2.inspection.weights import log_softmax, unembed

if TYPE_CHECKING:
    from gpt2.inspection.run import Run

# A wider table does not fit a page; of longer texts the end is drawn. The numbers hold every position.
_COLUMNS = 12


@dataclass(frozen=True)
class LogitLens(Result):
    """Predictions read after the embeddings and after each layer. R readings, T positions, k tokens."""

    kind = "logit_lens"
    of: str
    tokens: list[str]
    readings: list[str]
    """What is read: "embedding", "after layer 0", ..."""
    top_ids: Tensor
    """(R, T, k) long: likeliest tokens."""
    top_tokens: list[list[list[str]]]
    top_probabilities: Tensor
    """(R, T, k)."""
    kl: Tensor
    """(R, T) nats: KL divergence of the model's final prediction from the reading's."""
    next_rank: Tensor
    """(R, T - 1) long: rank, from 1, of the token that really follows."""
    next_log_probability: Tensor
    """(R, T - 1) nats."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"Logit lens of {self.of}"

    @property
    def summary(self) -> str:
        final = self.top_tokens[-1][-1][0]
        first = next(i for i in range(len(self.readings)) if all(r[-1][0] == final for r in self.top_tokens[i:]))
        return (
            f"After ‘{self.tokens[-1]}’ the model's likeliest token is ‘{final}’, at "
            f"{float(self.top_probabilities[-1, -1, 0]):.1%}; it leads from “{self.readings[first]}” on."
        )

    @property
    def how_to_read(self) -> str:
        return (
            "Each cell: the likeliest next token if the model ended there, and its probability. "
            "An early row is a view through the last norm, not what the model believes."
        )

    def rows(self) -> list[list[str]]:
        header = ["position", "token", *self.readings]
        columns = range(len(self.tokens))
        return [
            header,
            *[[str(t), self.tokens[t], *[self._cell(r, t) for r in range(len(self.readings))]] for t in columns],
        ]

    def _cell(self, reading: int, position: int) -> str:
        return f"{self.top_tokens[reading][position][0]} {float(self.top_probabilities[reading, position, 0]):.0%}"

    def _size(self) -> tuple[float, float]:
        return 1.6 + 0.72 * min(len(self.tokens), _COLUMNS) + 0.5, 0.42 * len(self.readings) + 0.75

    def _draw(self, canvas: Canvas) -> None:
        axes = canvas.axes()
        start = max(0, len(self.tokens) - _COLUMNS)
        order = list(reversed(range(len(self.readings))))  # the model's end on top, as the stream is drawn elsewhere
        shown = self.top_probabilities[order, start:, 0]
        canvas.matrix(
            axes, shown, top=1.0, rows=[self.readings[r] for r in order],
            columns=[shorten(token, 9) for token in self.tokens[start:]], bar="probability",
        )  # fmt: skip
        axes.tick_params(axis="x", rotation=0)
        for i, r in enumerate(order):
            for j in range(start, len(self.tokens)):
                p = float(self.top_probabilities[r, j, 0])
                colour = readable_on(canvas.theme.ramp()(p))
                axes.text(j - start, i - 0.14, shorten(self.top_tokens[r][j][0], 9), ha="center", va="center",
                          fontsize=7.5, color=colour)  # fmt: skip
                axes.text(j - start, i + 0.22, f"{p:.0%}", ha="center", va="center", fontsize=6, color=colour)
        axes.set_xlabel("token read so far" + (f" (the last {_COLUMNS} of {len(self.tokens)})" if start else ""))


@torch.no_grad()
def logit_lens(run: "Run", k: int = 5) -> LogitLens:
    """What the model would say after each layer, with the final norm's own statistics at each reading.

    Args:
        run: a run.
        k: how many of the likeliest tokens to keep.
    """
    layers = run.model.config.num_layers
    streams = [run.cache.view(("resid_pre", 0))] + [run.cache.view(("resid_post", layer)) for layer in range(layers)]
    final = log_softmax(run.logits)
    following = run.ids[1:, None]
    k = min(k, run.logits.shape[-1])
    tops, kls, ranks, chances = [], [], [], []
    logits = run.logits
    for stream in streams:
        logits = unembed(run.model, stream[0])
        log_p = log_softmax(logits)
        tops.append(log_p.exp().topk(k, dim=-1))
        kls.append((final.exp() * (final - log_p)).sum(dim=-1).clamp(min=0.0))
        chosen = log_p[:-1].gather(-1, following)
        ranks.append((log_p[:-1] > chosen).sum(dim=-1) + 1)
        chances.append(chosen[:, 0])
    ids = torch.stack([top.indices for top in tops])
    return LogitLens(
        of=run.label,
        tokens=run.tokens,
        readings=["embedding", *(f"after layer {layer}" for layer in range(layers))],
        top_ids=ids,
        top_tokens=[[[token_text(run.tokenizer, i) for i in row] for row in table] for table in ids.tolist()],
        top_probabilities=torch.stack([top.values for top in tops]),
        kl=torch.stack(kls),
        next_rank=torch.stack(ranks),
        next_log_probability=torch.stack(chances),
        check=Check("the reading after the last layer is the model's logits", difference(logits, run.logits)),
    )
