"""The learning rate and the step plan, in exact arithmetic."""

import math

import pytest

from gpt2.training.schedule import learning_rate_factor
from gpt2.training.step_plan import StepPlan


def test_linear_rises_holds_and_falls() -> None:
    def factor(progress: float) -> float:
        return learning_rate_factor(progress, warmup=0.1, decay="linear", hold=0.4, floor=0.2)

    assert [factor(p) for p in (0.0, 0.05, 0.1, 0.3, 0.5)] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert factor(0.75) == pytest.approx(0.6)
    assert factor(1.0) == pytest.approx(0.2)


def test_cosine_is_half_way_in_the_middle() -> None:
    assert learning_rate_factor(0.5, warmup=0.0, decay="cosine") == pytest.approx(0.5)
    assert learning_rate_factor(0.25, warmup=0.0, decay="cosine") == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate_factor(1.0, warmup=0.0, decay="cosine", floor=0.1) == pytest.approx(0.1)


def test_constant_stays() -> None:
    assert learning_rate_factor(0.99, warmup=0.1, decay="constant") == 1.0


def test_plan_by_steps_ends_exactly() -> None:
    plan = StepPlan(steps=7)
    assert [plan.progress(step, 0.0) < 1 for step in range(8)] == [True] * 7 + [False]
    plan.replan(3, 100.0, 50.0)  # the clock is no concern of it
    assert plan.total_steps() == 7


def test_plan_by_time_follows_the_measured_speed() -> None:
    plan = StepPlan(seconds=100.0)
    assert plan.progress(1, 25.0) == 0.25
    assert not plan.is_calibrated
    plan.replan(10, 20.0, seconds_per_step=2.0)  # 80 s are left: 40 steps
    assert plan.total_steps() == 50
    assert plan.progress(10, 20.0) == pytest.approx(0.2)
    assert plan.progress(30, 999.0) == pytest.approx(0.6)  # fixed until planned anew
    plan.replan(30, 60.0, seconds_per_step=4.0)  # the machine got slower: 10 steps are left
    assert plan.progress(40, 0.0) == 1.0


def test_restored_plan_replays() -> None:
    plan, again = StepPlan(seconds=100.0), StepPlan(seconds=100.0)
    plan.replan(10, 20.0, 2.0)
    again.load_state_dict(plan.state_dict())
    assert [again.progress(s, 0.0) for s in range(10, 60)] == [plan.progress(s, 50.0) for s in range(10, 60)]


def test_progress_never_falls_when_planned_anew() -> None:
    plan, last = StepPlan(seconds=60.0), 0.0
    for step in range(1, 200):
        elapsed = step * (0.5 if step < 50 else 0.9)
        progress = plan.progress(step, elapsed)
        assert progress >= last
        last = progress
        if progress >= 1.0:
            break
        if step % 10 == 0:
            plan.replan(step, elapsed, elapsed / step)
    assert last == 1.0
