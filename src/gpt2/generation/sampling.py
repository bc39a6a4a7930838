"""From logits to the next token: pure functions, each (B, V) -> (B, V) or (B)."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gpt2.errors import ConfigError, nearest


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. None or 1.0 leaves a step out; they apply in the order below.

    Raises:
        ConfigError: a value out of range, named.
    """

    repetition_penalty: float = 1.0
    """Above 0; above 1 makes tokens that have occurred less likely (Keskar et al., 2019)."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Keep the k likeliest tokens (Fan et al., 2018)."""
    top_p: float | None = None
    """Keep the likeliest tokens that together reach this probability (Holtzman et al., 2020)."""
    min_p: float | None = None
    """Keep tokens with at least this share of the likeliest one's probability (Nguyen et al., 2024)."""

    def __post_init__(self) -> None:
        _require(self.temperature >= 0.0, "temperature", self.temperature, "0 (greedy) or above")
        _require(self.repetition_penalty > 0.0, "repetition_penalty", self.repetition_penalty, "above 0 (1 is off)")
        _require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "1 or above")
        _require(self.top_p is None or 0.0 < self.top_p <= 1.0, "top_p", self.top_p, "in (0, 1]")
        _require(self.min_p is None or 0.0 <= self.min_p <= 1.0, "min_p", self.min_p, "in [0, 1]")

    @classmethod
    def from_options(cls, defaults: Mapping[str, Any], chosen: Mapping[str, Any]) -> Self:
        """What was chosen (not None) over the model's defaults."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in [*defaults, *chosen]:
            if name not in names:
                raise ConfigError(f"unknown sampling option {name!r}.{nearest(name, names)}")
        return cls(**{**defaults, **{name: value for name, value in chosen.items() if value is not None}})


def next_token(logits: Tensor, history: list[list[int]], sampling: Sampling, uniform: Tensor) -> Tensor:
    """Choose one token per row.

    Args:
        logits: (B, V), any floating type.
        history: ids of each row so far, prompt included; read by the repetition penalty alone.
        sampling: the settings.
        uniform: (B) numbers in [0, 1), one draw per row.

    Returns:
        (B) long.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1.0:
        logits = penalize_repetition(logits, history, sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1.0:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return draw(logits, uniform)


def penalize_repetition(logits: Tensor, history: list[list[int]], penalty: float) -> Tensor:
    """Divide positive logits of tokens that have occurred by `penalty`, multiply negative ones."""
    logits = logits.clone()
    for row, ids in zip(logits, history, strict=True):
        seen = torch.tensor(sorted(set(ids)), dtype=torch.long, device=logits.device)
        row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    return logits


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """All but the k largest become -inf: exactly k, also where logits tie."""
    values, indices = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, -math.inf).scatter_(-1, indices, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """All outside the smallest set of likeliest tokens whose probability reaches p become -inf."""
    ordered, indices = logits.sort(dim=-1, descending=True)
    probability = _softmax(ordered)
    before = probability.cumsum(dim=-1) - probability  # mass of the tokens ahead; the first is always kept
    ordered = ordered.masked_fill(before >= p, -math.inf)
    return torch.empty_like(logits).scatter_(-1, indices, ordered)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """All less likely than `min_p` times the likeliest become -inf."""
    if min_p == 0.0:
        return logits
    threshold = logits.amax(dim=-1, keepdim=True) + math.log(min_p)
    return logits.masked_fill(logits < threshold, -math.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability passes `uniform`: (B, V), (B) -> (B) long."""
    cumulative = _softmax(logits).double().cumsum(dim=-1)
    target = uniform.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    # right=True: a draw of exactly 0 must not choose a leading token of probability 0.
    chosen = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return chosen.clamp(max=logits.shape[-1] - 1)


def _softmax(logits: Tensor) -> Tensor:
    exponentials = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


def _require(condition: bool, name: str, value: object, range_text: str) -> None:
    if not condition or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{name} must be {range_text}, got {value}")
