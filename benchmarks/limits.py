"""What this machine can do, measured in the same run: matrix products and reading memory."""

import time
from collections.abc import Callable

import torch

from benchmarks.shapes import Shape


def best_seconds(work: Callable[[], object], seconds: float) -> float:
    """Shortest time of `work` within a period, after one warm-up."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def training_products(shape: Shape, dtype: torch.dtype, seconds: float = 1.5) -> tuple[str, float]:
    """Tokens/s if a training step were its matrix products alone: each weight's forward and both backward ones."""
    config, tokens = shape.config, shape.tokens
    d = config.d_model
    kinds = {(d, 3 * d): 1, (d, d): 1, (d, 4 * d): 1, (4 * d, d): 1}
    counts = {kind: count * config.num_layers for kind, count in kinds.items()} | {(d, config.vocab_size): 1}
    total = 0.0
    for (inner, outer), count in counts.items():
        x, w = torch.randn(tokens, inner).to(dtype), torch.randn(inner, outer).to(dtype)
        y = torch.randn(tokens, outer).to(dtype)
        for work in (lambda x=x, w=w: x @ w, lambda y=y, w=w: y @ w.T, lambda x=x, y=y: x.T @ y):
            total += count * best_seconds(work, seconds / 15)
    return f"the model's matrix products alone, {str(dtype).removeprefix('torch.')}", tokens / total


def reading(num_bytes: int, seconds: float = 0.3) -> float:
    """Bytes per second of reading so many bytes again and again."""
    data = torch.ones(num_bytes // 4)
    return num_bytes / best_seconds(data.sum, seconds)
