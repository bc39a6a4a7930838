"""The parts without attention: linear map, embedding, normalisation, dropout, MLP.

Each holds its parameters and hands the mathematics to the kernels it was given.
"""

import torch
from torch import Tensor, nn

from gpt2.config import LAYER_NORM_EPSILON, GPT2Config
from gpt2.model.ops import Kernels, Tap


class Linear(nn.Module):
    """y = x W + b. The weight is (in, out), OpenAI's layout (Hugging Face calls the class Conv1D)."""

    def __init__(self, in_features: int, out_features: int, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.kernels.linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """A table with a row for each id."""

    def __init__(self, rows: int, d_model: int, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(rows, d_model))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) long -> (B, T, D)."""
        return self.kernels.embedding(ids, self.weight)


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the features, then a learned scale and shift."""

    def __init__(self, d_model: int, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(d_model))
        self.bias = nn.Parameter(torch.empty(d_model))

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.kernels.layer_norm(x, self.weight, self.bias, LAYER_NORM_EPSILON, tap)


class Dropout(nn.Module):
    """Zeroes a share p of its input while training; does nothing otherwise."""

    def __init__(self, p: float, kernels: Kernels) -> None:
        super().__init__()
        self.p, self.kernels = p, kernels

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self.kernels.dropout(x, self.p) if self.training and self.p > 0.0 else x


class MLP(nn.Module):
    """Each token on its own: widen four times, GELU, narrow again."""

    def __init__(self, config: GPT2Config, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.c_fc = Linear(config.d_model, 4 * config.d_model, kernels)
        self.c_proj = Linear(4 * config.d_model, config.d_model, kernels)
        self.dropout = Dropout(config.dropout, kernels)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.c_fc(x)
        if tap is not None:
            x = tap("hook_pre", x)  # (B, T, 4D)
        x = self.kernels.gelu(x)
        if tap is not None:
            x = tap("hook_post", x)  # (B, T, 4D)
        return self.dropout(self.c_proj(x))
