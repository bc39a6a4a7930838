"""Whatever mode a model is in, what is looked at is the model without dropout, and the mode stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gpt2 import GPT2, GPT2Config, Tokenizer
from gpt2.inspection import ablate, ablation_grid, effect, forward, head_kinds, induction, patch_grid, run
from gpt2.inspection.timeline import story_loss
from tests.conftest import randomize
from tests.inspection.conftest import TEXT

TEXTS = ["One day a boy found a red box near a tree.", "The dog ran to the park and saw a bird there."]

WAYS: dict[str, Callable[[GPT2, Tokenizer], Any]] = {
    "run": lambda model, tokenizer: run(model, tokenizer, TEXT).logits.tolist(),
    "checks": lambda model, tokenizer: run(model, tokenizer, TEXT).checks.ok,
    "mean": lambda model, tokenizer: run(model, tokenizer, TEXT, do=ablate(mlp=0, how="mean")).logits.tolist(),
    "ablation": lambda model, tokenizer: ablation_grid(model, tokenizer, TEXTS).to_json(),
    "patch": lambda model, tokenizer: patch_grid(
        *(run(model, tokenizer, f"a {name}") for name in "bc"), answer=70, against=71
    ).to_json(),
    "effect": lambda model, tokenizer: effect(model, tokenizer, TEXT, [ablate(head=(0, 1))], TEXTS, length=3).to_json(),
    "heads": lambda model, tokenizer: head_kinds(model, tokenizer, TEXTS).to_json(),
    "induction": lambda model, tokenizer: induction(model, tokenizer, count=4).to_json(),
    "story loss": story_loss,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_in_training_is_looked_at_without_dropout(tokenizer: Tokenizer, way: str) -> None:
    model = randomize(GPT2(GPT2Config(448, 48, 32, 2, 2, dropout=0.5, eos_token_id=tokenizer.eos_token_id)))
    wanted = WAYS[way](model.eval(), tokenizer)
    assert WAYS[way](model.train(), tokenizer) == wanted
    assert all(module.training for module in model.modules())


def test_an_error_leaves_the_mode(model: GPT2) -> None:
    def fail(value: torch.Tensor) -> torch.Tensor:
        raise ValueError("broken edit")

    model.train()
    try:
        with pytest.raises(ValueError, match="broken edit"):
            forward(model, torch.tensor([[1, 2]]), {"hook_embed": [fail]})
        assert model.training
    finally:
        model.eval()
