"""The mathematics of GPT-2, twice behind one set of signatures.

`reference` is each formula written out; `fused` calls the fast kernels. A model is handed one
`Kernels` and names neither, so both run the very same model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from gpt2.errors import ConfigError, nearest

Tap = Callable[[str, Tensor], Tensor]
"""Sees a named value and returns it, or another in its place."""

IGNORED = -1
"""A target id that no loss counts: padding."""

KERNELS = ("fused", "reference")


@dataclass(frozen=True)
class Kernels:
    """One implementation of every operation. B batch, T time, D d_model, H heads, V vocabulary."""

    name: str
    embedding: Callable[..., Tensor]
    """(ids (B, T), weight (V, D)) -> (B, T, D)"""
    linear: Callable[..., Tensor]
    """(x (..., I), weight (I, O), bias (O) or None) -> (..., O)"""
    unembed: Callable[..., Tensor]
    """(x (..., D), weight (V, D)) -> logits (..., V)"""
    layer_norm: Callable[..., Tensor]
    """(x (..., D), weight (D), bias (D), epsilon, tap=None) -> (..., D)"""
    gelu: Callable[[Tensor], Tensor]
    """(x) -> x * Phi(x), Phi by GPT-2's tanh formula"""
    dropout: Callable[[Tensor, float], Tensor]
    """(x, p) -> x with a share p zeroed and the rest scaled by 1 / (1 - p)"""
    attention: Callable[..., Tensor]
    """(q (B, T, H, d), k, v (B, S, H, d), segments=None, mask=None, dropout=0.0, tap=None) -> (B, T, H, d)"""
    cross_entropy: Callable[[Tensor, Tensor], Tensor]
    """(logits (N, V), targets (N)) -> loss of each token (N), fp32, 0 where the target is IGNORED"""
    linear_cross_entropy: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(x (N, D), weight (V, D), targets (N)) -> sum of the losses, fp32 scalar"""


def kernels(name: str) -> Kernels:
    """The kernels called `name`: "fused" or "reference".

    Raises:
        ConfigError: no such kernels.
    """
    if name not in KERNELS:
        raise ConfigError(f"unknown kernels {name!r}.{nearest(name, KERNELS)} There are {', '.join(KERNELS)}")
    module = import_module(f"gpt2.model.ops.{name}")
    fields = [field for field in Kernels.__dataclass_fields__ if field != "name"]
    return Kernels(name, **{field: getattr(module, field) for field in fields})


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """(queries, keys) bool, true where a query may look; the last query sees every key.

    With a KV cache there are more keys than queries, so the triangle is aligned to the lower
    right corner (`is_causal=True` of PyTorch aligns it to the upper left).
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(diagonal=keys - queries)


def scope(tap: Tap | None, prefix: str) -> Tap | None:
    """A tap for one part of the model: it sees `name` as `prefix.name`."""
    return None if tap is None else lambda name, value: tap(f"{prefix}.{name}", value)
