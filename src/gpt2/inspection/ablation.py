"""What each head and each MLP is worth: the loss on real text without it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt2.errors import ConfigError
from gpt2.inspection.cache import Cache, forward
from gpt2.inspection.drawing.canvas import Canvas
from gpt2.inspection.intervals import interval
from gpt2.inspection.interventions import How
from gpt2.inspection.means import mean_by_position
from gpt2.inspection.names import long_name
from gpt2.inspection.partial import from_layer, from_middle, token_losses
from gpt2.inspection.reference import Texts, batches, documents
from gpt2.inspection.result import Check, Result
from gpt2.inspection.weights import head_output
from gpt2.model import GPT2, IGNORED
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True)
class AblationGrid(Result):
    """Change of the loss when one head or MLP is taken out. L layers, H heads; column H is the MLP."""

    kind = "ablation_grid"
    how: str
    num_documents: int
    num_tokens: int
    loss: float
    """Of the whole model, nats per token."""
    change: Tensor
    """(L, H + 1) nats per token; above zero: the part helps."""
    low: Tensor
    high: Tensor
    """(L, H + 1): 95 % interval over documents."""
    check: Check | None = None

    @property
    def title(self) -> str:
        return "What each head and each MLP is worth"

    @property
    def summary(self) -> str:
        layer, column = divmod(int(self.change.argmax()), self.change.shape[1])
        idle = int(((self.low <= 0) & (self.high >= 0)).sum())
        return (
            f"Without {self._name(layer, column)} the loss rises most, by {float(self.change[layer, column]):.3f} from "
            f"{self.loss:.3f} nats per token; for {idle} of {self.change.numel()} parts the interval holds zero "
            f"({self.num_documents} documents, {self.num_tokens:,} tokens, {self.how} ablation)."
        )

    @property
    def how_to_read(self) -> str:
        return (
            "Rise of the loss on real text without the part, in nats per token, and half the width of its 95 % "
            "interval over documents. Blue: the part helps. Orange: it harms."
        )

    def _name(self, layer: int, column: int) -> str:
        return f"head {layer}.{column}" if column < self.change.shape[1] - 1 else f"MLP {layer}"

    def rows(self) -> list[list[str]]:
        cells = [(layer, column) for layer in range(self.change.shape[0]) for column in range(self.change.shape[1])]
        cells.sort(key=lambda cell: -float(self.change[cell]))
        return [
            ["without", "loss changes by", "from", "to"],
            *[[self._name(*c), *(f"{float(x[c]):+.4f}" for x in (self.change, self.low, self.high))] for c in cells],
        ]

    def _size(self) -> tuple[float, float]:
        layers, columns = self.change.shape
        return max(5.2, 0.62 * columns + 1.6), 0.46 * layers + 0.75

    def _draw(self, canvas: Canvas) -> None:
        layers, columns = self.change.shape
        half = (self.high - self.low) / 2
        cells = [[f"{self.change[i, j]:+.3f}\n±{half[i, j]:.3f}" for j in range(columns)] for i in range(layers)]
        # MLPs are worth far more than heads: one scale for both would show no head.
        heads = float(self.change[:, :-1].abs().max())
        axes = canvas.axes()
        canvas.matrix(
            axes, self.change, signed=True, top=max(heads, 1e-6), rows=[str(i) for i in range(layers)],
            columns=[*(f"head {h}" for h in range(columns - 1)), "MLP"], cells=cells if columns <= 13 else None,
            bar="rise of the loss (nats per token;\nlarger ones have the last colour)",
        )  # fmt: skip
        axes.tick_params(axis="x", rotation=0 if columns <= 13 else 90)
        axes.set_ylabel("layer")


@torch.no_grad()
def ablation_grid(
    model: GPT2, tokenizer: Tokenizer | None = None, texts: Texts | None = None, *, how: How = "mean", count: int = 64,
    seed: int = 0,
) -> AblationGrid:  # fmt: skip
    """Take out each head and each MLP in turn, and measure the loss on texts.

    Each layer's ablations start from the stream stored by one pass of the whole model.

    Args:
        model: any.
        tokenizer: for texts given as strings.
        texts: documents, best held out; each counts up to the context's length. None: the first bundled stories.
        how: "zero"; "mean" over these texts at the same position; "resample": another text's value at the same
            position.
        count: how many bundled stories.
        seed: of the bootstrap.

    Raises:
        ConfigError: an unknown `how`, or texts without a tokenizer.
        DataError: no text has two tokens.
    """
    if how not in ("zero", "mean", "resample"):
        raise ConfigError(f"how must be zero, mean or resample, got {how!r}")
    rows = documents(model, tokenizer, texts, count=count)
    with model.evaluating():
        layers = model.config.num_layers
        names = [long_name((short, layer)) for layer in range(layers) for short in ("z", "mlp_out")]
        longest = max(len(row) for row in rows) - 1
        means = mean_by_position(model, [row[:-1] for row in rows], longest, names) if how != "zero" else {}
        whole, changes, counts, gaps = [], [], [], []
        for ids, real in batches(rows, next(model.parameters()).device):
            targets = torch.where(real[:, 1:], ids[:, 1:], IGNORED)
            base, change, gap = _changes(model, ids[:, :-1], targets, how, means)
            whole.append(base)
            changes.append(change)
            gaps.append(gap)
            counts.append(real[:, 1:].sum(dim=1))
    total, change, tokens = torch.cat(whole).double(), torch.cat(changes).double(), torch.cat(counts)
    low, high = interval(change, tokens, seed)
    return AblationGrid(
        how, len(rows), int(tokens.sum()), float(total.sum() / tokens.sum()),
        (change.sum(dim=0) / tokens.sum()).float().cpu(), low, high,
        Check("continuing from each stored layer without a change gives the model's losses", max(gaps)),
    )  # fmt: skip


def _changes(
    model: GPT2, ids: Tensor, targets: Tensor, how: str, means: dict[str, Tensor]
) -> tuple[Tensor, Tensor, float]:
    """Losses of each document (B,), their changes by ablation (B, L, H + 1), and how far the partial passes are off."""
    layers, heads = model.config.num_layers, model.config.num_heads
    wanted = {long_name((s, i)) for i in range(layers) for s in ("resid_mid", "z", "mlp_out")}
    _, cache = forward(model, ids, keep=wanted.__contains__)
    base = token_losses(model, model.hidden(ids), targets)
    change = torch.zeros(len(ids), layers, heads + 1, device=ids.device)
    gap = 0.0
    for layer in range(layers):
        middle, outputs = cache.view(("resid_mid", layer)), head_output(model, layer)
        z, z_new = cache.view(("z", layer)), _stand_in(cache, ("z", layer), how, means, targets)
        same = token_losses(model, from_middle(model, layer, middle), targets)
        gap = max(gap, float((same - base).abs().max()) / max(1.0, float(base.max())))
        for head in range(heads):
            delta = (z_new - z)[:, :, head] @ outputs[head].to(z.dtype)
            losses = token_losses(model, from_middle(model, layer, middle + delta), targets)
            change[:, layer, head] = (losses - base).sum(dim=1)
        stream = middle + _stand_in(cache, ("mlp_out", layer), how, means, targets)
        losses = token_losses(model, from_layer(model, layer + 1, stream), targets)
        change[:, layer, heads] = (losses - base).sum(dim=1)
    return base.sum(dim=1), change, gap


def _stand_in(cache: Cache, key: Any, how: str, means: dict[str, Tensor], targets: Tensor) -> Tensor:
    value = cache.view(key)
    if how == "zero":
        return torch.zeros_like(value)
    mean = means[long_name(key)][:, : value.shape[1]].to(value.dtype).expand_as(value)
    if how == "mean":
        return mean
    # Of the next document; where it has ended, the mean.
    real = (targets != IGNORED).roll(1, 0).view(*targets.shape, *[1] * (value.ndim - 2))
    return torch.where(real, value.roll(1, 0), mean)
