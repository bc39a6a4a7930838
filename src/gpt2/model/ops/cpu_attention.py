"""Causal attention for bfloat16 on a CPU: short documents, matrix products that the processor is fast at.

For training with dropout, or without a compiler: `cpu_native` takes a third to two thirds of the time. PyTorch's
own fused kernel widens bfloat16 to float32 for its products, and takes about twice the time for documents of about 200
tokens. Here each document's pattern is small enough for the core's own cache, is made by plain batched products in
bfloat16, one matrix per head, and kept for the backward pass.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gpt2.model.segments import HeadRows, Segments

# Queries handled together. Each block leaves out the keys after it, so little work is wasted on the future.
_BLOCK = 128

# The pattern is kept for the backward pass, so memory grows with the square of the length.
LONGEST = 512


def causal_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) v inside each document: three (B, T, H, d) bfloat16 tensors -> (B, T, H, d)."""
    z: Any = _CausalAttention.apply(q, k, v, segments.head_rows(q.shape[2]), dropout)
    return z


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: HeadRows, dropout: float) -> Tensor:
        ctx.layout, ctx.shape, ctx.scale = layout, q.shape, 1.0 / math.sqrt(q.shape[-1])
        rows = [layout.spread(x.flatten(0, 1)) for x in (q, k, v)]
        rows[0] = rows[0] * ctx.scale
        z = torch.empty(rows[0].shape, dtype=q.dtype)
        patterns = []
        for q, k, v, output in zip(*(layout.rectangles(x) for x in (*rows, z)), strict=True):
            patterns += _attend(q, k, v, output, dropout)
        ctx.save_for_backward(*rows, *patterns)
        return layout.gather(z, ctx.shape[2]).view(ctx.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        layout, saved = ctx.layout, iter(ctx.saved_tensors)
        rows = [next(saved), next(saved), next(saved), layout.spread_gradient(grads[0].flatten(0, 1))]
        slopes = [torch.empty(rows[0].shape, dtype=rows[0].dtype) for _ in range(3)]
        for q, k, v, grad, dq, dk, dv in zip(*(layout.rectangles(x) for x in (*rows, *slopes)), strict=True):
            _attend_backward(q, k, v, grad, dq, dk, dv, saved)
        slopes[0] *= ctx.scale
        dq, dk, dv = (layout.gather(slope, ctx.shape[2]).view(ctx.shape) for slope in slopes)
        return dq, dk, dv, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, output: Tensor, dropout: float) -> list[Tensor | None]:
    """Fill the output (rows, T, d) for scaled queries; of each block the pattern, then what dropout left of it."""
    future = _future(q.dtype)
    patterns = []
    for start, end in _blocks(q.shape[1]):
        scores = torch.bmm(q[:, start:end], k[:, :end].mT)
        scores[:, :, start:] += future[: end - start, : end - start]
        pattern, kept = torch.softmax(scores, dim=-1), None
        if dropout > 0.0:
            kept = torch.empty_like(pattern).bernoulli_(1.0 - dropout).div_(1.0 - dropout)
        patterns += [pattern, kept]
        output[:, start:end] = torch.bmm(pattern if kept is None else pattern * kept, v[:, :end])
    return patterns


def _attend_backward(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, patterns: Iterator[Any]
) -> None:
    """Fill the slopes by the scaled queries, the keys and the values."""
    blocks = [(start, end, next(patterns), next(patterns)) for start, end in _blocks(q.shape[1])]
    # From the last block, whose keys are all: the others add to a part of its slopes.
    for start, end, pattern, kept in reversed(blocks):
        outer = grad[:, start:end]
        by_value = torch.bmm((pattern if kept is None else pattern * kept).mT, outer)
        slope = torch.bmm(outer, v[:, :end].mT)
        if kept is not None:
            slope *= kept
        slope = torch.ops.aten._softmax_backward_data(slope, pattern, -1, pattern.dtype)
        dq[:, start:end] = torch.bmm(slope, k[:, :end])
        by_key = torch.bmm(slope.mT, q[:, start:end])
        for total, part in ((dk, by_key), (dv, by_value)):
            if end == total.shape[1]:
                total.copy_(part)
            else:
                total[:, :end] += part


@functools.cache
def _future(dtype: torch.dtype) -> Tensor:
    return torch.full((_BLOCK, _BLOCK), -torch.inf, dtype=dtype).triu(1)


def _blocks(time: int) -> list[tuple[int, int]]:
    edges = [*range(0, time, _BLOCK), time]
    return list(itertools.pairwise(edges))
