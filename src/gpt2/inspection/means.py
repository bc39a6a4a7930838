"""Means of inner values over texts, position by position: what stands in for an ablated part."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt2.inspection.cache import forward
from gpt2.inspection.reference import batches
from gpt2.model import GPT2

# Fewer texts than this at a position do not make a mean; there the mean over all positions stands in.
_ENOUGH = 8


def mean_by_position(model: GPT2, rows: Sequence[Sequence[int]], time: int, names: Sequence[str]) -> dict[str, Tensor]:
    """Mean of named values over texts at each position.

    Positions that fewer than eight texts reach take the mean over all positions but the first, which
    holds `<|endoftext|>` and is like no other.

    Args:
        model: any.
        rows: ids of each text.
        time: positions wanted.
        names: values with the shape (B, T, ...).

    Returns:
        Name -> (1, time, ...) fp32.
    """
    wanted, device = set(names), next(model.parameters()).device
    sums: dict[str, Tensor] = {}
    counts = torch.zeros(time, device=device)
    for ids, real in batches([row[:time] for row in rows], device):
        _, cache = forward(model, ids, keep=wanted.__contains__)
        width = ids.shape[1]
        counts[:width] += real.sum(dim=0)
        for name in names:
            value = cache.view(name).float()
            total = (value * real.view(*real.shape, *[1] * (value.ndim - 2))).sum(dim=0)
            sums.setdefault(name, torch.zeros(time, *value.shape[2:], device=device))[:width] += total
    few = counts < min(_ENOUGH, len(rows))
    means = {}
    for name, total in sums.items():
        mean = total / counts.clamp(min=1).view(-1, *[1] * (total.ndim - 1))
        if bool(few.any()):
            start = 1 if float(counts[1:].sum()) > 0 else 0
            mean[few] = total[start:].sum(dim=0) / counts[start:].sum()
        means[name] = mean[None]
    return means
