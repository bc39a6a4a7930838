"""A scaling law, loss = floor + factor * compute^-exponent, with what is not known about it.

The form of Hoffmann et al. (2022), in compute at a fixed ratio of tokens to parameters. For a given exponent it is
linear in floor and factor, so the exponent is searched and the rest solved; uncertainty comes from refitting to the
data with new noise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpt2.errors import DataError

_EXPONENTS = np.geomspace(0.01, 2.0, 400)
_DRAWS = 1000

Noise = Callable[[np.ndarray], np.ndarray]
"""Amounts of compute (n,) -> the standard deviation of such runs' losses (n,)."""


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted law and its draws."""

    floor: float
    """What no compute removes, in the unit of the losses."""
    factor: float
    """At one unit of `scale`."""
    exponent: float
    scale: float
    """Compute is divided by it: the geometric mean of the data."""
    noise: Noise
    """Of single losses around the law."""
    draws: np.ndarray
    """(draws, 3): floor, factor, exponent of laws fitted to data with new noise."""

    @classmethod
    def fit(cls, compute: np.ndarray, losses: np.ndarray, noise: Noise, *, seed: int = 0) -> "ScalingLaw":
        """Fit by least squares.

        Args:
            compute: of each run, (runs,), such as FLOPs; at least three different ones.
            losses: of each run, (runs,).
            noise: from seed to seed; where the scatter around the fit is larger, all of it is raised to that.
            seed: of the draws.

        Raises:
            DataError: fewer than three different amounts of compute.
        """
        compute, losses = np.asarray(compute, float), np.asarray(losses, float)
        if len(np.unique(compute)) < 3:
            raise DataError(f"a law needs runs of three sizes or more, got {len(np.unique(compute))}")
        scale = float(np.exp(np.log(compute).mean()))
        x = compute / scale
        (best,) = _solve(x, losses[None])
        residual = losses - _evaluate(best[None], x)[0]
        scatter = float(np.sqrt((residual**2).sum() / max(1, len(losses) - 3)))
        raised = max(1.0, scatter / float(np.sqrt((noise(compute) ** 2).mean()))) if len(losses) > 3 else 1.0
        draws = np.random.default_rng(seed).normal(0, raised * noise(compute), (_DRAWS, len(x)))
        laws = _solve(x, _evaluate(best[None], x) + draws)
        return cls(float(best[0]), float(best[1]), float(best[2]), scale, lambda c: raised * noise(c), laws)

    def __call__(self, compute: np.ndarray | float) -> np.ndarray:
        """The law's loss at some compute."""
        return _evaluate(np.array([[self.floor, self.factor, self.exponent]]), np.atleast_1d(compute) / self.scale)[0]

    def interval(self, compute: np.ndarray | float, level: float = 0.95, *, of_a_run: bool = True) -> np.ndarray:
        """Where a run of some compute will land, low and high (2, n); without `of_a_run`, where the law lies."""
        compute = np.atleast_1d(compute)
        laws = _evaluate(self.draws, compute / self.scale)
        if of_a_run:
            laws = laws + np.random.default_rng(1).normal(0, self.noise(compute), laws.shape)
        return np.quantile(laws, [(1 - level) / 2, (1 + level) / 2], axis=0)

    def parameters(self, level: float = 0.95) -> dict[str, tuple[float, float, float]]:
        """floor and exponent, each as (value, low, high)."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return {
            "floor": (self.floor, float(low[0]), float(high[0])),
            "exponent": (self.exponent, float(low[2]), float(high[2])),
        }


def _evaluate(laws: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(laws, 3) at (n,) amounts: (laws, n)."""
    return laws[:, :1] + laws[:, 1:2] * x[None] ** -laws[:, 2:3]


def _solve(x: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Least squares with floor and factor not below 0; losses (fits, n), result (fits, 3)."""
    powers = x[None] ** -_EXPONENTS[:, None]  # (exponents, n)
    centred = powers - powers.mean(axis=1, keepdims=True)
    mean = losses.mean(axis=1)
    factor = np.maximum(0, (losses - mean[:, None]) @ centred.T / (centred**2).sum(axis=1))  # (fits, exponents)
    floor = mean[:, None] - factor * powers.mean(axis=1)
    without = np.maximum(0, losses @ powers.T / (powers**2).sum(axis=1))  # the best factor if there is no floor
    factor, floor = np.where(floor < 0, without, factor), np.maximum(0, floor)
    squares = (losses**2).sum(axis=1)[:, None] - 2 * (
        floor * losses.sum(axis=1)[:, None] + factor * (losses @ powers.T)
    )
    squares += floor**2 * len(x) + 2 * floor * factor * powers.sum(axis=1) + factor**2 * (powers**2).sum(axis=1)
    best = squares.argmin(axis=1)
    rows = np.arange(len(losses))
    return np.stack([floor[rows, best], factor[rows, best], _EXPONENTS[best]], axis=1)
