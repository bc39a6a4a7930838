"""The rest of the model, from a layer on: an intervention in layer 5 need not compute layers 0 to 4 again."""

import torch
from torch import Tensor

from gpt2.model import GPT2
from gpt2.model.ops import Tap, scope


def from_layer(model: GPT2, layer: int, stream: Tensor, tap: Tap | None = None) -> Tensor:
    """Stream before a layer (B, T, D), or after the last one, to the normalised end (B, T, D)."""
    with model.evaluating():
        for i, block in enumerate(list(model.transformer.h)[layer:], layer):
            stream = block(stream, tap=scope(tap, f"blocks.{i}"))
        return model.transformer.ln_f(stream, scope(tap, "ln_final"))


def from_middle(model: GPT2, layer: int, stream: Tensor) -> Tensor:
    """Stream between a layer's attention and its MLP (B, T, D) to the normalised end (B, T, D)."""
    block = model.transformer.h[layer]
    with model.evaluating():
        return from_layer(model, layer + 1, stream + block.mlp(block.ln_2(stream)))  # pyright: ignore


def logits_at(model: GPT2, hidden: Tensor, position: int) -> Tensor:
    """Normalised end (B, T, D) to logits after one position (B, V)."""
    return model.kernels.unembed(hidden[:, position], model.transformer.wte.weight).float()


def token_losses(model: GPT2, hidden: Tensor, targets: Tensor) -> Tensor:
    """Normalised end (B, T, D) and targets (B, T) to losses (B, T) in nats; never all logits at once."""
    rows, wanted = hidden.flatten(0, 1), targets.flatten()
    weight, kernels = model.transformer.wte.weight, model.kernels
    size = max(1, 2**24 // weight.shape[0])
    parts = zip(rows.split(size), wanted.split(size), strict=True)
    losses = [kernels.cross_entropy(kernels.unembed(part, weight), target) for part, target in parts]
    return torch.cat(losses).view(targets.shape)
