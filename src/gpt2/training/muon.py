"""Muon by hand: momentum whose every direction is made equally long."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

# Quintic whose iteration drives every singular value into about [0.7, 1.2]; from Jordan et al., 2024.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5, eps: float = 1e-7, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Replace each matrix U S V^T by roughly U V^T, by Newton-Schulz iteration.

    Args:
        matrices: (count, rows, columns), rows <= columns.
        steps: iterations; each maps the singular values s to a s + b s^3 + c s^5.
        eps: keeps a zero matrix finite.
        dtype: of the iteration.

    Returns:
        Same shape, in `dtype`.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + eps)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b x x^T + c (x x^T)^2
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a x + polynomial x
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
        dtype: in which the directions are computed and sent. bfloat16 is good enough to learn from, but turns the last
            bit of a gradient's sum, which the number of processes changes, into the eighth of some entries.
        shapes: name -> shape of the whole matrix, where `parameters` has only some of its rows.
        deal: given the updates and what computes the directions of whole ones, gives the directions of all;
            None: compute them here. Several processes divide the matrices among themselves by it.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        splits: Mapping[str, int] | None = None,
        dtype: torch.dtype = torch.bfloat16,
        shapes: Mapping[str, Sequence[int]] | None = None,
        deal: Callable[[Tensors, Callable[[Tensors], Tensors]], Tensors] | None = None,
    ) -> None:
        self.parameters = dict(parameters)
        self.lr, self.momentum, self.weight_decay, self.newton_schulz_steps = (
            lr,
            momentum,
            weight_decay,
            steps,
        )
        self.mean = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._shapes = shapes or {name: p.shape for name, p in self.parameters.items()}
        self._deal, self.dtype = deal, dtype
        splits = splits or {}
        self._parts = {
            name: next((count for ending, count in splits.items() if name.endswith(ending)), 1)
            for name in self.parameters
        }

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One update at the learning rate `lr * factor`; parameters without a gradient stay."""
        lr, updates = self.lr * factor, {}
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            mean = self.mean[name].lerp_(parameter.grad, 1 - self.momentum)
            updates[name] = parameter.grad.lerp(mean, self.momentum).to(self.dtype)  # Nesterov's look ahead
        directions = self._directions(updates) if self._deal is None else self._deal(updates, self._directions)
        for name, direction in directions.items():
            parameter = self.parameters[name]
            if self.weight_decay:
                parameter.mul_(1 - lr * self.weight_decay)
            inputs, outputs = self._shapes[name]
            size = lr * max(1.0, outputs / self._parts[name] / inputs) ** 0.5
            parameter.add_(direction.to(parameter.dtype), alpha=-size)

    def _directions(self, updates: Tensors) -> Tensors:
        """Whole matrices, orthogonalised: all of one shape together."""
        directions = {name: torch.empty_like(update) for name, update in updates.items()}
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for name, update in updates.items():
            parts = self._parts[name]
            for part, place in zip(update.chunk(parts, dim=1), directions[name].chunk(parts, dim=1), strict=True):
                if part.shape[0] > part.shape[1]:
                    part, place = part.T, place.T
                by_shape.setdefault(tuple(part.shape), []).append((part, place))
        for alike in by_shape.values():
            found = orthogonalize(torch.stack([part for part, _ in alike]), self.newton_schulz_steps, dtype=self.dtype)
            for (_, place), direction in zip(alike, found, strict=True):
                place.copy_(direction)
        return directions

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name."""
        return {f"{name}.momentum": value for name, value in self.mean.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; other optimizers' entries are passed over."""
        for name in self.parameters:
            self.mean[name].copy_(state[f"{name}.momentum"])
