"""What this machine can do, measured in the same run: matrix products and reading memory."""

import time
from collections.abc import Callable
from functools import cache

import torch

from benchmarks.measure import Missing
from benchmarks.shapes import Shape
from gpt2.device import matmul_speed

# A type this much slower than the other is no tool's best configuration, and would take hours to show it.
_HOPELESS = 0.2


def best_seconds(work: Callable[[], object], seconds: float) -> float:
    """Shortest time of `work` within a period, after one warm-up."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


@cache
def _speeds() -> dict[torch.dtype, float]:
    return {dtype: matmul_speed(torch.device("cpu"), dtype) for dtype in (torch.float32, torch.bfloat16)}


def require(dtype: torch.dtype) -> None:
    """Raises `Missing` where this processor only emulates the type."""
    if _speeds()[dtype] < _HOPELESS * max(_speeds().values()):
        raise Missing(f"this processor computes {str(dtype).removeprefix('torch.')} by emulation")


def training_products(shape: Shape, seconds: float = 1.5) -> tuple[str, float]:
    """Tokens/s if a training step were its matrix products alone: each weight's forward and both backward ones.

    In the type that this machine computes faster.
    """
    dtype = max(_speeds(), key=_speeds().__getitem__)
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
