"""The weights before training, as in GPT-2."""

import math

import torch
from torch import nn

from gpt2.config import GPT2Config

WEIGHT_STD = 0.02
POSITION_STD = 0.01


@torch.no_grad()
def initialize(model: nn.Module, config: GPT2Config, generator: torch.Generator | None = None) -> None:
    """Draw every parameter afresh, in the order of their names' appearance; those on the meta device have no content.

    Weights N(0, 0.02), positions N(0, 0.01) (OpenAI's code), biases 0, norms 1. The two projections
    that write to the residual stream are scaled by 1 / sqrt(2 L), so that its variance does not grow
    with depth (Radford et al., 2019, section 2.3; OpenAI's released code leaves this out).

    Args:
        model: parameters under GPT-2's names.
        config: its shape; L is read from it.
        generator: source of the draws; None: PyTorch's default one.
    """
    residual_std = WEIGHT_STD / math.sqrt(2 * config.num_layers)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:  # drawing there would load PyTorch's compiler, which takes over a second
            continue
        if name.endswith("bias"):
            parameter.zero_()
        elif ".ln_" in name:
            parameter.fill_(1.0)
        elif name.endswith("wpe.weight"):
            parameter.normal_(0.0, POSITION_STD, generator=generator)
        elif name.endswith("c_proj.weight"):
            parameter.normal_(0.0, residual_std, generator=generator)
        else:
            parameter.normal_(0.0, WEIGHT_STD, generator=generator)
