"""A GPT-2 as the field writes it by hand in PyTorch: the plan of nanoGPT (github.com/karpathy/nanoGPT).

Written anew from its description: one product for q, k and v, `scaled_dot_product_attention`, tied head, decay on
matrices only, fused AdamW, autocast, torch.compile. With biases, so that it is GPT-2 and takes GPT-2's weights.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2 import GPT2Config


class _Attention(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.c_attn = nn.Linear(config.d_model, 3 * config.d_model)
        self.c_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape
        q, k, v = (
            part.view(size[0], size[1], self.heads, -1).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1)
        )
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(z.transpose(1, 2).reshape(size))


class _Block(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(config.d_model), nn.LayerNorm(config.d_model)
        self.attn = _Attention(config)
        self.mlp = nn.ModuleDict({
            "c_fc": nn.Linear(config.d_model, 4 * config.d_model),
            "c_proj": nn.Linear(4 * config.d_model, config.d_model),
        })  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        hidden = F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.mlp["c_proj"](hidden)


class NanoGPT(nn.Module):
    """(ids (B, T), targets (B, T)) -> mean loss."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, config.d_model),
            "wpe": nn.Embedding(config.context_length, config.d_model),
            "h": nn.ModuleList(_Block(config) for _ in range(config.num_layers)),
            "ln_f": nn.LayerNorm(config.d_model),
        })  # fmt: skip
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                depth = math.sqrt(2 * config.num_layers) if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / depth)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1], device=ids.device))
        for block in self.transformer["h"]:
            x = block(x)
        logits = self.lm_head(self.transformer["ln_f"](x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))

    def load(self, weights: Mapping[str, Tensor]) -> "NanoGPT":
        """Take GPT-2's weights; its matrices are (in, out), `nn.Linear`'s are (out, in)."""
        self.load_state_dict({**_turned(weights), "lm_head.weight": weights["transformer.wte.weight"]})
        return self

    def weights(self) -> dict[str, Tensor]:
        """The weights under GPT-2's names and in its layout."""
        return _turned({name: value for name, value in self.state_dict().items() if name != "lm_head.weight"})


def _turned(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    matrices = ("c_attn.weight", "c_fc.weight", "c_proj.weight")
    return {name: value.T if name.endswith(matrices) else value for name, value in weights.items()}


def adamw(model: nn.Module, lr: float = 1e-3, weight_decay: float = 0.1) -> torch.optim.AdamW:
    """Fused AdamW, decay on matrices and embeddings only."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
