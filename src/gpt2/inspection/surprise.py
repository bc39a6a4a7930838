"""Surprise: what each token cost the model, and what it would have liked better."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.drawing.style import readable_on
from gpt2.inspection.result import Check, Result
from gpt2.inspection.tokens import shorten, token_text
from gpt2.inspection.weights import log_softmax

if TYPE_CHECKING:
    from gpt2.inspection.run import Run

_TOP = 8.0  # bits; the colours end here
_WIDTH = 7.4


@dataclass(frozen=True)
class Surprise(Result):
    """-log p of every token after the first, with its rank and the favourites. T tokens."""

    kind = "surprise"
    of: str
    tokens: list[str]
    nats: Tensor
    """(T - 1,): of tokens 1, 2, ..."""
    rank: Tensor
    """(T - 1,) long: 1 is the model's favourite."""
    entropy: Tensor
    """(T - 1,) nats: what the model expected its surprise to be."""
    top_tokens: list[list[str]]
    """Favourites at each of them."""
    top_probabilities: Tensor
    """(T - 1, k)."""
    loss: float
    check: Check | None = None

    @property
    def title(self) -> str:
        return f"How surprised the model is by {self.of}"

    @property
    def summary(self) -> str:
        worst = int(self.nats.argmax())
        hits = int((self.rank == 1).sum())
        return (
            f"{self.loss:.2f} nats ({self.loss / math.log(2):.2f} bits) per token on average; most surprising is "
            f"‘{self.tokens[worst + 1]}’ with {float(self.nats[worst]) / math.log(2):.1f} bits; "
            f"{hits} of {len(self.nats)} tokens were the model's favourite."
        )

    @property
    def how_to_read(self) -> str:
        return (
            "The stronger a token's colour, the less it was expected. Under it its bits: 1 is a flip of a coin, "
            "8 is one chance in 256."
        )

    def rows(self) -> list[list[str]]:
        lines = []
        for i, token in enumerate(self.tokens[1:]):
            liked = "   ".join(
                f"{name} {p:.0%}"
                for name, p in zip(self.top_tokens[i][:3], self.top_probabilities[i].tolist(), strict=False)
            )
            bits = float(self.nats[i]) / math.log(2)
            lines.append(
                [
                    str(i + 1),
                    token,
                    f"{bits:.2f}",
                    f"{math.exp(-float(self.nats[i])):.1%}",
                    str(int(self.rank[i])),
                    liked,
                ]
            )
        return [["position", "token", "bits", "probability", "rank", "favourites"], *lines]

    def _size(self) -> tuple[float, float]:
        return 7.5, 0.42 * (self._placed()[-1][1] + 1) + 0.6

    def _placed(self) -> list[tuple[float, int, float]]:
        """Where each token stands: left edge (inches), line, width."""
        places, x, line = [], 0.0, 0
        for token in self.tokens:
            width = 0.074 * max(len(shorten(token, 24)), 3) + 0.07
            if x + width > _WIDTH - 0.3:
                x, line = 0.0, line + 1
            places.append((x, line, width))
            x += width
        return places

    def _draw(self, canvas: Canvas) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.patches import Rectangle

        axes, ramp, theme = canvas.axes(), canvas.theme.ramp(), canvas.theme
        scale = Normalize(0.0, _TOP)
        places = self._placed()
        for i, (token, (x, line, width)) in enumerate(zip(self.tokens, places, strict=True)):
            bits = float(self.nats[i - 1]) / math.log(2) if i else None
            colour = ramp(scale(bits)) if bits is not None else ramp(0.0)
            axes.add_patch(
                Rectangle((x, line), width - 0.03, 0.56, facecolor=colour, edgecolor=theme.grid, linewidth=0.5)
            )
            axes.text(x + width / 2 - 0.015, line + 0.29, shorten(token, 24), ha="center", va="center",
                      fontsize=7.5, color=readable_on(colour))  # fmt: skip
            axes.text(x + width / 2 - 0.015, line + 0.74, "" if bits is None else f"{bits:.1f}", ha="center",
                      va="center", fontsize=6, color=theme.muted)  # fmt: skip
        axes.set(xlim=(0, _WIDTH - 0.3), ylim=(places[-1][1] + 0.95, -0.1), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        bar = canvas.figure.colorbar(
            ScalarMappable(scale, ramp), ax=axes, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02,
            label="surprise (bits; 8 and more have the last colour)",
        )  # fmt: skip
        bar.outline.set_edgecolor(theme.grid)  # pyright: ignore


@torch.no_grad()
def surprise(run: "Run", k: int = 5) -> Surprise:
    """What each token cost.

    Args:
        run: of two tokens or more.
        k: favourites to keep.

    Raises:
        ConfigError: a single token, of which nothing is predicted.
    """
    from gpt2.errors import ConfigError

    if len(run.ids) < 2:
        raise ConfigError("surprise needs two tokens or more, for the first is not predicted; give a longer text")
    log_p = log_softmax(run.logits[:-1])
    top = log_p.exp().topk(min(k, log_p.shape[-1]), dim=-1)
    nats = run.losses
    rank = (log_p > -nats[:, None]).sum(dim=-1) + 1
    # The way by which training computes it, which never makes the logits of more than a block of tokens.
    stream = run.cache.view("normalized")[0]
    norm = run.model.transformer.ln_f
    hidden = stream * norm.weight + norm.bias
    total = run.model.kernels.linear_cross_entropy(hidden[:-1], run.model.transformer.wte.weight, run.ids[1:])
    loss = float(nats.mean())
    return Surprise(
        of=run.label,
        tokens=run.tokens,
        nats=nats,
        rank=rank,
        entropy=-(log_p.exp() * log_p).sum(dim=-1),
        top_tokens=[[token_text(run.tokenizer, i) for i in row] for row in top.indices.tolist()],
        top_probabilities=top.values,
        loss=loss,
        check=Check("the mean is the loss as training computes it",
                    abs(float(total) / len(nats) - loss) / max(1.0, loss)),
    )  # fmt: skip
