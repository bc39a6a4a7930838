"""Every formula of GPT-2 in elementary tensor operations. Nobody needs more to understand it.

B batch, T queries in time, S keys in time, D d_model, H heads, d head_dim, V vocabulary, N tokens.
"""

import math

import torch
from torch import Tensor

from gpt2.model.ops import IGNORED, Tap, causal_mask
from gpt2.model.segments import Segments


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Row `ids[b, t]` of the table (V, D): (B, T) -> (B, T, D)."""
    return weight[ids]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W + b with W (in, out), as in OpenAI's release."""
    y = x @ weight.to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype)


def unembed(x: Tensor, weight: Tensor) -> Tensor:
    """Logits: the dot product of each state with each token's embedding, (..., D) -> (..., V)."""
    return x @ weight.to(x.dtype).T


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, tap: Tap | None = None) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) * weight + bias over the last axis (Ba et al., 2016).

    The variance divides by D, not D - 1. Statistics are taken in fp32 whatever the type of x.
    """
    wide = x.float()
    centred = wide - wide.mean(dim=-1, keepdim=True)
    scale = (centred.square().mean(dim=-1, keepdim=True) + epsilon).sqrt()
    if tap is not None:
        scale = tap("hook_scale", scale)
    normalized = centred / scale
    if tap is not None:
        normalized = tap("hook_normalized", normalized)
    return (normalized * weight.float() + bias.float()).to(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """The tanh form that GPT-2 was trained with (Hendrycks and Gimpel, 2016, section 2)."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum exp(x) over the last axis; the maximum is taken off first, so nothing overflows."""
    exponentials = (x - x.amax(dim=-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p, scale the rest: the mean stays (Srivastava et al., 2014)."""
    kept = torch.rand_like(x, dtype=torch.float32) >= p
    return x * kept.to(x.dtype) / (1.0 - p)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments | None = None,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    tap: Tap | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for each head (Vaswani et al., 2017, section 3.2).

    Args:
        q: queries (B, T, H, d).
        k: keys (B, S, H, d), S >= T; the last T of them belong to the queries.
        v: values (B, S, H, d).
        segments: documents of a packed batch; a query sees only its own document.
        mask: (B, 1, T, S) bool, true where a query may look; given instead of `segments`.
        dropout: share of the attention weights to zero.
        tap: sees `hook_attn_scores` and `hook_pattern`, both (B, H, T, S).
    """
    batch, queries, _, head_dim = q.shape
    if mask is None:
        mask = causal_mask(queries, k.shape[1], q.device)
        if segments is not None:
            mask = mask & segments.same(batch)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T or S, d)
    scores = (q @ k.transpose(-2, -1)).float() / math.sqrt(head_dim)
    scores = scores.masked_fill(~mask, -torch.inf)
    if tap is not None:
        scores = tap("hook_attn_scores", scores)
    pattern = softmax(scores)
    if tap is not None:
        pattern = tap("hook_pattern", pattern)
    pattern = pattern.to(v.dtype)
    if dropout > 0.0:
        pattern = _dropout(pattern, dropout)
    return (pattern @ v).transpose(1, 2)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target] of each token: (N, V), (N) -> (N) in fp32, 0 where IGNORED."""
    logits = logits.float()
    peak = logits.amax(dim=-1, keepdim=True)
    log_total = (logits - peak).exp().sum(dim=-1).log() + peak.squeeze(-1)
    counted = targets != IGNORED
    chosen = logits.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(counted, log_total - chosen, 0.0)


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of `unembed(x, weight)`: (N, D), (V, D), (N) -> scalar."""
    return cross_entropy(unembed(x, weight), targets).sum()


_dropout = dropout  # the name is an argument of `attention`
