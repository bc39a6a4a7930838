"""The model as a whole: initialisation, cache, documents, taps, saving, refusals."""

import copy
import io
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2 import GPT2, GPT2Config
from gpt2.errors import CheckpointError, ConfigError
from tests.conftest import randomize


def test_initial_spread_of_every_weight() -> None:
    config = GPT2Config(vocab_size=2000, context_length=256, d_model=256, num_layers=8, num_heads=4)
    for name, parameter in GPT2(config, generator=torch.Generator().manual_seed(0)).named_parameters():
        if name.endswith("bias"):
            expected = 0.0
        elif ".ln_" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
            continue
        elif name.endswith("wpe.weight"):
            expected = 0.01
        elif name.endswith("c_proj.weight"):
            expected = 0.02 / math.sqrt(2 * 8)
        else:
            expected = 0.02
        assert parameter.std().item() == pytest.approx(expected, rel=0.02), name
        assert abs(parameter.mean().item()) < 1e-3, name


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    config = GPT2Config(vocab_size=500, context_length=64, d_model=64, num_layers=2, num_heads=2)
    model = GPT2(config, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(500, (4, 64), generator=torch.Generator().manual_seed(1))
    loss = model.kernels.cross_entropy(model(ids)[:, :-1].reshape(-1, 500), ids[:, 1:].reshape(-1)).mean()
    assert loss.item() == pytest.approx(math.log(500), abs=0.1)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
@pytest.mark.parametrize("chunks", [[1] * 24, [5, 1, 18], [23, 1]])
def test_cache_equals_the_full_forward_pass(tiny_config: GPT2Config, kernels: str, chunks: list[int]) -> None:
    model = randomize(GPT2(tiny_config, kernels)).eval()
    ids = torch.randint(97, (3, 24), generator=torch.Generator().manual_seed(1))
    cache = model.new_cache(3)
    with torch.no_grad():
        pieces = [model(piece, cache=cache) for piece in ids.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=1e-5, rtol=1e-5)


def test_full_cache_refuses_more(tiny_model: GPT2) -> None:
    cache = tiny_model.new_cache(1)
    tiny_model(torch.zeros(1, 24, dtype=torch.long), cache=cache)
    with pytest.raises(ConfigError, match="holds 24 tokens"):
        tiny_model(torch.zeros(1, 1, dtype=torch.long), cache=cache)


def test_prompts_of_different_lengths_share_a_cache(tiny_model: GPT2) -> None:
    rows = [[1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11]]
    padding = torch.tensor([6 - len(row) for row in rows])
    ids = torch.tensor([[0] * (6 - len(row)) + row for row in rows])
    cache = tiny_model.new_cache(3, padding)
    with torch.no_grad():
        first, second = tiny_model(ids, cache=cache)[:, -1], tiny_model(torch.full((3, 2), 50), cache=cache)
        for i, row in enumerate(rows):
            alone = tiny_model(torch.tensor([[*row, 50, 50]]))[0]
            torch.testing.assert_close(first[i], alone[-3], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(second[i], alone[-2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_packed_documents_equal_documents_alone(tiny_config: GPT2Config, kernels: str) -> None:
    model = randomize(GPT2(tiny_config, kernels)).eval()
    ids = torch.randint(97, (2, 20), generator=torch.Generator().manual_seed(1))
    segments = torch.tensor([[0] * 7 + [1] * 8 + [2] * 5, [4] * 1 + [5] * 19])
    with torch.no_grad():
        packed = model(ids, segments=segments)
        for row in range(2):
            for segment in segments[row].unique():
                inside = segments[row] == segment
                torch.testing.assert_close(packed[row, inside], model(ids[row, inside][None])[0], atol=1e-5, rtol=1e-5)


def test_no_token_sees_the_future(tiny_model: GPT2) -> None:
    ids = torch.randint(97, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = tiny_model(ids)
        for t in range(24):
            changed = ids.clone()
            changed[0, t] = (ids[0, t] + 1) % 97
            moved = (tiny_model(changed) - before).abs().amax(dim=-1)[0] > 1e-6
            assert moved.tolist() == [False] * t + [True] * (24 - t)


def tap_names(layers: int) -> list[str]:
    block = [
        "hook_resid_pre", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v",
        "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z", "hook_attn_out", "hook_resid_mid",
        "ln2.hook_scale", "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post",
    ]  # fmt: skip
    blocks = [f"blocks.{layer}.{name}" for layer in range(layers) for name in block]
    return ["hook_embed", "hook_pos_embed", *blocks, "ln_final.hook_scale", "ln_final.hook_normalized"]


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_tap_sees_every_named_value_and_changes_nothing(tiny_config: GPT2Config, kernels: str) -> None:
    model = randomize(GPT2(tiny_config, kernels)).eval()
    ids = torch.randint(97, (2, 6), generator=torch.Generator().manual_seed(1))
    seen: dict[str, Tensor] = {}

    def read(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return value

    with torch.no_grad():
        torch.testing.assert_close(model(ids, tap=read), model(ids), atol=1e-5, rtol=1e-5)
    assert list(seen) == tap_names(2)
    shapes = {
        "hook_embed": (2, 6, 32), "hook_pos_embed": (2, 6, 32), "blocks.1.ln1.hook_scale": (2, 6, 1),
        "blocks.1.ln2.hook_normalized": (2, 6, 32), "blocks.0.attn.hook_q": (2, 6, 4, 8),
        "blocks.0.attn.hook_z": (2, 6, 4, 8), "blocks.0.attn.hook_pattern": (2, 4, 6, 6),
        "blocks.0.attn.hook_attn_scores": (2, 4, 6, 6), "blocks.1.mlp.hook_post": (2, 6, 128),
    }  # fmt: skip
    assert {name: tuple(seen[name].shape) for name in shapes} == shapes
    torch.testing.assert_close(
        seen["blocks.1.hook_resid_post"],
        seen["hook_embed"] + seen["hook_pos_embed"]
        + sum(seen[f"blocks.{i}.{part}"] for i in range(2) for part in ("hook_attn_out", "hook_mlp_out")),
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip
    assert seen["blocks.0.attn.hook_pattern"].triu(1).abs().max() == 0


def test_tap_intervenes_and_leaves_nothing_behind(tiny_model: GPT2) -> None:
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = tiny_model(ids)
        mute = tiny_model(ids, tap=lambda name, x: x * 0 if name == "blocks.1.hook_mlp_out" else x)
        assert (mute - before).abs().max() > 1e-3
        assert torch.equal(tiny_model(ids), before)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_dropout_acts_in_three_places_and_only_in_training(tiny_config: GPT2Config, kernels: str) -> None:
    model = GPT2(GPT2Config(**{**tiny_config.to_dict(), "dropout": 0.5}), kernels)
    assert sorted(name for name, m in model.named_modules() if type(m).__name__ == "Dropout") == [
        "transformer.drop", "transformer.h.0.attn.dropout", "transformer.h.0.mlp.dropout",
        "transformer.h.1.attn.dropout", "transformer.h.1.mlp.dropout",
    ]  # fmt: skip
    assert model.transformer.h[0].attn.p == 0.5  # the third place: the attention weights
    ids = torch.tensor([[1, 2, 3, 4]])
    model.train()
    assert not torch.equal(model(ids), model(ids))
    torch.manual_seed(4)
    first = model(ids)
    torch.manual_seed(4)
    assert torch.equal(model(ids), first)
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_bfloat16_compute_keeps_fp32_gradients(tiny_model: GPT2) -> None:
    ids = torch.randint(97, (2, 12), generator=torch.Generator().manual_seed(0))
    exact = tiny_model(ids)
    tiny_model.compute_dtype = torch.bfloat16
    logits = tiny_model(ids)
    assert logits.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < 0.2 * exact.abs().max()
    logits.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in tiny_model.parameters())


def test_state_dict_carries_the_configuration(tiny_model: GPT2) -> None:
    file = io.BytesIO()
    torch.save(tiny_model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert GPT2Config(**state._metadata[""]["config"]) == tiny_model.config
    again = GPT2(tiny_model.config)
    again.load_state_dict(state)
    assert torch.equal(again(torch.tensor([[1, 2]])), tiny_model(torch.tensor([[1, 2]])))


def test_model_copies_and_pickles(tiny_model: GPT2) -> None:
    ids = torch.tensor([[1, 2, 3]])
    for twin in (copy.deepcopy(tiny_model), pickle.loads(pickle.dumps(tiny_model))):
        assert torch.equal(twin(ids), tiny_model(ids))


def test_saved_and_loaded_model_is_the_same(tiny_model: GPT2, tmp_path: Path) -> None:
    tiny_model.generation_defaults = {"temperature": 0.7, "top_k": 20}
    tiny_model.save_pretrained(tmp_path / "deep" / "folder")
    again = GPT2.from_pretrained(tmp_path / "deep" / "folder")
    assert again.config == tiny_model.config
    assert again.generation_defaults == {"temperature": 0.7, "top_k": 20}
    assert torch.equal(again(torch.tensor([[1, 2]])), tiny_model(torch.tensor([[1, 2]])))
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_damaged_and_foreign_folders_are_refused_by_name(tiny_model: GPT2, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model folder"):
        GPT2.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        GPT2.from_pretrained(tmp_path)
    tiny_model.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        GPT2.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        GPT2.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    config.write_text(config.read_text().replace('"n_layer": 2', '"n_layer": 3'))
    with pytest.raises(CheckpointError, match=r"missing transformer\.h\.2"):
        GPT2.from_pretrained(tmp_path)
    config.write_text(
        config.read_text().replace('"n_layer": 3', '"n_layer": 2').replace('"n_embd": 32', '"n_embd": 64')
    )
    with pytest.raises(CheckpointError, match=r"wte\.weight has the shape \(97, 32\)"):
        GPT2.from_pretrained(tmp_path)
    config.write_text(config.read_text().replace("gelu_new", "relu"))
    with pytest.raises(ConfigError, match=r"not a GPT-2: .*activation_function = 'relu'"):
        GPT2.from_pretrained(tmp_path)


def test_wrong_ids_are_refused(tiny_model: GPT2) -> None:
    with pytest.raises(ConfigError, match=r"shape \(batch, time\)"):
        tiny_model(torch.tensor([1, 2]))
    with pytest.raises(ConfigError, match="25 tokens do not fit into context_length 24"):
        tiny_model(torch.zeros(1, 25, dtype=torch.long))
