"""Is one model better than another? Paired over the same documents, in bytes, so that tokenizers may differ.

Two kinds of chance lie in a difference. Other documents would have given another one: the bootstrap over documents
measures that. Another seed would have given other models: one run of each kind cannot show that, so a size for it is
assumed (`seed_noise`), unless several runs are given, whose spread then takes its place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2.errors import DataError
from gpt2.evaluation.bits_per_byte import Score
from gpt2.evaluation.bootstrap import Interval, ratio_estimate

SEED_NOISE = 0.005
"""Assumed standard deviation over seeds, as a share of bits per byte, of a model whose training is not known."""

# What seeds differ by falls with the steps that the optimizer has made; docs/evaluation.md has what was measured.
_NOISE_TIMES_STEPS = 0.5
_LEAST_NOISE = 0.001
# An assumption is worth as much as an estimate from six runs: its error is about a third of it.
_ASSUMED_FREEDOM = 5

# Two-sided 5 % points of Student's t for 1, 2, ... degrees of freedom.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10)
_NORMAL = 1.96


@dataclass(frozen=True)
class Difference:
    """How much better the second side is than the first: bits per byte of the first less those of the second."""

    bits_per_byte: float
    """Above 0: the second is better."""
    documents: Interval | None
    """95 % interval over documents, for these very models; None with a single document."""
    training: Interval | None
    """95 % interval over documents and seeds, for their recipes."""
    seeds: str
    """Where the spread over seeds comes from."""
    same: bool
    """Whether every document costs both the same."""

    def verdict(self, first: str = "the first", second: str = "the second") -> str:
        """The finding in a sentence, with the names of both sides."""
        better = second if self.bits_per_byte > 0 else first
        if self.same:
            return "no difference: both give every document the same probability"
        if not _beyond(self.documents):
            return "no difference that can be told from noise: other documents could turn it round"
        if not _beyond(self.training):
            return f"{better} is better on such text, but by no more than another seed could change"
        return f"{better} is better, by more than other documents and other seeds explain"

    @property
    def is_told_from_noise(self) -> bool:
        """Whether neither other documents nor other seeds explain the difference."""
        return not self.same and _beyond(self.documents) and _beyond(self.training)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**vars(self), "verdict": self.verdict(), "told_from_noise": self.is_told_from_noise}


def seed_noise(steps: int | None) -> float:
    """Assumed standard deviation over seeds of a run, as a share of its bits per byte.

    Args:
        steps: optimizer steps that the run has made; None: not known.
    """
    return SEED_NOISE if steps is None else max(_LEAST_NOISE, _NOISE_TIMES_STEPS / max(steps, 1))


def compare(
    first: Sequence[Score], second: Sequence[Score], noise: float | tuple[float, float] = SEED_NOISE
) -> Difference:
    """Compare two models, or two groups of runs that differ in nothing but the seed within each group.

    Args:
        first: scores of one side, of the same documents in the same order everywhere.
        second: scores of the other.
        noise: standard deviation over seeds as a share of bits per byte, for a side with one run; one for both sides,
            or one for each.

    Raises:
        DataError: the documents are not the same.
    """
    num_bytes = first[0].num_bytes
    if any(len(s.num_bytes) != len(num_bytes) or (s.num_bytes != num_bytes).any() for s in [*first, *second]):
        raise DataError("only scores of the same documents can be compared")
    gain = np.mean([s.nats for s in first], axis=0) - np.mean([s.nats for s in second], axis=0)
    bits = gain / math.log(2)
    difference = float(bits.sum() / num_bytes.sum())
    interval, spread = ratio_estimate(bits, num_bytes)
    noises = noise if isinstance(noise, tuple) else (noise, noise)
    sides = [_seed_variance(side, its) for side, its in zip((first, second), noises, strict=True)]
    factor = _t_factor(sides)
    training = None
    if interval is not None:
        half = math.hypot(_NORMAL * spread, factor * math.sqrt(sum(variance for variance, _ in sides)))
        training = (difference - half, difference + half)
    told = [
        f"{len(side)} runs" if len(side) > 1 else f"assumed, {its:.2%}"
        for side, its in zip((first, second), noises, strict=True)
    ]
    return Difference(difference, interval, training, " and ".join(dict.fromkeys(told)), bool((gain == 0).all()))


def _seed_variance(side: Sequence[Score], noise: float) -> tuple[float, int]:
    """Variance of a side's mean over seeds, and the degrees of freedom that it is known with."""
    values = [score.bits_per_byte for score in side]
    if len(values) == 1:
        return (noise * values[0]) ** 2, _ASSUMED_FREEDOM
    return float(np.var(values, ddof=1)) / len(values), len(values) - 1


def _t_factor(sides: Sequence[tuple[float, int]]) -> float:
    """Welch and Satterthwaite's: how many standard deviations a 95 % interval has on each side."""
    total = sum(variance for variance, _ in sides)
    if total == 0:
        return _NORMAL
    freedom = total**2 / sum(variance**2 / freedom for variance, freedom in sides)
    return _T[int(freedom) - 1] if freedom < len(_T) + 1 else _NORMAL + 2.5 / freedom


def _beyond(interval: Interval | None) -> bool:
    return interval is not None and not interval[0] <= 0 <= interval[1]
