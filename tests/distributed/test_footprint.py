"""The formulas of docs/scaling.md against real tensors, and by hand; test_torchrun.py has what two processes save."""

from pathlib import Path

import pytest

from gpt2 import GPT2, GPT2Config
from gpt2.model.flops import count_parameters
from gpt2.training.averaging import WeightAverage
from gpt2.training.footprint import footprint, table
from gpt2.training.optimizers import build_optimizer

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_state_of_a_whole_copy_is_what_the_objects_hold(optimizer: str) -> None:
    config = GPT2Config(vocab_size=448, context_length=64, d_model=32, num_layers=2, num_heads=2)
    model, need = GPT2(config), footprint(config, "ddp", 2, 2, optimizer)
    average = WeightAverage(dict(model.named_parameters()))
    average.update(0.9)
    kept = build_optimizer(model, optimizer, 0.02, 0.1).state_dict()
    assert need.weights == need.gradients == sum(4 * p.numel() for p in model.parameters())
    assert need.average == sum(4 * value.numel() for value in average.average.values())
    assert need.optimizer == sum(4 * value.numel() for name, value in kept.items() if not name.endswith(".steps"))


def test_traffic_by_hand() -> None:
    config = GPT2Config(vocab_size=64, context_length=16, d_model=8, num_layers=1, num_heads=1)
    total, matrices, outermost = count_parameters(config), 12 * 64, (64 + 16) * 8 + 16
    assert footprint(config, "ddp", 2, 2).sent == 4 * total + matrices
    assert footprint(config, "ddp", 2, 2, "adamw").sent == 4 * total
    assert footprint(config, "fsdp", 2, 2, "adamw").sent == 2 * (3 * total - outermost)
    assert footprint(config, "hsdp", 4, 2, "adamw").sent == 2 * (3 * total - outermost) + 2 * total
    assert footprint(config, "hsdp", 4, 4).sent == footprint(config, "fsdp", 4, 4).sent


def test_documents_have_the_table_as_computed() -> None:
    assert table() in (DOCS / "scaling.md").read_text(encoding="utf-8")
