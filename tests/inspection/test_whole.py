"""What is remembered of the whole model changes no bit of an effect."""

import pytest
import torch

import gpt2.inspection.whole as module
from gpt2 import GPT2, Tokenizer
from gpt2.inspection import ablate, effect, swap
from gpt2.inspection.cache import forward
from gpt2.inspection.whole import Whole
from tests.inspection.conftest import TEXT

STORIES = [TEXT, "The cat and the bird sat in the big red tree.", "A girl ran. She was happy.", "One day it rained."]
WAYS = [
    [],
    [ablate(head=(0, 1))],
    [ablate(mlp=2), ablate(head=(1, 3))],
    [ablate(attn=1, how="mean", reference=STORIES)],
    [ablate("pos_embed")],
    [ablate("embed", position=2)],
    [ablate("blocks.2.hook_resid_pre")],
    [ablate("blocks.1.attn.hook_pattern"), ablate(neuron=(2, 7))],
    [swap("ln_final.hook_normalized", torch.linspace(-1, 1, 32))],
]  # fmt: skip


@pytest.mark.parametrize("most", [module._BYTES, 0])
def test_an_effect_is_the_same_from_what_is_kept(
    model: GPT2, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, most: float
) -> None:
    monkeypatch.setattr(module, "_BYTES", most)
    kept = Whole(model, tokenizer, STORIES, count=3)
    for do in WAYS:
        for text in (TEXT, STORIES[1], TEXT):
            alone = effect(model, tokenizer, text, do, STORIES, count=3)
            assert effect(model, tokenizer, text, do, against=kept).to_json() == alone.to_json()


def test_losses_are_those_of_a_pass_over_each_document(model: GPT2, tokenizer: Tokenizer) -> None:
    kept = Whole(model, tokenizer, STORIES)
    documents = sorted(([tokenizer.eos_token_id, *tokenizer.encode(text)] for text in STORIES), key=len, reverse=True)
    for do in WAYS[1:3]:
        expected = []
        for ids in documents:
            row = torch.tensor([ids])
            edits = {}
            for item in do:
                edits.setdefault(item.site.name, []).append(item.bind(model, tokenizer, len(ids) - 1))
            logits, _ = forward(model, row[:, :-1], edits)
            expected.append(float(-logits[0].log_softmax(-1).gather(1, row[0, 1:, None]).sum()))
        assert kept.losses_without(do).tolist() == pytest.approx(expected, rel=1e-5)
        assert kept.counts.tolist() == [len(ids) - 1 for ids in documents]
