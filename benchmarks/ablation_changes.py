"""The recipe as numbers that can be changed one at a time, and the changes that are tried."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt2.training.adamw import AdamW
from gpt2.training.muon import Muon, Tensors
from gpt2.training.optimizers import Together, build_optimizer, parameter_groups

TOKENS = 1_048_576
"""That each run trains on."""
UNIT = 2048
"""Tokens of a step."""


class NorMuon(Muon):
    """Each output's direction divided by its running size, the matrix's own size kept (Li et al., 2025)."""

    beta = 0.95

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.second: dict[tuple[str, int], Tensor] = {}
        self.steps_done = 0

    def _directions(self, updates: Tensors) -> Tensors:
        directions = super()._directions(updates)
        self.steps_done += 1
        for name, direction in directions.items():
            for number, part in enumerate(direction.chunk(self._parts[name], dim=1)):
                square = part.square().mean(dim=0, keepdim=True)
                mean = self.second.setdefault((name, number), torch.zeros_like(square)).lerp_(square, 1 - self.beta)
                even = part / (mean / (1 - self.beta**self.steps_done)).sqrt().clamp_min(1e-10)
                part.copy_(even * (part.norm() / even.norm().clamp_min(1e-10)))
        return directions


def _nothing(parameters: Mapping[str, Tensor]) -> None:
    """The model's own initialisation."""


def _zero_projections(parameters: Mapping[str, Tensor]) -> None:
    """Every block begins as the identity."""
    for name, parameter in parameters.items():
        if name.endswith("c_proj.weight"):
            parameter.data.zero_()


@dataclass(frozen=True)
class Recipe:
    """What the runs began from: as `gpt2 train` has it, but for the embeddings' rate, which has been doubled since."""

    adamw: float | None = None  # AdamW for all, at this rate
    muon: type[Muon] = Muon
    lr: float = 0.02
    embeddings: float = 0.5
    vectors: float = 0.5
    weight_decay: float = 0.1
    embedding_decay: float = 0.1
    momentum: float = 0.95
    iterations: int = 5
    apart: bool = True
    warmup: float = 0.01
    decay: str = "linear"
    hold: float = 0.5
    floor: float = 0.0
    clip: float | None = None
    dropout: float = 0.0
    unit: int = UNIT
    units: Callable[[float], int] = lambda progress: 1
    initialize: Callable[[Mapping[str, Tensor]], None] = _nothing

    def optimizer(self, parameters: Mapping[str, Tensor]) -> Together:
        """For a GPT-2's parameters."""
        if self.adamw:
            return build_optimizer(parameters, "adamw", self.adamw, self.weight_decay)
        hidden, tables, vectors = parameter_groups(parameters)
        betas = (0.9, 0.95)
        splits = {"c_attn.weight": 3} if self.apart else {}
        return Together({
            "hidden": self.muon(
                hidden, self.lr, self.momentum, self.weight_decay, self.iterations, splits, torch.float32
            ),
            "tables": AdamW(tables, self.lr * self.embeddings, betas, 1e-10, self.embedding_decay),
            "vectors": AdamW(vectors, self.lr * self.vectors, betas, 1e-10),
        })  # fmt: skip


def _adamw(rate: float) -> Recipe:
    return Recipe(adamw=rate, decay="cosine", hold=0.0, floor=0.1, clip=1.0)


CHANGES = {
    "the recipe": Recipe(),
    "NorMuon": Recipe(muon=NorMuon),
    "decay from the start, linear": Recipe(hold=0.0),
    "decay from the start, cosine": Recipe(hold=0.0, decay="cosine"),
    "AdamW for all, rate 0.002, cosine to a tenth, clipped at 1": _adamw(0.002),
    "AdamW for all, rate 0.004, cosine to a tenth, clipped at 1": _adamw(0.004),
    "3 Newton-Schulz steps": Recipe(iterations=3),
    "batches of 1,024 tokens": Recipe(unit=UNIT // 2),
    "batches of 4,096 tokens": Recipe(unit=UNIT * 2),
    "batches of 1,024 tokens in the first third, 2,048, 4,096 in the last": Recipe(
        unit=UNIT // 2, units=lambda progress: 1 if progress < 1 / 3 else 2 if progress < 2 / 3 else 4
    ),
    "rates 1.5 times as high": Recipe(lr=0.03),
    "rates twice as high": Recipe(lr=0.04),
    "rates half as high": Recipe(lr=0.01),
    "embeddings' rate half as high": Recipe(embeddings=0.25),
    "embeddings' rate twice as high": Recipe(embeddings=1.0),
    "embeddings' rate four times as high": Recipe(embeddings=2.0),
    "embeddings' rate eight times as high": Recipe(embeddings=4.0),
    "matrices' rate 0.75 times as high, embeddings' twice": Recipe(lr=0.015, embeddings=4 / 3, vectors=2 / 3),
    "norms' and biases' rate twice as high": Recipe(vectors=1.0),
    "norms' and biases' rate half as high": Recipe(vectors=0.25),
    "matrices' rate 1.5 times as high, embeddings' as before": Recipe(lr=0.03, embeddings=1 / 3),
    "no weight decay": Recipe(weight_decay=0.0, embedding_decay=0.0),
    "embeddings do not decay": Recipe(embedding_decay=0.0),
    "query, key and value orthogonalised as one matrix": Recipe(apart=False),
    "constant for three quarters of the run": Recipe(hold=0.75),
    "momentum 0.9": Recipe(momentum=0.9),
    "warm-up over 5 %": Recipe(warmup=0.05),
    "residual projections begin at zero": Recipe(initialize=_zero_projections),
    "dropout 0.1": Recipe(dropout=0.1),
    "4 Newton-Schulz steps": Recipe(iterations=4),
}
