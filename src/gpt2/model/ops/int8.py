"""Weights in 8 bits: one factor per column of a matrix, the rest stays as it is."""

import copy
from typing import Any

import torch
from torch import Tensor

MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(in, out) -> int8 (in, out) and fp32 (out), with weight about int8 * factor; exact when done twice.

    The largest magnitude of a column becomes 127 (Dettmers et al., 2022, section 2.1, "absmax").
    """
    weight = weight.float()
    scale = weight.abs().amax(dim=0).clamp(min=1e-20) / 127
    return (weight / scale).round().to(torch.int8), scale


def rounded(model: Any) -> Any:
    """A copy of a GPT-2 whose matrices, and the embeddings as output, hold only what 8 bits can.

    It runs everywhere like any model, and decodes with one byte per weight where that is possible.
    """
    made = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(MATRICES):
                values, scale = quantize(parameter)
                parameter.copy_(values * scale)
            elif name == "transformer.wte.weight":  # a token's row is a column of the output
                values, scale = quantize(parameter.T)
                parameter.copy_((values * scale).T)
    made.decoding_dtype = torch.int8
    return made
