"""An average of the weights over the end of the run, which is better than the last weights."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

# Shares of the run: when averaging begins, and over how long a stretch it reaches.
_BEGIN = 0.5
_HORIZON = 0.09


class WeightAverage:
    """Exponential moving average of parameters (Polyak and Juditsky, 1992), in shares of the run.

    Lengths are shares of the run and not steps, so that the average means the same in a run of a
    minute and of a day. Before the averaging begins, the average is the parameters themselves.

    Args:
        parameters: name -> parameter.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = dict(parameters)
        self.average: dict[str, Tensor] = {}
        self.progress = 0.0

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Take in the parameters as they are at `progress` of the run."""
        if progress < _BEGIN:
            return
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        share = 1.0 - math.exp(-(progress - self.progress) / _HORIZON)
        self.progress = progress
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter.detach(), share)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within this, the parameters hold the average."""
        last = {name: self.parameters[name].detach().clone() for name in self.average}
        self._set(self.average)
        try:
            yield
        finally:
            self._set(last)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages and how far the run was; empty before the averaging begins."""
        return {**self.average, "progress": torch.tensor(self.progress, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.progress = float(state["progress"])
        self.average = {
            name: state[name].to(parameter.device).clone()
            for name, parameter in self.parameters.items()
            if name in state
        }

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)
