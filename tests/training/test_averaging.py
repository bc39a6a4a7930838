"""The weight average, in exact arithmetic."""

import math

import pytest
import torch

from gpt2.training.averaging import WeightAverage


def test_it_follows_the_weights_in_shares_of_the_run() -> None:
    weight = torch.zeros(1)
    average = WeightAverage({"w": weight})
    average.update(0.4)
    with average.applied():
        assert weight.item() == 0.0  # not begun: the weights themselves
    average.update(0.5)
    weight.fill_(1.0)
    average.update(0.59)
    expected = 1 - math.exp(-1)  # one horizon later
    assert average.average["w"].item() == pytest.approx(expected)
    with average.applied():
        assert weight.item() == pytest.approx(expected)
    assert weight.item() == 1.0


def test_many_small_updates_equal_one_large() -> None:
    weights = [torch.zeros(1), torch.zeros(1)]
    averages = [WeightAverage({"w": weight}) for weight in weights]
    for average, weight in zip(averages, weights, strict=True):
        average.update(0.5)
        weight.fill_(2.0)
    averages[0].update(0.9)
    for i in range(1, 401):
        averages[1].update(0.5 + i / 1000)
    torch.testing.assert_close(averages[0].average["w"], averages[1].average["w"])


def test_restored_average_goes_on() -> None:
    weight = torch.zeros(3)
    first, second = WeightAverage({"w": weight}), WeightAverage({"w": weight})
    first.update(0.6)
    second.load_state_dict(first.state_dict())
    weight.fill_(1.0)
    first.update(0.7)
    second.update(0.7)
    assert torch.equal(first.average["w"], second.average["w"])


def test_weights_come_back_after_an_error() -> None:
    weight = torch.zeros(1)
    average = WeightAverage({"w": weight})
    average.update(0.5)
    weight.fill_(1.0)
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert weight.item() == 1.0
