"""AdamW by hand."""

from collections.abc import Mapping

import torch
from torch import Tensor


class AdamW:
    """Adam with decoupled weight decay (Kingma and Ba, 2015; Loshchilov and Hutter, 2019).

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
    w = w - lr wd w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Args:
        parameters: name -> parameter; names key the saved state.
        lr: learning rate.
        betas: decay of the two averages.
        eps: keeps the division finite.
        weight_decay: pulls the weights to zero, in units of lr.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = dict(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.steps = 0
        self.mean = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.square = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One update at the learning rate `lr * factor`; parameters without a gradient stay."""
        self.steps += 1
        lr, (beta1, beta2) = self.lr * factor, self.betas
        # The root of the second correction is taken out of the fraction: one pass over the numbers less.
        root = (1 - beta2**self.steps) ** 0.5
        size = lr * root / (1 - beta1**self.steps)
        for name, parameter in self.parameters.items():
            grad = parameter.grad
            if grad is None:
                continue
            mean, square = self.mean[name], self.square[name]
            mean.lerp_(grad, 1 - beta1)
            square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            if self.weight_decay:
                parameter.mul_(1 - lr * self.weight_decay)
            parameter.addcdiv_(mean, square.sqrt().add_(self.eps * root), value=-size)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name; the step count is one of them."""
        averages = {f"{name}.mean": value for name, value in self.mean.items()}
        averages |= {f"{name}.square": value for name, value in self.square.items()}
        return {**averages, "adamw.steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; other optimizers' entries are passed over."""
        for name in self.parameters:
            self.mean[name].copy_(state[f"{name}.mean"])
            self.square[name].copy_(state[f"{name}.square"])
        self.steps = int(state["adamw.steps"])
