"""The plan: whatever is left open becomes something sensible, whatever is given stays."""

import math
from typing import Any

import pytest
import torch

from gpt2 import GPT2, GPT2Config
from gpt2.device import Machine
from gpt2.errors import ConfigError
from gpt2.model.flops import count_parameters
from gpt2.settings import TrainSettings
from gpt2.training.choices import TextFigures, choose_micro_batches
from gpt2.training.plan import Plan, check_context, count_steps, make_plan, resolve

LAPTOP = Machine(torch.device("cpu"), torch.bfloat16, 2, 3e11)
SERVER = Machine(torch.device("cuda"), torch.bfloat16, 8, 6e14)


def plan_for(num_bytes: int, documents: int, machine: Machine = LAPTOP, **settings: Any) -> Plan:
    text = TextFigures(num_bytes, documents, num_bytes // 20)
    return make_plan(TrainSettings.make(**settings), text, machine, None)


@pytest.mark.parametrize("num_bytes", [300, 5_000, 100_000, 1_400_000, 10**7, 10**9])
@pytest.mark.parametrize("documents", [1, 50])
@pytest.mark.parametrize("length", [{}, {"minutes": 0.2}, {"minutes": 600}, {"epochs": 3}, {"steps": 10}])
def test_every_choice_is_sensible(num_bytes: int, documents: int, length: dict[str, Any]) -> None:
    plan = plan_for(num_bytes, documents, **length)
    config = plan.config
    assert config.context_length <= max(16, plan.train_tokens)
    assert plan.tokens_per_step % config.context_length == 0
    assert (plan.steps is None) == (plan.seconds is not None)
    assert config.vocab_size <= max(512, num_bytes)
    assert any("layers" in reason for reason in plan.reasons)
    assert "parameters" in "\n".join(plan.lines())


def test_more_text_and_more_time_give_larger_models() -> None:
    sizes = [
        count_parameters(plan_for(n, 1000, minutes=m).config)
        for n, m in [(10**5, 1), (10**6, 5), (10**7, 10), (10**9, 600)]
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] / 10
    on_gpu = plan_for(10**9, 10**6, SERVER).config
    assert count_parameters(on_gpu) > 10 * count_parameters(plan_for(10**9, 10**6).config)


def test_what_is_given_stays() -> None:
    given = {"d_model": 96, "num_heads": 3, "num_layers": 5, "context_length": 48, "vocab_size": 777, "batch_size": 7}
    plan = plan_for(10**6, 100, steps=11, dropout=0.3, **given)
    config = plan.config
    assert (config.d_model, config.num_heads, config.num_layers, config.context_length) == (96, 3, 5, 48)
    assert (config.dropout, plan.vocab_size, config.vocab_size) == (0.3, 777, 832)
    assert (plan.tokens_per_step, plan.steps) == (7 * 48, 11)
    assert resolve(plan, 777, 0, True)[0].flat()["vocab_size"] == 777


@pytest.mark.parametrize(
    "partly", [{"d_model": 320}, {"num_layers": 3}, {"num_heads": 5}, {"d_model": 100, "num_layers": 2}]
)
def test_half_given_shapes_are_completed(partly: dict[str, int]) -> None:
    config = plan_for(10**6, 100, **partly).config
    for name, value in partly.items():
        assert getattr(config, name) == value


def test_resolved_settings_leave_nothing_open_and_plan_the_same_again() -> None:
    plan = plan_for(10**6, 100, minutes=2)
    settings, config = resolve(plan, plan.config.vocab_size, 0, True)
    again = make_plan(settings, plan.text, LAPTOP, None)
    assert again.config == plan.config
    assert (again.tokens_per_step, again.seconds, again.micro_batch_tokens) == (
        plan.tokens_per_step, plan.seconds, plan.micro_batch_tokens,
    )  # fmt: skip
    assert config.eos_token_id == 0
    open_ones = {name for name, value in settings.flat().items() if value is None}
    assert open_ones <= {
        "epochs", "steps", "tokenizer", "grad_clip", "patience", "out", "resume", "from_model", "save_every",
        "keep_every",
    }  # fmt: skip


def test_parameters_by_formula_equal_the_model() -> None:
    for config in (GPT2Config(100, 20, 24, 3, 2), GPT2Config(64, 8, 16, 1, 4)):
        assert count_parameters(config) == GPT2(config).num_parameters()


def test_epochs_become_steps_of_the_real_text() -> None:
    settings = TrainSettings.make(epochs=2.5)
    assert count_steps(settings, 100, 1000) == 25
    assert count_steps(TrainSettings.make(steps=3), 100, 1000) == 3
    assert count_steps(TrainSettings.make(minutes=3), 100, 1000) is None


def test_micro_batches_hold_at_least_one_context() -> None:
    config = GPT2Config(1000, 512, 64, 2, 2)
    assert choose_micro_batches(8192, config, LAPTOP, 2048) == 4
    assert choose_micro_batches(8192, config, LAPTOP, 10) == 16
    assert choose_micro_batches(65_536, config, LAPTOP, None) == 4


def test_context_longer_than_the_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="only 99 tokens"):
        check_context(GPT2Config(context_length=100), 99)


def test_fine_tuning_lowers_the_rate_and_keeps_the_vocabulary() -> None:
    base = GPT2Config(500, 32, 32, 2, 2, eos_token_id=499)
    text = TextFigures(10**5, 10, 1000)
    plan = make_plan(TrainSettings.make(from_model="base", steps=5), text, LAPTOP, base)
    settings, config = resolve(plan, 500, 499, False)
    fresh, _ = resolve(plan_for(10**5, 10, steps=5), 500, 0, True)
    assert config == base
    assert math.isclose(settings.flat()["lr"], 0.2 * fresh.flat()["lr"])


def test_a_text_read_many_times_gets_more_weight_decay() -> None:
    """The more, the more parameters there are to learn it by heart."""
    once, often = plan_for(10**7, 10**4, steps=10), plan_for(10**5, 100, epochs=8)
    assert once.weight_decay > 0
    assert often.weight_decay == pytest.approx(3 * once.weight_decay)
    assert plan_for(10**5, 100, epochs=2).weight_decay == once.weight_decay
    shape = {"num_layers": 4, "vocab_size": 2048, "context_length": 256}
    middle = plan_for(1_343_000, 1938, epochs=8, d_model=96, num_heads=3, **shape)
    assert once.weight_decay < middle.weight_decay < often.weight_decay
    assert plan_for(10**5, 100, epochs=8, weight_decay=0.03).weight_decay == 0.03
    assert plan_for(10**5, 100, epochs=8, optimizer="adamw").weight_decay == 0.1
