"""The guard against divergence, on a loop whose loss the tests make up."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gpt2.data.loader import Batch, BatchLoader
from gpt2.errors import DivergedError
from gpt2.training.adamw import AdamW
from gpt2.training.guard import Guard
from gpt2.training.step_plan import StepPlan
from gpt2.training.trainer import StepResult, Trainer


class Tokens:
    offsets = np.array([0, 30, 37, 60, 90, 100])

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.concatenate([np.arange(a, a + n) % 20 for a, n in zip(starts, lengths, strict=True)])


class Loader(BatchLoader):
    """Remembers which batches were asked for."""

    def __init__(self) -> None:
        super().__init__(Tokens(), 32, 16)
        self.asked: list[int] = []

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        self.asked.append(step)
        return super().batch(step, part, parts)


class Bigram(nn.Module):
    """A table of logits; the loss of chosen batches is spoilt."""

    def __init__(self, loader: Loader, spoil: dict[int, float]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(20, 20))
        self.loader, self.spoil = loader, spoil

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        loss = nn.functional.cross_entropy(self.table[batch.ids.flatten()], batch.targets.flatten(), reduction="sum")
        return loss * self.spoil.get(self.loader.asked[-1], 1.0), batch.targets.numel()


class Run:
    """A trainer with a guard and one checkpoint at every tenth step, kept in memory."""

    def __init__(self, spoil: dict[int, float], action: str = "restore", steps: int = 120) -> None:
        loader = Loader()
        module = Bigram(loader, spoil)
        self.guard = Guard(action, self.go_back, lambda record, sentence: self.records.append(record))
        self.records: list[dict[str, Any]] = []
        self.saved: dict[int, Any] = {}
        self.results: list[StepResult] = []
        optimizer = AdamW({"table": module.table}, 0.02)
        self.trainer = Trainer(module, optimizer, loader, StepPlan(steps), lambda p: 1.0,
                               hooks=[self.guard, self.save, lambda t, r: self.results.append(r)])  # fmt: skip
        self.loader, self.module = loader, module

    def save(self, trainer: Trainer, result: StepResult) -> None:
        if trainer.state.step % 10 == 0 and not self.guard.in_trouble:
            table = self.module.table.detach().clone()
            self.saved[trainer.state.step] = (table, json.loads(json.dumps(trainer.state_dict())))

    def go_back(self, before: int) -> int | None:
        step = max((step for step in self.saved if step <= before), default=None)
        if step is not None:
            self.module.table.data.copy_(self.saved[step][0])
            self.trainer.load_state_dict(self.saved[step][1])
        return step


def test_one_bad_step_is_noted_and_nothing_is_done() -> None:
    run = Run({50: 50.0, 60: torch.nan})
    run.trainer.fit()
    assert [record["event"] for record in run.records] == ["spike"]
    assert run.records[0]["step"] == 51
    assert (run.guard.state.spikes, run.guard.state.events, run.trainer.state.skipped) == (1, [], 1)
    assert run.loader.asked == list(range(120))
    assert all(np.isfinite(loss) and loss < 5 for loss in run.guard.state.losses)


def test_going_back_passes_over_the_batches_that_led_there() -> None:
    run = Run(dict.fromkeys(range(55, 70), torch.nan))
    run.trainer.fit()
    # Ten bad ones from batch 55 on: back to step 50, on with batch 65; ten more from there on would be too many.
    assert run.loader.asked == [*range(65), *range(65, 135)]
    assert run.trainer.state.step == 120
    assert (run.trainer.state.passed_over, run.trainer.state.skipped) == (15, 15)
    (event,) = [record for record in run.records if record["event"] == "divergence"]
    assert (event["step"], event["at"]) == (50, 65)
    assert "10 of the last 65 updates were not finite" in event["what"]
    assert "first in table" in event["what"]
    assert "passed over the 15 batches" in run.guard.state.events[0]
    assert torch.isfinite(run.module.table).all()


def test_a_jump_that_stays_is_met_and_a_short_one_is_not() -> None:
    run = Run(dict.fromkeys(range(52, 200), 20.0), steps=60)
    run.trainer.fit()
    assert run.guard.state.events == []
    run = Run(dict.fromkeys(range(52, 75), 20.0))
    run.trainer.fit()
    (event,) = run.guard.state.events
    assert "stayed there for 20 steps: went back to step 50 and passed over the 22 batches" in event
    assert run.loader.asked == list(range(142))


def test_lowering_the_rate_goes_back_and_reads_the_same_batches() -> None:
    run = Run({}, "lower-rate")
    broken = {"at": 0}

    def poison(trainer: Trainer, result: StepResult) -> None:
        if trainer.state.step == 55 and not broken["at"]:
            broken["at"] = 55
            run.module.table.data.fill_(torch.nan)

    run.trainer.hooks = [*run.trainer.hooks, poison]
    run.trainer.fit()
    assert run.loader.asked == [*range(65), *range(50, 120)]
    assert {result.factor for result in run.results} == {1.0, 0.5}
    assert "0.5 times the learning rate" in run.guard.state.events[0]


def test_stopping_names_the_place_and_the_way_out() -> None:
    run = Run(dict.fromkeys(range(8, 100), torch.inf), "stop")
    with pytest.raises(DivergedError, match=r"at step 18, 10 of the last 18 updates.*--on-divergence restore"):
        run.trainer.fit()
    assert run.guard.gave_up
    assert DivergedError.exit_code == 3


def test_trouble_without_end_is_given_up_and_so_is_trouble_before_the_first_checkpoint() -> None:
    run = Run(dict.fromkeys(range(55, 1000), torch.nan))
    with pytest.raises(DivergedError, match="already met 3 times"):
        run.trainer.fit()
    assert len(run.guard.state.events) == 3
    assert max(run.saved) == 50, "nothing was saved in trouble"
    with pytest.raises(DivergedError, match="no checkpoint to go back to yet"):
        Run(dict.fromkeys(range(3, 100), torch.nan)).trainer.fit()


def result(loss: float) -> StepResult:
    return StepResult(loss, 1.0, 1.0, 32)


def test_equal_losses_divide_by_no_zero_and_the_memory_survives_a_restart() -> None:
    run = Run({})
    for _ in range(200):
        run.guard(run.trainer, result(2.0))
    assert run.guard.state.spikes == 0
    assert len(run.guard.state.losses) == 64
    run.guard(run.trainer, result(2.05))
    assert not run.guard.in_trouble
    for _ in range(15):
        run.guard(run.trainer, result(100.0))
    again = Run({})
    again.guard.load_state_dict(json.loads(json.dumps(run.guard.state_dict())))
    assert again.guard.state == run.guard.state
    for _ in range(16, 20):
        again.guard(again.trainer, result(100.0))
    with pytest.raises(DivergedError, match=r"from 2\.000 to 100\.000 and stayed there for 20 steps"):
        again.guard(again.trainer, result(100.0))


def test_a_falling_and_noisy_loss_is_no_spike() -> None:
    run, draw = Run({}), np.random.default_rng(0)
    for step in range(3000):
        run.guard(run.trainer, result(3.0 + 6 * np.exp(-step / 100) + draw.normal(0, 0.15)))
    assert run.guard.state.spikes <= 3
    assert not run.guard.in_trouble
