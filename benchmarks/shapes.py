"""The two shapes that everything is measured at, and their data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2 import GPT2, GPT2Config


@dataclass(frozen=True)
class Shape:
    """A model and a training batch."""

    name: str
    config: GPT2Config
    batch: int
    time: int

    @property
    def tokens(self) -> int:
        """Tokens of a training step."""
        return self.batch * self.time


SHAPES = {
    "6x512": Shape("6x512", GPT2Config(), batch=16, time=256),
    "4x128": Shape(
        "4x128",
        GPT2Config(vocab_size=4096, context_length=512, d_model=128, num_layers=4, num_heads=4),
        batch=32,
        time=256,
    ),
}


def weights(shape: Shape) -> dict[str, Tensor]:
    """The same weights for every tool, under Hugging Face's names. A new model would only repeat its last token, so
    the blocks and positions are made strong enough to change it.
    """
    generator = torch.Generator().manual_seed(1)
    model = GPT2(shape.config, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "wte" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def our_model(shape: Shape, kernels: str = "fused") -> GPT2:
    """The package's GPT-2 with the common weights."""
    model = GPT2(shape.config, kernels)
    model.load_state_dict(weights(shape))
    return model


def batch(shape: Shape) -> tuple[Tensor, Tensor]:
    """(ids, targets), both (B, T) long: random ids, for the time does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.config.vocab_size, (shape.batch, shape.time + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
