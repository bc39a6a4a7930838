"""Runs and their cache, against Hugging Face's GPT-2; and the identities, which must be able to fail."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2 import GPT2, GPT2Config, Tokenizer, load
from gpt2.data import iter_documents
from gpt2.errors import ConfigError, DataError
from gpt2.inspection import Cache, Run, ablate, all_names, long_name, run
from tests.conftest import randomize
from tests.inspection.conftest import TEXT


def test_values_are_those_of_transformers(looked: Run, model: GPT2, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    other = GPT2LMHeadModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = other(looked.ids[None], output_hidden_states=True, output_attentions=True, labels=looked.ids[None])
    torch.testing.assert_close(looked.logits, theirs.logits[0], atol=1e-4, rtol=1e-4)
    assert looked.loss == pytest.approx(float(theirs.loss), abs=1e-5)
    for layer in range(3):
        torch.testing.assert_close(looked["resid_pre", layer], theirs.hidden_states[layer], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(looked["pattern", layer], theirs.attentions[layer], atol=1e-5, rtol=1e-4)


def test_the_cache_has_every_name_short_and_long(looked: Run) -> None:
    assert list(looked.cache) == all_names(3)
    for short, long in {
        "embed": "hook_embed", "scale": "ln_final.hook_scale", ("pattern", 1): "blocks.1.attn.hook_pattern",
        ("scale", 2, "ln2"): "blocks.2.ln2.hook_scale", ("post", 0): "blocks.0.mlp.hook_post",
        ("resid_mid", 1): "blocks.1.hook_resid_mid",
    }.items():  # fmt: skip
        assert long_name(short) == long  # type: ignore[arg-type]
        assert torch.equal(looked[short], looked[long])  # type: ignore[index]
    assert looked["result", 1].shape == (1, len(looked.ids), 4, 32)


def test_an_unknown_name_is_refused_with_the_nearest(looked: Run) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'blocks\.0\.hook_resid_pre'"):
        looked["blocks.0.hook_residpre"]
    with pytest.raises(ConfigError, match="Did you mean 'pattern'"):
        looked["patern", 1]
    with pytest.raises(ConfigError, match="ln1"):
        looked["scale", 1]


def test_edits_in_place_do_not_reach_the_cache(looked: Run) -> None:
    before = looked["z", 0]
    looked["z", 0].zero_()
    looked.cache["blocks.0.attn.hook_z"].zero_()
    assert torch.equal(looked["z", 0], before)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_every_identity_holds(kernels: str, spread: float, tokenizer: Tokenizer) -> None:
    config = GPT2Config(vocab_size=448, context_length=48, d_model=32, num_layers=2, num_heads=4)
    model = randomize(GPT2(config, kernels, torch.Generator().manual_seed(1)), std=spread)
    checks = run(model, tokenizer, TEXT).checks
    assert len(checks.items) == 11
    assert checks.ok, str(checks)
    assert checks.worst < 1e-5
    assert model.training  # as it was


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_every_identity_holds_of_a_trained_model(kernels: str) -> None:
    """The shipped one, over a text of its whole context: tokens it knows well, and bytes it has hardly met."""
    shipped, tokenizer = load("demo")
    model = GPT2(shipped.config, kernels)
    model.load_state_dict(shipped.state_dict())
    story = next(story for story in iter_documents() if len(tokenizer.encode(story)) >= model.config.context_length)
    ids = tokenizer.encode(story)[: model.config.context_length - 1]
    for text in (ids, TEXT, "A 🦕 said: Zürich, 北京!\n\n"):
        checks = run(model, tokenizer, text).checks
        assert len(checks.items) == 11
        assert checks.ok, str(checks)
        assert checks.worst < 1e-4


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hook_pos_embed", "embeddings and all branches"),
        ("blocks.1.hook_mlp_out", "embeddings and all branches"),
        ("blocks.1.attn.hook_z", "heads and bias"),
        ("blocks.2.attn.hook_pattern", "sums to 1"),
        ("blocks.2.hook_resid_post", "after the last layer"),
        ("blocks.0.mlp.hook_post", "neurons"),
        ("ln_final.hook_scale", "components"),
    ],
)
def test_a_wrong_value_breaks_its_identity(looked: Run, name: str, sentence: str) -> None:
    noise = torch.Generator().manual_seed(0)  # a constant would be taken off again by the norms
    values = dict(looked.cache)
    values[name] += 0.02 * torch.randn(values[name].shape, generator=noise)
    checks = dataclasses.replace(looked, cache=Cache(values)).checks
    failed = [item.sentence for item in checks if not item.ok]
    assert any(sentence in item for item in failed), failed


def test_a_wrong_past_breaks_the_identity_of_the_cache(looked: Run) -> None:
    checks = dataclasses.replace(looked, logits=looked.logits.roll(1, 0)).checks
    assert any("KV cache" in item.sentence for item in checks if not item.ok)
    pattern = looked["pattern", 1]
    pattern[0, 0, 3, 5] = 1e-3
    values = {**looked.cache, "blocks.1.attn.hook_pattern": pattern}
    checks = dataclasses.replace(looked, cache=Cache(values)).checks
    assert any("later" in item.sentence for item in checks if not item.ok)


def test_an_intervened_run_keeps_the_identities_that_stay_true(model: GPT2, tokenizer: Tokenizer) -> None:
    changed = run(model, tokenizer, TEXT, do=ablate(head=(1, 2)))
    assert changed.checks.ok
    assert len(changed.checks.items) == 10  # not the comparison with plain generation
    changed = run(model, tokenizer, TEXT, do=ablate("blocks.1.hook_resid_mid"))
    assert changed.checks.ok
    assert not any("embeddings" in item.sentence or "shares" in item.sentence for item in changed.checks)
    changed = run(model, tokenizer, TEXT, do=ablate(mlp=1))
    assert changed.checks.ok
    assert not any("neurons" in item.sentence for item in changed.checks)


def test_refusals(model: GPT2, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="49 tokens, the model's context holds 48"):
        run(model, tokenizer, [1] * 49)
    with pytest.raises(DataError, match="empty"):
        run(model, tokenizer, "", begin=False)
    with pytest.raises(ConfigError, match="between 0 and 447"):
        run(model, tokenizer, [3, 448])
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        run(model, None, "text")


def test_one_token_and_no_tokenizer(model: GPT2) -> None:
    alone = run(model, None, torch.tensor([[7]]))
    assert alone.loss is None
    assert alone.tokens == ["7"]
    assert alone.checks.ok
    with pytest.raises(ConfigError, match="two tokens"):
        alone.surprise()
    for view in (alone.logit_lens(), alone.dla(), alone.attention(0, 1), alone.attention(), alone.residual_norms()):
        assert view.svg()
