"""The gate: what was written is opened by somebody else's program and must say what our model says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gpt2.errors import GPT2Error
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer


class ParityError(GPT2Error):
    """Another program reads the file differently. The file has been removed."""


class Reader(Protocol):
    """A program that opened an export on its own."""

    name: str
    """Program and version."""

    def logits(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each row of T ids, (T, V) float32 next-token logits."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[list[int]] | None:
        """Ids of each text, special strings read as plain text; None: it has no tokenizer."""
        ...


@dataclass(frozen=True)
class Limits:
    """How far a reader may be from our own predictions; both in nats."""

    mean_kl: float
    """Mean Kullback-Leibler divergence over all positions, ours against theirs."""
    largest: float | None
    """Largest difference of any log-probability above one in a million; None: not looked at."""


# The last two are what the number format costs. Sharper models lose more; what is lost is printed.
LIMITS = {
    "f32": Limits(1e-6, 1e-2),
    "f16": Limits(1e-3, None),
    "bf16": Limits(1e-2, None),
    "q8_0": Limits(1e-2, None),
}


@dataclass(frozen=True)
class Parity:
    """What the comparison found."""

    reader: str
    positions: int
    mean_kl: float
    largest: float
    same_choice: float
    """Share of positions at which both find the same token likeliest."""
    num_strings: int
    """Strings tokenised by both; 0: the reader has no tokenizer."""

    def __str__(self) -> str:
        tokens = f", {self.num_strings:,} strings tokenised alike" if self.num_strings else ""
        return (
            f"{self.reader}: {self.positions:,} predictions, the likeliest token the same in {self.same_choice:.2%}, "
            f"mean KL {self.mean_kl:.1e}, largest difference {self.largest:.1e} nats{tokens}"
        )


def compare(
    model: GPT2, tokenizer: Tokenizer | None, reader: Reader, limits: Limits, rows: list[list[int]], texts: list[str]
) -> Parity:
    """Compare predictions at every position of `rows`, and the ids of `texts`.

    Raises:
        ParityError: they differ by more than `limits`, or any text has other ids.
    """
    difference, kl, same = [], [], []
    for row, theirs in zip(rows, reader.logits(rows), strict=True):
        p, q = log_probabilities(our_logits(model, row)), log_probabilities(theirs)
        if p.shape != q.shape:
            raise ParityError(f"{reader.name} gives logits of the shape {tuple(q.shape)}, ours are {tuple(p.shape)}")
        kl.append((p.exp() * (p - q)).sum(-1))
        difference.append(torch.where(p > _LEAST, (p - q).abs(), 0.0).amax(-1))
        same.append(p.argmax(-1) == q.argmax(-1))
    found = Parity(
        reader=reader.name,
        positions=sum(len(row) for row in rows),
        mean_kl=torch.cat(kl).mean().item(),
        largest=torch.cat(difference).max().item(),
        same_choice=torch.cat(same).double().mean().item(),
        num_strings=0 if tokenizer is None else _same_ids(tokenizer, reader, texts),
    )
    # Written so that a NaN, which compares with nothing, fails.
    if not (found.mean_kl <= limits.mean_kl and (limits.largest is None or found.largest <= limits.largest)):
        raise ParityError(f"predictions differ by more than the format explains. {found}")
    return found


def our_logits(model: GPT2, row: Sequence[int]) -> Tensor:
    """(T, V) next-token logits of the model itself."""
    with torch.inference_mode():
        return model(torch.tensor([list(row)], device=model.transformer.wte.weight.device))[0].cpu()


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last axis in float64."""
    wide = logits.double()
    return wide - wide.logsumexp(-1, keepdim=True)


_LEAST = -13.8  # one in a million


def _same_ids(tokenizer: Tokenizer, reader: Reader, texts: list[str]) -> int:
    theirs = reader.tokenize(texts)
    if theirs is None:
        return 0
    for text, ids in zip(texts, theirs, strict=True):
        ours = tokenizer.encode(text)
        if ours != ids:
            raise ParityError(f"{reader.name} tokenises {text!r} as {ids}, our tokenizer as {ours}")
    return len(texts)
