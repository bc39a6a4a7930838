"""The step of the decoding loop, as fast as it can be had here: `step.cpp` on CPUs, else the model itself."""

import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpt2.device import free_memory
from gpt2.model.kv_cache import KVCache
from gpt2.model.ops.step import NativeStep, PackedWeights, obstacle

DecodingStep = Callable[[list[int], list[int]], Tensor]
"""(newest ids, whose rows they are) -> logits (rows, V) for the next, and the cache holds one token more of these rows.
A row once left out does not come back.
"""

_packed: "weakref.WeakKeyDictionary[Any, tuple[Any, PackedWeights]]" = weakref.WeakKeyDictionary()


def decoding_step(model: Any, cache: KVCache) -> DecodingStep:
    """The fastest step that gives `model`'s logits up to rounding; a reason for a slow one goes to the log.

    Args:
        model: a GPT-2; it may change between runs, not during one.
        cache: the past, filled by the model's forward pass.
    """
    reason = why_plain(model)
    if reason:
        logging.getLogger(__name__).info("decoding with the model's own forward pass: %s", reason)
        return plain_step(model, cache)
    return NativeStep(packed_weights(model), cache)


def why_plain(model: Any) -> str:
    """Why decoding takes the model's own forward pass here; empty: it does not."""
    dtype = model.compute_dtype or next(model.parameters()).dtype
    reason = obstacle(model, dtype)
    if reason or model in _packed:
        return reason
    needed = sum(parameter.numel() for parameter in model.parameters()) * _weight_dtype(model).itemsize
    free = free_memory(torch.device("cpu"))
    return "" if free is None or needed < free / 2 else "there is no memory for a second copy of the weights"


def plain_step(model: Any, cache: KVCache) -> DecodingStep:
    """One forward pass of the model per step."""
    device = next(model.parameters()).device

    def step(newest: list[int], rows: list[int]) -> Tensor:
        ids = torch.zeros(cache.keys.shape[1], 1, dtype=torch.long, device=device)
        ids[rows, 0] = torch.tensor(newest, device=device)
        return model(ids, cache=cache)[rows, -1]

    return step


def _weight_dtype(model: Any) -> torch.dtype:
    return model.decoding_dtype or model.compute_dtype or next(model.parameters()).dtype


def packed_weights(model: Any) -> PackedWeights:
    """Packed once per state of the model. Versions tell of changes, sums of those that went through `.data`."""
    dtype, parameters = _weight_dtype(model), list(model.parameters())
    with torch.no_grad():
        sums = torch.stack([parameter.detach().sum(dtype=torch.float32) for parameter in parameters]).tolist()
    state = (dtype, sums, [0 if p.is_inference() else p._version for p in parameters])
    known = _packed.get(model)
    if known is None or known[0] != state:
        known = _packed[model] = (state, PackedWeights(model, dtype))
    return known[1]


def forget_packed(model: Any) -> None:
    """Give back the memory of the packed weights: for a model that is about to change."""
    _packed.pop(model, None)
