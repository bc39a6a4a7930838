"""One forward and backward pass of a small GPT-2 on a device, compared with the CPU in float32.

Devices have computed wrongly without a word (Apple GPUs repeatedly: non-contiguous copies, attention, large
strides), and a training then learns less, or nothing, for no visible reason.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.config import GPT2Config
from gpt2.model import GPT2, Segments
from gpt2.model.ops import Kernels

# Packed documents of several lengths, heads of 32 dimensions: the shapes that small models train with.
_CONFIG = GPT2Config(vocab_size=512, context_length=128, d_model=64, num_layers=2, num_heads=2)
_LENGTHS = (128, 77, 41, 10)

# Errors allowed, relative to the size of what is compared. A hundredth (float32) and a quarter (bfloat16) of them were
# measured on a CPU; the smallest mistakes that the tests make on purpose are above.
_LIMITS = {torch.float32: (1e-5, 2e-4), torch.bfloat16: (1e-3, 0.1)}


@dataclass(frozen=True)
class Check:
    """What one comparison gave."""

    device: str
    dtype: str
    kernels: str
    loss_error: float
    """Relative error of the loss."""
    gradient_error: float
    """Largest relative error of a parameter's gradient, by Euclidean norm."""
    worst: str
    """That parameter."""
    limits: tuple[float, float]
    """Of the two errors."""
    problem: str | None = None
    """Why it could not be computed at all."""

    @property
    def passed(self) -> bool:
        """Whether the device computes what it should."""
        within = self.loss_error <= self.limits[0] and self.gradient_error <= self.limits[1]
        return self.problem is None and within  # a comparison with NaN is false

    def __str__(self) -> str:
        name = f"{self.device} in {self.dtype}, {self.kernels} kernels"
        if self.problem is not None:
            return f"{name}: cannot compute ({self.problem})"
        errors = f"loss off by {self.loss_error:.1e}, gradients by {self.gradient_error:.1e} at most"
        return f"{name}: {errors}" + ("" if self.passed else f" (in {self.worst}): WRONG")


def self_check(device: torch.device | str, dtype: torch.dtype, kernels: str | Kernels = "fused") -> Check:
    """Compare loss and gradients with the reference kernels on the CPU in float32; about 0.1 s on a CPU.

    Args:
        device: to examine.
        dtype: of the activations, as in training.
        kernels: to examine.
    """
    device = torch.device(device)
    name = kernels if isinstance(kernels, str) else kernels.name
    limits = _LIMITS[dtype]
    true_loss, truth = _truth()
    try:
        loss, gradients = _pass(device, dtype, kernels)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        return Check(str(device), _name(dtype), name, math.nan, math.nan, "", limits, reason)
    size = max(float(g.norm()) for g in truth.values())
    # Gradients that are next to nothing beside the others are compared with these.
    errors = {key: float((gradients[key] - g).norm()) / max(float(g.norm()), 1e-3 * size) for key, g in truth.items()}
    worst = max(errors, key=lambda key: math.inf if math.isnan(errors[key]) else errors[key])
    loss_error = abs(loss - true_loss) / true_loss
    return Check(str(device), _name(dtype), name, loss_error, errors[worst], worst, limits)


@functools.cache
def _truth() -> tuple[float, dict[str, Tensor]]:
    """What every device is compared with."""
    return _pass(torch.device("cpu"), torch.float32, "reference")


def _pass(device: torch.device, dtype: torch.dtype, kernels: str | Kernels) -> tuple[float, dict[str, Tensor]]:
    """Mean loss and the gradients, on the CPU."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        model = GPT2(_CONFIG, kernels, draw)
        for parameter in model.parameters():  # biases and norms too: at their usual start they hide mistakes
            parameter.data.add_(torch.randn(parameter.shape, generator=draw) * 0.05)
        ids = torch.randint(_CONFIG.vocab_size, (1, sum(_LENGTHS) + 1), generator=draw)
        model = model.to(device).train()
        model.compute_dtype = None if dtype == torch.float32 else dtype
        x = model.hidden(ids[:, :-1].to(device), segments=Segments(_LENGTHS))
        weight = model.transformer.wte.weight
        loss = model.kernels.linear_cross_entropy(x.flatten(0, 1), weight, ids[0, 1:].to(device)) / sum(_LENGTHS)
        loss.backward()
    return float(loss.detach()), {
        name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
