"""Interventions do what they say, seen on the values and on what follows from them."""

import pytest
import torch

from gpt2 import GPT2, Tokenizer
from gpt2.errors import ConfigError
from gpt2.inspection import Run, ablate, patch, run, steer, swap
from tests.inspection.conftest import TEXT

OTHER = "The cat and the bird sat in the big red tree."


def test_zero_ablation_of_a_head_is_a_zeroed_weight(model: GPT2, tokenizer: Tokenizer) -> None:
    """Without its output weights a head is gone too, by another way."""
    import copy

    changed = run(model, tokenizer, TEXT, do=ablate(head=(1, 2)))
    assert float(changed["z", 1][:, :, 2].abs().max()) == 0
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.transformer.h[1].attn.c_proj.weight[2 * 8 : 3 * 8] = 0
    torch.testing.assert_close(changed.logits, run(twin, tokenizer, TEXT).logits, atol=1e-5, rtol=1e-5)
    assert (changed.logits - run(model, tokenizer, TEXT).logits).abs().max() > 1e-3


def test_what_is_ablated_is_zero_and_the_rest_is_not(model: GPT2, tokenizer: Tokenizer, looked: Run) -> None:
    neuron = run(model, tokenizer, TEXT, do=ablate(neuron=(0, 5)))
    assert float(neuron["post", 0][..., 5].abs().max()) == 0
    assert torch.equal(neuron["post", 0][..., :5], looked["post", 0][..., :5])
    for part, name in (
        ({"attn": 1}, ("attn_out", 1)),
        ({"mlp": 2}, ("mlp_out", 2)),
        ({"name": "pos_embed"}, "pos_embed"),
    ):
        assert float(run(model, tokenizer, TEXT, do=ablate(**part))[name].abs().max()) == 0  # type: ignore[arg-type]
    here = run(model, tokenizer, TEXT, do=ablate(mlp=1, position=3))
    assert float(here["mlp_out", 1][0, 3].abs().max()) == 0
    assert torch.equal(here.logits[:3], looked.logits[:3])  # the past knows nothing of it
    pattern = run(model, tokenizer, TEXT, do=ablate("blocks.0.attn.hook_pattern"))
    assert float(pattern["z", 0].abs().max()) == 0


def test_mean_ablation_takes_the_mean_at_the_same_position(model: GPT2, tokenizer: Tokenizer) -> None:
    references = [
        "The dog ran to the park and saw a bird there.",
        "One day a boy found a red box near a tree in a garden.",
    ] * 4
    runs = [run(model, tokenizer, text) for text in references]
    changed = run(model, tokenizer, TEXT, do=ablate(head=(0, 1), how="mean", reference=references))
    for position in (0, 4):
        expected = torch.stack([r["z", 0][0, position, 1] for r in runs]).mean(0)
        torch.testing.assert_close(changed["z", 0][0, position, 1], expected, atol=1e-5, rtol=1e-4)


def test_resampling_takes_another_text_s_values(model: GPT2, tokenizer: Tokenizer, looked: Run) -> None:
    source = run(model, tokenizer, OTHER * 2)
    changed = run(model, tokenizer, TEXT, do=ablate(mlp=1, how="resample", reference=[OTHER * 2]))
    torch.testing.assert_close(changed["mlp_out", 1][0], source["mlp_out", 1][0, : len(looked.ids)])
    with pytest.raises(ConfigError, match="no reference text has"):
        run(model, tokenizer, TEXT, do=ablate(mlp=1, how="resample", reference=["a"]))


def test_the_bundled_stories_stand_in_when_no_reference_is_given(model: GPT2, tokenizer: Tokenizer) -> None:
    changed = run(model, tokenizer, TEXT, do=ablate(head=(0, 1), how="mean"))
    z = changed["z", 0][0, :, 1]
    assert float(z.abs().max()) > 0
    assert torch.equal(z, run(model, tokenizer, TEXT, do=ablate(head=(0, 1), how="mean"))["z", 0][0, :, 1])


def test_swap_patch_and_steer(model: GPT2, tokenizer: Tokenizer, looked: Run) -> None:
    value = torch.randn(32, generator=torch.Generator().manual_seed(0))
    swapped = run(model, tokenizer, TEXT, do=swap(("resid_post", 0), value, position=2))
    assert torch.equal(swapped["resid_post", 0][0, 2], value)
    steered = run(model, tokenizer, TEXT, do=steer(("resid_post", 0), value, 2.0))
    torch.testing.assert_close(steered["resid_post", 0], looked["resid_post", 0] + 2 * value)
    same = run(model, tokenizer, looked.ids.flip(0))
    whole = run(model, tokenizer, TEXT, do=patch(same, ("resid_post", 2)))
    torch.testing.assert_close(whole.logits, same.logits, atol=1e-5, rtol=1e-5)
    head = run(model, tokenizer, TEXT, do=patch(same, ("z", 1), head=3))
    assert torch.equal(head["z", 1][:, :, 3], same["z", 1][:, :, 3])
    assert torch.equal(head["z", 1][:, :, 0], looked["z", 1][:, :, 0])


def test_interventions_act_in_order(model: GPT2, tokenizer: Tokenizer) -> None:
    value = torch.ones(32)
    done = run(model, tokenizer, TEXT, do=[ablate(mlp=0), steer(("mlp_out", 0), value)])
    assert torch.equal(done["mlp_out", 0], torch.ones_like(done["mlp_out", 0]))
    assert all(text.startswith("MLP 0 ") for text in done.meta["interventions"])
    assert len(done.meta["interventions"]) == 2


def test_refusals(model: GPT2, tokenizer: Tokenizer, looked: Run) -> None:
    for wrong in ({}, {"head": (0, 0), "mlp": 1}):
        with pytest.raises(ConfigError, match="name one part"):
            ablate(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="zero, mean or resample"):
        ablate(mlp=0, how="median")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no head 4"):
        run(model, tokenizer, TEXT, do=ablate(head=(0, 4)))
    with pytest.raises(ConfigError, match="no layer 7: they go from 0 to 2"):
        run(model, tokenizer, TEXT, do=ablate(head=(7, 0)))
    with pytest.raises(ConfigError, match="equally many tokens"):
        run(model, tokenizer, OTHER * 2, do=patch(looked, ("resid_post", 0)))
    with pytest.raises(ConfigError, match="relation between tokens"):
        run(model, tokenizer, TEXT, do=ablate("blocks.0.attn.hook_pattern", how="mean"))


def test_parts_are_called_what_pictures_call_them() -> None:
    parts = [
        ablate(head=(1, 2)),
        ablate(mlp=0),
        ablate(attn=3, position=4),
        ablate(("resid_pre", 1)),
        ablate(neuron=(0, 7)),
    ]
    assert [part.description for part in parts] == [
        "head 1.2 ablated (zero)", "MLP 0 ablated (zero)", "attention 3 at position 4 ablated (zero)",
        "blocks.1.hook_resid_pre ablated (zero)", "blocks.0.mlp.hook_post, neuron 7 ablated (zero)",
    ]  # fmt: skip
