"""The fitted law against laws that are known."""

import numpy as np
import pytest

from gpt2.errors import DataError
from gpt2.evaluation.scaling_law import Noise, ScalingLaw

COMPUTE = np.geomspace(1e12, 1e14, 6)


def alike(deviation: float) -> Noise:
    return lambda compute: np.full(len(compute), deviation)


def true_loss(compute: np.ndarray) -> np.ndarray:
    return 0.6 + 0.9 * (compute / 1e13) ** -0.2


def test_a_law_without_noise_is_found_again() -> None:
    law = ScalingLaw.fit(COMPUTE, true_loss(COMPUTE), alike(1e-4))
    assert law.exponent == pytest.approx(0.2, abs=0.01)
    assert law.floor == pytest.approx(0.6, abs=0.05)
    np.testing.assert_allclose(law(1e15), true_loss(np.array([1e15])), rtol=5e-3)


def test_predictions_of_larger_runs_hold_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    inside = 0
    for trial in range(60):
        law = ScalingLaw.fit(COMPUTE, true_loss(COMPUTE) + draw.normal(0, 0.01, 6), alike(0.01), seed=trial)
        low, high = law.interval(4e14)[:, 0]
        inside += low <= true_loss(np.array([4e14]))[0] + draw.normal(0, 0.01) <= high
    assert inside >= 50  # 95 % of 60 are 57; four standard errors below it
    assert (law.interval(4e14)[1] - law.interval(4e14)[0]) > (law.interval(1e13)[1] - law.interval(1e13)[0])


def test_nothing_falls_below_zero_and_scatter_counts_as_noise() -> None:
    steep = ScalingLaw.fit(COMPUTE, (COMPUTE / 1e13) ** -0.5 - 0.05, alike(0.001))
    assert steep.floor == 0.0
    assert (steep.draws >= 0).all()
    wild = ScalingLaw.fit(COMPUTE, true_loss(COMPUTE) + np.array([0.2, -0.2, 0.2, -0.2, 0.2, -0.2]), alike(0.001))
    assert (wild.noise(COMPUTE) > 0.1).all()
    low, high = wild.parameters()["exponent"][1:]
    assert high - low > 0.1
    with pytest.raises(DataError, match="three sizes"):
        ScalingLaw.fit(COMPUTE[:2], true_loss(COMPUTE[:2]), alike(0.01))


def test_short_runs_say_less() -> None:
    """Noise that falls with compute is kept as it is, and the interval for a run is wide where runs are short."""
    falling: Noise = lambda compute: 0.02 * (compute / 1e12) ** -0.5  # noqa: E731
    law = ScalingLaw.fit(COMPUTE, true_loss(COMPUTE), falling)
    np.testing.assert_allclose(law.noise(COMPUTE), falling(COMPUTE), rtol=1e-6)
    width = np.diff(law.interval(COMPUTE), axis=0)[0]
    assert width[0] > 4 * falling(COMPUTE[:1])[0] > 4 * width[-1]
