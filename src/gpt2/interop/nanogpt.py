"""nanoGPT's `ckpt.pt` as a GPT-2 of ours.

    {"model": weights, "model_args": {n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout}, ...}

It is GPT-2 with three differences. Its linear weights are (out, in), ours (in, out): transposed. Its biases may be
left out: zeros compute the same. Its GELU is exact, GPT-2's is the tanh form: that stays, and `gelu_difference`
measures what it does to the predictions.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from gpt2.config import GPT2Config
from gpt2.errors import CheckpointError, ConfigError
from gpt2.interop.parity import log_probabilities, our_logits
from gpt2.model import GPT2
from gpt2.model.pretrained import load_weights
from gpt2.model.weight_files import require_tensors

_SHAPE = {
    "vocab_size": "vocab_size",
    "block_size": "context_length",
    "n_embd": "d_model",
    "n_layer": "num_layers",
    "n_head": "num_heads",
}
_TRANSPOSED = (".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight")
_COMPILED = "_orig_mod."  # torch.compile puts it before every name


def is_nanogpt(content: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is what nanoGPT's training script saves."""
    return isinstance(content, dict) and {"model", "model_args"} <= content.keys()


def model_of(content: dict[str, Any], path: Path) -> GPT2:
    """The model of a checkpoint.

    Args:
        content: what `torch.load` gave.
        path: where it came from, for messages.

    Raises:
        ConfigError: the shape is missing or out of range.
        CheckpointError: weights are missing, unknown or misshapen.
    """
    arguments = content["model_args"]
    missing = [name for name in _SHAPE if not isinstance(arguments, dict) or name not in arguments]
    if missing:
        raise ConfigError(f"the model_args of {path} lack {', '.join(missing)}; is it a checkpoint of nanoGPT?")
    bias = arguments.get("bias", True)
    if not isinstance(bias, bool):
        raise ConfigError(f"bias in the model_args of {path} must be True or False, not {type(bias).__name__}")
    shape = {ours: arguments[theirs] for theirs, ours in _SHAPE.items()}
    config = GPT2Config(**shape, dropout=arguments.get("dropout", 0.0))
    state = {}
    for name, tensor in require_tensors(content["model"], path).items():
        name = name.removeprefix(_COMPILED)
        if name.endswith(_TRANSPOSED) and tensor.ndim == 2:
            tensor = tensor.T
        state[name] = tensor
    with torch.device("meta"):
        model = GPT2(config)
    if not bias:
        _add_zero_biases(state, model, path)
    load_weights(model, state)
    return model.eval()


def gelu_difference(model: GPT2, rows: list[list[int]]) -> tuple[float, float]:
    """What the tanh form changes: (mean KL divergence, largest difference of a log-probability), both in nats.

    Exact predictions against the model's own, at every position of `rows`.
    """
    with torch.device("meta"):
        exact = GPT2(model.config, dataclasses.replace(model.kernels, gelu=_exact_gelu))
    exact.load_state_dict(model.state_dict(), assign=True)
    exact.eval()
    divergences, largest = [], 0.0
    for row in rows:
        p, q = log_probabilities(our_logits(exact, row)), log_probabilities(our_logits(model, row))
        divergences.append((p.exp() * (p - q)).sum(-1))
        largest = max(largest, (p - q).abs().max().item())
    return torch.cat(divergences).mean().item(), largest


def _add_zero_biases(state: dict[str, Tensor], model: GPT2, path: Path) -> None:
    for name, parameter in model.named_parameters():
        is_bias = name.endswith(".bias")
        if is_bias and name in state:
            raise CheckpointError(f"the model_args of {path} say bias=False, but it has {name}")
        if is_bias:
            state[name] = torch.zeros(parameter.shape)


def _exact_gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's cumulative probability of x (Hendrycks and Gimpel, 2016, section 2)."""
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))
