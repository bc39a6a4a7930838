"""Which optimizer updates which parameter, and the recipe's numbers. The table behind them: docs/recipe.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gpt2.training.adamw import AdamW
from gpt2.training.muon import Muon


class Optimizer(Protocol):
    """What the trainer asks of an optimizer."""

    def step(self, factor: float = 1.0) -> None:
        """One update at the learning rate times `factor`."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        ...


@dataclass(frozen=True)
class Recipe:
    """Numbers that go with an optimizer; `None` of the settings stands for these."""

    lr: float
    weight_decay: float
    decay: str
    hold: float
    floor: float
    grad_clip: float | None


RECIPES = {
    "muon": Recipe(lr=0.02, weight_decay=0.1, decay="linear", hold=0.5, floor=0.0, grad_clip=None),
    # GPT-2's own kind of recipe, as the field trains it: cosine to a tenth, clipped.
    "adamw": Recipe(lr=2e-3, weight_decay=0.1, decay="cosine", hold=0.0, floor=0.1, grad_clip=1.0),
}

# A trained model is disturbed less by a lower rate.
FINE_TUNING_SHARE = 0.2

# Muon's recipe: AdamW's learning rates for the rest, as shares of Muon's. The token embedding is the output layer too,
# and one step of it changes the logits in proportion to the width, so beyond this width its rate falls as 1 / width.
_EMBEDDING_WIDTH = 256
_VECTOR_SHARE = 0.5


class Together:
    """Several optimizers that step as one."""

    def __init__(self, parts: Mapping[str, Optimizer]) -> None:
        self.parts = dict(parts)

    def step(self, factor: float = 1.0) -> None:
        """Step each."""
        for part in self.parts.values():
            part.step(factor)

    def state_dict(self) -> dict[str, Tensor]:
        """All states, under `part/`."""
        return {f"{name}/{key}": value for name, part in self.parts.items() for key, value in part.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give each its own."""
        for name, part in self.parts.items():
            prefix = f"{name}/"
            part.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def build_optimizer(
    model: nn.Module | Mapping[str, Tensor], name: str, lr: float, weight_decay: float, **of_muon: Any
) -> Together:
    """The optimizer called `name` for a GPT-2, its parameters told apart by name and shape.

    Args:
        model: or its parameters under GPT-2's names, or some rows of each.
        name: "muon": Muon for the blocks' matrices, AdamW for embeddings, norms and biases;
            "adamw": AdamW for all, with decay for matrices and embeddings only.
        lr: peak learning rate; Muon's recipe derives the other parts' rates from it.
        weight_decay: of the matrices and the embeddings.
        **of_muon: `dtype` of `Muon`, and what several processes need besides: its `shapes` and `deal`.
    """
    hidden, tables, vectors = parameter_groups(model if isinstance(model, Mapping) else dict(model.named_parameters()))
    if name == "adamw":
        return Together({
            "matrices": AdamW({**tables, **hidden}, lr, weight_decay=weight_decay),
            "vectors": AdamW(vectors, lr),
        })  # fmt: skip
    betas, eps = (0.9, 0.95), 1e-10  # rows of rare tokens have tiny gradients: a larger eps would stall them
    width = next(iter(tables.values())).shape[1]
    return Together({
        "hidden": Muon(hidden, lr, weight_decay=weight_decay, splits={"c_attn.weight": 3}, **of_muon),
        "tables": AdamW(tables, lr * min(1.0, _EMBEDDING_WIDTH / width), betas, eps, weight_decay),
        "vectors": AdamW(vectors, lr * _VECTOR_SHARE, betas, eps),
    })  # fmt: skip


def parameter_groups(parameters: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
    """(matrices inside the blocks, embeddings, norms and biases) of a GPT-2, by name."""
    hidden = {name: p for name, p in parameters.items() if p.ndim == 2 and ".h." in name}
    tables = {name: p for name, p in parameters.items() if p.ndim == 2 and ".h." not in name}
    return hidden, tables, {name: p for name, p in parameters.items() if p.ndim < 2}


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together: scalar, fp32."""
    norms = [p.grad.norm().float() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())
