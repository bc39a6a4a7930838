"""The loop itself, with a module that is no GPT."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gpt2 import GPT2, GPT2Config
from gpt2.data.loader import Batch, BatchLoader
from gpt2.training.adamw import AdamW
from gpt2.training.loss import LanguageModelLoss
from gpt2.training.step_plan import StepPlan
from gpt2.training.trainer import StepResult, Trainer


class Tokens:
    offsets = np.array([0, 30, 37, 60, 90, 100])

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.concatenate([np.arange(a, a + n) % 20 for a, n in zip(starts, lengths, strict=True)])


class Bigram(nn.Module):
    """The smallest language model: a table of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(20, 20))

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        logits = self.table[batch.ids.flatten()]
        return nn.functional.cross_entropy(logits, batch.targets.flatten(), reduction="sum"), batch.targets.numel()


def trainer(module: nn.Module, steps: int = 40, **options: Any) -> Trainer:
    optimizer = AdamW(dict(module.named_parameters()), 0.3)
    return Trainer(module, optimizer, BatchLoader(Tokens(), 32, 16), StepPlan(steps), lambda p: 1.0 - p, **options)


def test_it_learns_and_counts() -> None:
    results: list[StepResult] = []
    run = trainer(Bigram(), hooks=[lambda trainer, result: results.append(result)])
    run.fit()
    assert (run.state.step, run.state.tokens, run.state.skipped) == (40, 40 * 32, 0)
    assert results[0].loss == pytest.approx(np.log(20), rel=1e-4)
    assert results[-1].loss < 0.1
    assert [round(result.factor, 3) for result in results[:3]] == [1.0, 0.975, 0.95]


@pytest.mark.parametrize("micro_batches", [2, 3])
def test_micro_batches_give_the_same_gradient(micro_batches: int) -> None:
    def gradient(count: int) -> list[Tensor | None]:
        config = GPT2Config(vocab_size=20, context_length=16, d_model=16, num_layers=2, num_heads=2)
        module = LanguageModelLoss(GPT2(config, generator=torch.Generator().manual_seed(0)))
        run, seen = trainer(module, micro_batches=count), []
        run.optimizer.step = lambda factor: seen.extend(p.grad.clone() for p in run.parameters)  # pyright: ignore
        run.train_step()
        return seen

    for once, split in zip(gradient(1), gradient(micro_batches), strict=True):
        torch.testing.assert_close(once, split, atol=1e-6, rtol=1e-4)


def test_hook_stops_the_run() -> None:
    def stop(trainer: Trainer, result: StepResult) -> None:
        if trainer.state.step == 7:
            trainer.stop_reason = "enough"

    run = trainer(Bigram(), hooks=[stop])
    run.fit()
    assert run.state.step == 7


def test_gradient_is_clipped_to_the_norm() -> None:
    seen = []
    run = trainer(Bigram(), grad_clip=1e-3)
    run.optimizer.step = lambda factor: seen.append(run.parameters[0].grad.norm().item())  # pyright: ignore
    result = run.train_step()
    assert result.grad_norm > 1e-3
    assert seen == [pytest.approx(1e-3, rel=1e-3)]


class SometimesNaN(Bigram):
    def __init__(self, bad_steps: set[int]) -> None:
        super().__init__()
        self.bad_steps, self.calls = bad_steps, 0

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        loss, count = super().forward(batch)
        self.calls += 1
        return (loss * torch.nan if self.calls - 1 in self.bad_steps else loss), count


def test_step_that_is_not_finite_changes_nothing_and_the_next_goes_on() -> None:
    module = SometimesNaN({5})
    tables: list[Tensor] = []
    results: list[StepResult] = []
    keep = [lambda trainer, result: tables.append(module.table.detach().clone()), lambda t, r: results.append(r)]
    run = trainer(module, hooks=keep)
    run.fit()
    assert [result.culprit for result in results if result.culprit] == ["table"]
    assert run.state.skipped == 1
    assert torch.equal(tables[4], tables[5])
    assert not torch.equal(tables[5], tables[6])
    assert torch.isfinite(module.table).all()


def test_state_goes_on_where_it_was() -> None:
    whole, first = Bigram(), Bigram()
    trainer(whole).fit()
    part = trainer(first, hooks=[lambda t, r: setattr(t, "stop_reason", "pause" if t.state.step == 11 else None)])
    part.fit()
    second = Bigram()
    second.load_state_dict(first.state_dict())
    rest = trainer(second)
    rest.load_state_dict(part.state_dict())
    rest.optimizer.load_state_dict(part.optimizer.state_dict())
    rest.fit()
    assert rest.state.step == 40
    assert torch.equal(whole.table, second.table)
