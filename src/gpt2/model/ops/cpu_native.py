"""Operations of training, and of scoring, on a CPU as calls into `native/attention.cpp` and `native/pointwise.cpp`.

PyTorch writes and reads every intermediate result of GELU, softmax and attention from end to end; these make each in
one pass while it is in the core's own cache. Calls use PyTorch's threads; any number of them gives the same bits.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from gpt2 import native
from gpt2.model.segments import Segments

_TYPES = {torch.float32: 0, torch.bfloat16: 1}

_Int, _Pointer = ctypes.c_int64, ctypes.c_void_p


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("q", "k", "v", "starts")),
        *((name, _Int) for name in ("documents", "heads", "dim", "stride", "type", "threads")),
        *((name, _Pointer) for name in ("z", "log_sums", "z_gradient", "q_gradient", "k_gradient", "v_gradient")),
    ]


def suits(x: Tensor) -> bool:
    """Whether these operations can take x: on a CPU, float32 or bfloat16, and the library could be built here."""
    return x.device.type == "cpu" and x.dtype in _TYPES and native.library()[0] is not None


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x) by GPT-2's tanh formula, any shape; the slope, where it is wanted, is made in the same pass."""
    y: Any = _Gelu.apply(x)
    return y


def causal_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """softmax(q k^T / sqrt(d)) v inside each document: three (B, T, H, d) tensors -> (B, T, H, d)."""
    z: Any = _CausalAttention.apply(q, k, v, segments)
    return z


def cross_entropy_(logits: Tensor, targets: Tensor, losses: Tensor) -> None:
    """Turn logits (N, V) into the slope of their loss, softmax - onehot, and fill the losses (N), fp32.

    Both are 0 where the target is negative.
    """
    _cross_entropy(logits, targets, losses, slopes=True)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The losses alone (N), fp32, of logits (N, V), without a gradient; 0 where the target is negative."""
    losses = torch.empty(len(logits), dtype=torch.float32)
    _cross_entropy(logits.contiguous(), targets.contiguous(), losses, slopes=False)
    return losses


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        y, slope = torch.empty_like(x), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        pointers = (x.data_ptr(), y.data_ptr(), slope.data_ptr() if slope is not None else None)
        _library().gpt2_gelu(*pointers, x.numel(), _TYPES[x.dtype], _threads())
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        q, k, v = _alike(q, k, v)
        z = q.new_empty(q.shape)
        log_sums = torch.empty(q.shape[:3], dtype=torch.float32)
        _attend(q, k, v, segments, z, log_sums)
        ctx.segments = segments
        ctx.save_for_backward(q, k, v, z, log_sums)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, z, log_sums = ctx.saved_tensors
        slopes = [q.new_empty(q.shape) for _ in range(3)]
        _attend(q, k, v, ctx.segments, z, log_sums, grads[0].contiguous(), *slopes)
        return slopes[0], slopes[1], slopes[2], None


def _alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tokens at one distance in all, heads side by side; copied where they are not."""
    _, time, _, dim = tensors[0].shape
    step = tensors[0].stride(1)
    if all(x.stride() == (time * step, step, dim, 1) for x in tensors):
        return tensors
    return tuple(x.contiguous() for x in tensors)


def _attend(q: Tensor, k: Tensor, v: Tensor, segments: Segments, *others: Tensor) -> None:
    _, _, heads, dim = q.shape
    starts = segments.starts
    call = _Attention(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), starts.data_ptr(), len(starts) - 1, heads, dim, q.stride(1),
        _TYPES[q.dtype], _threads(), *(x.data_ptr() for x in others),
    )  # fmt: skip
    _library().gpt2_attention(ctypes.byref(call))


def _cross_entropy(logits: Tensor, targets: Tensor, losses: Tensor, slopes: bool) -> None:
    pointers = (logits.data_ptr(), targets.data_ptr(), losses.data_ptr())
    _library().gpt2_cross_entropy(*pointers, slopes, *logits.shape, _TYPES[logits.dtype], _threads())


def _library() -> native.Library:
    library, reason = native.library()
    if library is None:
        raise RuntimeError(f"the compiled operations are missing: {reason}")
    return library


def _threads() -> int:
    return torch.get_num_threads()
