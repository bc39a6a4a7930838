"""Muon by hand: momentum whose every direction is made equally long."""

from collections.abc import Mapping

import torch
from torch import Tensor

# Quintic whose iteration drives every singular value into about [0.7, 1.2]; from Jordan et al., 2024.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Replace each matrix U S V^T by roughly U V^T, by Newton-Schulz iteration in bfloat16.

    Args:
        matrices: (count, rows, columns), rows <= columns.
        steps: iterations; each maps the singular values s to a s + b s^3 + c s^5.
        eps: keeps a zero matrix finite.

    Returns:
        Same shape, bfloat16.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


class Muon:
    """Momentum, orthogonalised (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/).

    m = mu m + (1 - mu) g,  u = (1 - mu) g + mu m,  w = w - lr wd w - lr sqrt(max(1, out / in)) orth(u)

    Only for the hidden matrices; embeddings, norms and biases belong to AdamW. All matrices of one
    shape are iterated together. A joint query-key-value matrix (in, 3 out) is three matrices.

    Args:
        parameters: name -> matrix (in, out).
        lr: learning rate; the update's spectral norm, so it hardly depends on the width.
        momentum: mu.
        weight_decay: pulls the weights to zero, in units of lr.
        steps: Newton-Schulz iterations.
        splits: name ending -> number of matrices side by side in one parameter.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        splits: Mapping[str, int] | None = None,
    ) -> None:
        self.parameters = dict(parameters)
        self.lr, self.momentum, self.weight_decay, self.newton_schulz_steps = (
            lr,
            momentum,
            weight_decay,
            steps,
        )
        self.mean = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        splits = splits or {}
        self._parts = {
            name: next((count for ending, count in splits.items() if name.endswith(ending)), 1)
            for name in self.parameters
        }

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One update at the learning rate `lr * factor`; parameters without a gradient stay."""
        lr = self.lr * factor
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor, float]]] = {}
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            mean = self.mean[name]
            mean.lerp_(parameter.grad, 1 - self.momentum)
            update = parameter.grad.lerp(mean, self.momentum)  # Nesterov's look ahead
            if self.weight_decay:
                parameter.mul_(1 - lr * self.weight_decay)
            parts = self._parts[name]
            for weight, part in zip(parameter.chunk(parts, dim=1), update.chunk(parts, dim=1), strict=True):
                inputs, outputs = part.shape
                if inputs > outputs:
                    weight, part = weight.T, part.T
                size = lr * max(1.0, outputs / inputs) ** 0.5
                by_shape.setdefault(tuple(part.shape), []).append((weight, part, size))
        for alike in by_shape.values():
            updates = orthogonalize(torch.stack([part for _, part, _ in alike]), self.newton_schulz_steps)
            for (weight, _, size), update in zip(alike, updates, strict=True):
                weight.add_(update.to(weight.dtype), alpha=-size)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name."""
        return {f"{name}.momentum": value for name, value in self.mean.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; other optimizers' entries are passed over."""
        for name in self.parameters:
            self.mean[name].copy_(state[f"{name}.momentum"])
