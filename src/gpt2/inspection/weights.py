"""The weights as the analyses need them: by head, by neuron, by row of the vocabulary."""

import torch
from torch import Tensor

from gpt2.config import LAYER_NORM_EPSILON
from gpt2.errors import ConfigError
from gpt2.model import GPT2
from gpt2.model.ops import reference


def head_output(model: GPT2, layer: int) -> Tensor:
    """W_O by head: (H, d, D); head h adds z[h] @ head_output[h] to the stream."""
    attention = model.transformer.h[layer].attn
    return attention.c_proj.weight.detach().view(attention.num_heads, attention.head_dim, -1)  # pyright: ignore


def unembedding(model: GPT2) -> Tensor:
    """W_U, the embedding again: (V, D)."""
    return model.transformer.wte.weight.detach()


def final_norm(model: GPT2) -> tuple[Tensor, Tensor]:
    """Scale and shift of the last norm: (D), (D)."""
    norm = model.transformer.ln_f
    return norm.weight.detach(), norm.bias.detach()


def unembed(model: GPT2, stream: Tensor) -> Tensor:
    """Residual stream (..., D) to logits (..., V) through the final norm, with statistics of its own."""
    gamma, beta = final_norm(model)
    return reference.unembed(
        reference.layer_norm(stream, gamma, beta, LAYER_NORM_EPSILON), unembedding(model)
    ).float()  # fmt: skip


def log_softmax(logits: Tensor) -> Tensor:
    """ln softmax over the last axis, in fp32."""
    logits = logits.float()
    return logits - torch.logsumexp(logits, dim=-1, keepdim=True)


def require_layer(model: GPT2, layer: int) -> int:
    """A layer's number, counted from 0; negative ones count from the end.

    Raises:
        ConfigError: there is no such layer.
    """
    return _index("layer", layer, model.config.num_layers)


def require_head(model: GPT2, layer: int, head: int) -> tuple[int, int]:
    """A head's layer and number, both from 0; negative ones count from the end.

    Raises:
        ConfigError: there is no such head.
    """
    return require_layer(model, layer), _index("head", head, model.config.num_heads)


def require_position(position: int, time: int) -> int:
    """A position in a text of `time` tokens, from 0; negative ones count from the end.

    Raises:
        ConfigError: the text has no such position.
    """
    return _index("position", position, time)


def _index(what: str, number: int, count: int) -> int:
    if not -count <= number < count:
        raise ConfigError(f"there is no {what} {number}: they go from 0 to {count - 1}, or from -{count} to -1")
    return number % count
