"""Causal self-attention: every token asks, every earlier token answers."""

from torch import Tensor, nn

from gpt2.config import GPT2Config
from gpt2.model.kv_cache import LayerCache
from gpt2.model.layers import Dropout, Linear
from gpt2.model.ops import Kernels, Tap
from gpt2.model.segments import Segments


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and its past (Vaswani et al., 2017)."""

    def __init__(self, config: GPT2Config, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.num_heads, self.head_dim, self.p = config.num_heads, config.head_dim, config.dropout
        self.c_attn = Linear(config.d_model, 3 * config.d_model, kernels)
        self.c_proj = Linear(config.d_model, config.d_model, kernels)
        self.dropout = Dropout(config.dropout, kernels)

    def forward(
        self,
        x: Tensor,
        segments: Segments | None = None,
        cache: LayerCache | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        batch, time, d_model = x.shape
        qkv = self.c_attn(x).view(batch, time, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.unbind(dim=2)  # (B, T, H, d) each
        if tap is not None:
            q, k, v = tap("hook_q", q), tap("hook_k", k), tap("hook_v", v)
        mask = None
        if cache is not None:
            k, v, mask = cache.append(k, v)  # (B, past + T, H, d)
        dropout = self.p if self.training else 0.0
        z = self.kernels.attention(q, k, v, segments=segments, mask=mask, dropout=dropout, tap=tap)
        if tap is not None:
            z = tap("hook_z", z)
        return self.dropout(self.c_proj(z.reshape(batch, time, d_model)))
