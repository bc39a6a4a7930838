"""Causal attention for bfloat16 on a CPU: short documents, matrix products that the processor is fast at.

PyTorch's own fused kernel widens bfloat16 to float32 for its products here, and takes about twice the time
for documents of about 200 tokens. Here each document's pattern is small enough for the core's own cache, is made by
plain batched products in bfloat16, one matrix per head, and kept for the backward pass.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gpt2.model.segments import Group, Segments

# Queries handled together. Each block leaves out the keys after it, so little work is wasted on the future.
_BLOCK = 128

# The pattern is kept for the backward pass, so memory grows with the square of the length.
LONGEST = 512


def causal_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) v inside each document: three (B, T, H, d) bfloat16 tensors -> (B, T, H, d)."""
    z: Any = _CausalAttention.apply(q, k, v, segments.groups(q.device), dropout)
    return z


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: list[Group], dropout: float) -> Tensor:
        ctx.groups, ctx.shape, ctx.scale = groups, q.shape, 1.0 / math.sqrt(q.shape[-1])
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # (tokens, H, d)
        z = torch.empty(q.shape, dtype=q.dtype)
        saved = []
        for group in groups:
            parts = [_per_head(group.pad(x[group.tokens])) for x in (q, k, v)]
            scaled, keys, values = parts[0] * ctx.scale, *parts[1:]
            output, patterns = _attend(scaled, keys, values, dropout)
            z[group.tokens] = group.unpad(_per_token(output, group))
            saved += [scaled, keys, values, *patterns]
        ctx.save_for_backward(*saved)
        return z.view(ctx.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        saved = iter(ctx.saved_tensors)
        grad = grads[0].flatten(0, 1)
        slopes = [torch.empty(grad.shape, dtype=grad.dtype) for _ in range(3)]
        for group in ctx.groups:
            q, k, v = next(saved), next(saved), next(saved)
            outer = _per_head(group.pad_with_zeros(grad[group.tokens]))
            for slope, part in zip(slopes, _attend_backward(q, k, v, outer, saved), strict=True):
                slope[group.tokens] = group.unpad(_per_token(part, group))
        dq, dk, dv = (slope.view(ctx.shape) for slope in slopes)
        return dq.mul_(ctx.scale), dk, dv, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> tuple[Tensor, list[Tensor | None]]:
    """Output (rows, T, d) of scaled queries; and for each block the pattern, then what dropout left of it."""
    future = _future(q.dtype)
    outputs, patterns = [], []
    for start, end in _blocks(q.shape[1]):
        scores = torch.bmm(q[:, start:end], k[:, :end].mT)
        scores[:, :, start:] += future[: end - start, : end - start]
        pattern, kept = torch.softmax(scores, dim=-1), None
        if dropout > 0.0:
            kept = torch.empty_like(pattern).bernoulli_(1.0 - dropout).div_(1.0 - dropout)
        patterns += [pattern, kept]
        outputs.append(torch.bmm(pattern if kept is None else pattern * kept, v[:, :end]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), patterns


def _attend_backward(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, patterns: Iterator[Any]) -> list[Tensor]:
    """Slopes by the scaled queries, the keys and the values."""
    sums: list[Tensor] = []
    dq = []
    # From the last block, whose keys are all: the others add to a part of its slopes.
    blocks = [(start, end, next(patterns), next(patterns)) for start, end in _blocks(q.shape[1])]
    for start, end, pattern, kept in reversed(blocks):
        outer = grad[:, start:end]
        dv = torch.bmm((pattern if kept is None else pattern * kept).mT, outer)
        slope = torch.bmm(outer, v[:, :end].mT)
        if kept is not None:
            slope *= kept
        slope = torch.ops.aten._softmax_backward_data(slope, pattern, -1, pattern.dtype)
        dq.insert(0, torch.bmm(slope, k[:, :end]))
        dk = torch.bmm(slope.mT, q[:, start:end])
        if not sums:
            sums = [dk, dv]
        else:
            for total, part in zip(sums, (dk, dv), strict=True):
                total[:, :end] += part
    return [dq[0] if len(dq) == 1 else torch.cat(dq, dim=1), *sums]


@functools.cache
def _future(dtype: torch.dtype) -> Tensor:
    return torch.full((_BLOCK, _BLOCK), -torch.inf, dtype=dtype).triu(1)


def _blocks(time: int) -> list[tuple[int, int]]:
    count = math.ceil(time / _BLOCK)
    edges = [round(i * time / count) for i in range(count + 1)]
    return list(itertools.pairwise(edges))


def _per_head(x: Tensor) -> Tensor:
    """(documents, T, H, d) -> (documents H, T, d), contiguous: products of other layouts copy each time."""
    return x.transpose(1, 2).contiguous().flatten(0, 1)


def _per_token(x: Tensor, group: Group) -> Tensor:
    """(documents H, T, d) -> (documents, T, H, d)."""
    return x.unflatten(0, (group.count, -1)).transpose(1, 2)
