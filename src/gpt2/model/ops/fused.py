"""The same functions on PyTorch's fast kernels. Each is held equal to `reference` by a test.

The only file of the package that may use `torch.nn.functional`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2.model.ops import IGNORED, Tap, causal_mask, cpu_attention, cpu_native, reference
from gpt2.model.segments import Segments

# Numbers from which on a forward pass alone takes the compiled operations. A rule, no measurement: the same call must
# always round alike.
_MUCH = 2**17
# Logits alive at once in the loss, and rows of them at least: each such block reads the whole table, and adds to its
# gradient.
_LOSS_LOGITS = {"cpu": 2**23, "cuda": 2**27, "mps": 2**24}
_LOSS_ROWS = 512


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """See `reference.embedding`."""
    return F.embedding(ids, weight)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `reference.linear`; bias and product in one call."""
    if bias is None:
        return x @ weight.to(x.dtype)
    flat = torch.addmm(bias.to(x.dtype), x.reshape(-1, x.shape[-1]), weight.to(x.dtype))
    return flat.view(*x.shape[:-1], weight.shape[1])


def unembed(x: Tensor, weight: Tensor) -> Tensor:
    """See `reference.unembed`."""
    return F.linear(x, weight.to(x.dtype))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, tap: Tap | None = None) -> Tensor:
    """See `reference.layer_norm`; when tapped it takes that road, for a fused kernel shows no scale."""
    if tap is not None:
        return reference.layer_norm(x, weight, bias, epsilon, tap)
    return F.layer_norm(x, (x.shape[-1],), weight.to(x.dtype), bias.to(x.dtype), epsilon)


def gelu(x: Tensor) -> Tensor:
    """See `reference.gelu`."""
    if (_trains(x) or _is_much(x)) and cpu_native.suits(x):
        return cpu_native.gelu(x)
    return F.gelu(x, approximate="tanh")


def dropout(x: Tensor, p: float) -> Tensor:
    """See `reference.dropout`."""
    return F.dropout(x, p, training=True)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments | None = None,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    tap: Tap | None = None,
) -> Tensor:
    """See `reference.attention`; when tapped it takes that road, for a fused kernel has no pattern."""
    if tap is not None:
        return reference.attention(q, k, v, segments, mask, dropout, tap)
    queries, keys = q.shape[1], k.shape[1]
    whole = mask is None and queries == keys
    if whole and dropout == 0.0 and (_trains(q) or (segments and _is_much(q))) and cpu_native.suits(q):
        return cpu_native.causal_attention(q, k, v, segments or Segments([queries] * q.shape[0]))
    if whole and _suits_cpu_attention(q, segments):
        return cpu_attention.causal_attention(q, k, v, segments or Segments([queries] * q.shape[0]), dropout)
    if whole and segments is not None:
        return _packed_attention(q, k, v, segments, dropout)
    if mask is None and not whole and queries > 1:
        mask = causal_mask(queries, keys, q.device)
    return _scaled_dot_product(q, k, v, mask, dropout, is_causal=whole)


def _suits_cpu_attention(q: Tensor, segments: Segments | None) -> bool:
    longest = q.shape[1] if segments is None else max(segments.lengths)
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and longest <= cpu_attention.LONGEST and _trains(q)


def _trains(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _is_much(x: Tensor) -> bool:
    """Worth a compiled operation where nothing is trained: scoring documents, not one prompt."""
    return x.numel() >= _MUCH and not torch.compiler.is_compiling()


def _scaled_dot_product(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, is_causal: bool
) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal)
    return z.transpose(1, 2)


def _packed_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, dropout: float) -> Tensor:
    """Attention inside each document of a packed batch, without a mask and nearly without padding.

    Documents of similar length form a group, padded at the end to its longest. No real query sees
    the padding, which lies in its future, so plain causal attention on the group is exact.
    """
    shape = q.shape
    groups = segments.groups(q.device)
    sizes = [group.tokens.stop - group.tokens.start for group in groups]
    parts = [tensor.reshape(-1, *shape[2:]).split(sizes) for tensor in (q, k, v)]
    outputs = []
    for group, *qkv in zip(groups, *parts, strict=True):
        padded = [group.pad(tensor) for tensor in qkv]  # (documents, longest, H, d)
        z = _scaled_dot_product(*padded, mask=None, dropout=dropout, is_causal=True)
        outputs.append(group.unpad(z))
    return torch.cat(outputs).view(shape)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """See `reference.cross_entropy`."""
    if _is_much(logits) and not _trains(logits) and cpu_native.suits(logits):
        return cpu_native.cross_entropy(logits, targets)
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """See `reference.linear_cross_entropy`; the logits of the whole batch never exist at once."""
    loss: Any = _LinearCrossEntropy.apply(x, weight, targets)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradient together, a block of rows at a time.

    The gradient of the loss by a row's logits, softmax(logits) - onehot(target), is at hand when
    the loss is, so both products of the backward pass are taken at once and the logits forgotten:
    three matrix products as ever, but no (N, V) tensor and no second softmax.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        w = weight.to(x.dtype)
        wants_gradient = x.requires_grad or weight.requires_grad
        grad_x = torch.empty_like(x) if wants_gradient else None
        grad_w = torch.zeros_like(weight, dtype=torch.float32) if wants_gradient else None
        total = torch.zeros((), dtype=torch.float32, device=x.device)
        size = max(_LOSS_ROWS, _LOSS_LOGITS.get(x.device.type, 2**24) // w.shape[0])
        for start in range(0, x.shape[0], size):
            rows = slice(start, start + size)
            losses, slope = _losses_and_slope(F.linear(x[rows], w), targets[rows])
            total += losses.sum()
            if grad_x is not None and grad_w is not None:
                torch.mm(slope, w, out=grad_x[rows])
                if slope.dtype == grad_w.dtype:
                    grad_w.addmm_(slope.T, x[rows])
                else:
                    grad_w += slope.T @ x[rows]
        ctx.save_for_backward(grad_x, grad_w)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        grad_x, grad_w = ctx.saved_tensors
        return grad_x * grad.to(grad_x.dtype), (grad_w * grad).to(ctx.weight_dtype), None


def _losses_and_slope(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of logits (N, V): its loss, fp32, and the gradient of it, which takes the logits' memory."""
    if cpu_native.suits(logits):
        losses = torch.empty(len(logits), dtype=torch.float32)
        cpu_native.cross_entropy_(logits, targets, losses)
        return losses, logits
    target = targets.unsqueeze(-1)
    counted, target = target != IGNORED, target.clamp(min=0)
    share = torch.softmax(logits, dim=-1)
    # The likeliest token's share is never tiny, so its logarithm is exact enough for the sum of all.
    log_total = logits.amax(-1, keepdim=True).float() - share.amax(-1, keepdim=True).float().log()
    losses = torch.where(counted, log_total - logits.gather(-1, target).float(), 0.0)
    slope = share.scatter_add_(-1, target, share.new_full((), -1.0).expand_as(target))
    return losses, slope if counted.all() else slope * counted
