"""Intervals that hold what they promise, on data whose truth is known."""

import numpy as np
import pytest

from gpt2.evaluation.bootstrap import mean_interval, ratio_interval


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        sizes = draw.integers(200, 1500, size=120)
        bits = sizes * draw.normal(1.2, 0.3, size=120)  # the ratio of the population is 1.2
        low, high = ratio_interval(bits, sizes, seed=trial) or (0.0, 0.0)
        covered += low <= 1.2 <= high
    assert 0.90 <= covered / 200 <= 0.985  # 95 % says the level; three standard errors around it


def test_it_agrees_with_the_textbook_for_a_mean() -> None:
    values = np.random.default_rng(1).normal(size=400)
    low, high = mean_interval(values) or (0.0, 0.0)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


def test_level_seed_and_single_documents() -> None:
    values = np.arange(50.0)
    wide, narrow = mean_interval(values, level=0.99), mean_interval(values, level=0.5)
    assert wide is not None
    assert narrow is not None
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)
    assert mean_interval(np.array([1.0])) is None
    assert mean_interval(np.array([1.0, np.nan, 1.0])) == (1.0, 1.0)
