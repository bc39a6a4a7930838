"""Other people's GPT-2 folders: every form they are stored in, and what is refused because it is no GPT-2."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config as HFConfig
from transformers import GPT2LMHeadModel, GPT2Model

from gpt2 import GPT2, GPT2Config, Tokenizer, load
from gpt2.config import preset_config
from gpt2.errors import CheckpointError, ConfigError

IDS = torch.tensor([[5, 6, 7, 11, 2]])


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    torch.manual_seed(3)
    config = HFConfig(vocab_size=97, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def folder(theirs: GPT2LMHeadModel, tmp_path: Path) -> Path:
    theirs.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def old_state(theirs: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """A state dict as transformers wrote it for years: the tied head, and the masks as buffers."""
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    for layer in range(2):
        state[f"transformer.h.{layer}.attn.bias"] = torch.ones(16, 16, dtype=torch.uint8).tril().view(1, 1, 16, 16)
        state[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return state


def bare(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of OpenAI's first conversion, those of `GPT2Model`."""
    return {name.removeprefix("transformer."): value for name, value in state.items() if name != "lm_head.weight"}


def store(folder: Path, form: str, theirs: GPT2LMHeadModel) -> None:
    """Put the weights of `theirs` into `folder` in another form."""
    if form == "sharded safetensors":
        theirs.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    elif form == "bare names":
        GPT2Model.from_pretrained(folder).save_pretrained(folder)
    elif form == "bin":
        torch.save(old_state(theirs), folder / "pytorch_model.bin")
    elif form == "old bin format":
        torch.save(bare(old_state(theirs)), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif form == "sharded bin":
        state = old_state(theirs)
        names = sorted(state)
        shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
        for file, part in shards.items():
            torch.save({name: state[name] for name in part}, folder / file)
        table = {name: file for file, part in shards.items() for name in part}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    if form != "safetensors" and form != "bare names":
        (folder / "model.safetensors").unlink(missing_ok=True)


FORMS = ["safetensors", "sharded safetensors", "bare names", "bin", "old bin format", "sharded bin"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_logits_of_transformers(form: str, folder: Path, theirs: GPT2LMHeadModel) -> None:
    store(folder, form, theirs)
    model = GPT2.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)
    assert all(parameter.is_contiguous() and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("preset", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_sizes_of_openai_have_the_names_and_shapes_of_transformers(preset: str) -> None:
    config = preset_config(preset)
    with torch.device("meta"):
        ours, theirs = GPT2(config), GPT2LMHeadModel(HFConfig(**config.to_hf()))
    shapes = {name: tuple(parameter.shape) for name, parameter in theirs.named_parameters()}
    assert {name: tuple(parameter.shape) for name, parameter in ours.named_parameters()} == shapes


@pytest.mark.parametrize("seed", range(20))
def test_round_trip_from_transformers_and_back(seed: int, tmp_path: Path) -> None:
    """Their file, our file: the same names, shapes and bytes of every tensor, and the same logits."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    heads = draw(1, 4)
    shape = {"n_head": heads, "n_embd": heads * draw(2, 12), "n_layer": draw(1, 4), "n_positions": draw(2, 40)}
    theirs = GPT2LMHeadModel(HFConfig(vocab_size=draw(5, 300), **shape, bos_token_id=0, eos_token_id=0)).eval()
    theirs.save_pretrained(tmp_path / "a")
    GPT2.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again, report = GPT2LMHeadModel.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.randint(theirs.config.vocab_size, (2, shape["n_positions"]), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type = 'llama'"),
        ({"activation_function": "gelu"}, "activation_function = 'gelu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"rope_theta": 10000.0}, "rope_theta = 10000.0, that is rotary positions"),
        ({"quantization_config": {"bits": 4}}, "that is quantised weights"),
        ({"n_inner": 100}, "n_inner is 100, GPT-2 has 4 x n_embd = 128"),
        ({"n_embd": None, "n_inner": 128}, "d_model must be an integer, got None"),
        ({"n_layer": 10**18}, "num_layers must lie between 1 and 256"),
        ({"n_head": "4"}, "num_heads must be an integer, got '4'"),
        ({"n_positions": -1}, "context_length must lie between 1 and"),
        ({"resid_pdrop": 1.5}, r"dropout must lie in \[0, 1\), got 1.5"),
    ],
)
def test_what_is_no_gpt2_is_refused_by_name(change: dict, message: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    equal = dict.fromkeys(("embd_pdrop", "attn_pdrop"), change["resid_pdrop"]) if "resid_pdrop" in change else {}
    (folder / "config.json").write_text(json.dumps({**config, **change, **equal}))
    with pytest.raises(ConfigError, match=message):
        GPT2.from_pretrained(folder)


def test_code_that_a_configuration_points_to_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "evil.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    config |= {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "_attn_implementation_internal": "owner/evil"}
    (folder / "config.json").write_text(json.dumps(config))
    GPT2.from_pretrained(folder)
    assert not Path("ran").exists()


def test_unequal_dropouts_warn(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "resid_pdrop": 0.2, "attn_pdrop": 0.0}))
    with pytest.warns(UserWarning, match=r"resid_pdrop 0.2, embd_pdrop 0.1, attn_pdrop 0.0\); 0.2 is taken"):
        assert GPT2.from_pretrained(folder).config.dropout == 0.2


def _untied(state: dict[str, torch.Tensor]) -> None:
    state["lm_head.weight"] = state["transformer.wte.weight"] + 1


def _cross(state: dict[str, torch.Tensor]) -> None:
    state["transformer.h.0.crossattention.c_attn.weight"] = torch.zeros(2, 2)


def _quantised(state: dict[str, torch.Tensor]) -> None:
    state["transformer.h.1.mlp.c_fc.weight"] = torch.zeros(32, 128, dtype=torch.int8)


def _lost(state: dict[str, torch.Tensor]) -> None:
    del state["transformer.h.1.ln_2.bias"]


def _misshapen(state: dict[str, torch.Tensor]) -> None:
    state["transformer.wpe.weight"] = torch.zeros(17, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_untied, "lm_head.weight differs from wte.weight"),
        (_cross, r"unexpected transformer.h.0.crossattention.c_attn.weight"),
        (_quantised, r"transformer.h.1.mlp.c_fc.weight is stored as int8; quantised"),
        (_lost, r"missing transformer.h.1.ln_2.bias"),
        (_misshapen, r"transformer.wpe.weight has the shape \(17, 32\), config.json asks for \(16, 32\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message: str, folder: Path, theirs: GPT2LMHeadModel) -> None:
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    change(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        GPT2.from_pretrained(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "C:\\x.bin", "a/b.bin", ".", "", "x.pkl"])
def test_a_shard_is_a_file_beside_its_index(name: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"transformer.wte.weight": name}}))
    with pytest.raises(CheckpointError, match="a shard is a"):
        GPT2.from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": []}', '{"weight_map": {}}', "{" * 5000, "\x00"])
def test_a_damaged_index_is_named(content: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        GPT2.from_pretrained(folder)


def test_a_missing_shard_and_missing_weights_are_named(folder: Path, theirs: GPT2LMHeadModel) -> None:
    store(folder, "sharded safetensors", theirs)
    first = min(folder.glob("model-*.safetensors"))
    first.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {first.name}"):
        GPT2.from_pretrained(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors, no pytorch_model\.bin"):
        GPT2.from_pretrained(folder)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_that_runs_code_is_refused(zipped: bool, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    content = {"transformer.wte.weight": Malicious(tmp_path / "ran")}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="more than tensors"):
        GPT2.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("form", ["safetensors", "bin", "old bin format"])
def test_truncated_weights_are_named(form: str, share: float, folder: Path, theirs: GPT2LMHeadModel) -> None:
    store(folder, form, theirs)
    (file,) = [*folder.glob("model.safetensors"), *folder.glob("pytorch_model.bin")]
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(CheckpointError, match=f"{file.name} is damaged"):
        GPT2.from_pretrained(folder)


def test_load_of_a_foreign_folder_takes_its_old_tokenizer_files(folder: Path) -> None:
    """OpenAI's folders have vocab.json and merges.txt."""
    tokenizer = Tokenizer.train(["ab " * 20], 257, allow_fewer=True)
    content = json.loads(tokenizer.to_json())["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = json.loads((folder / "config.json").read_text())
    wide = GPT2(GPT2Config.from_hf({**config, "vocab_size": 300}))
    wide.save_pretrained(folder)
    assert load(folder)[1].encode("ab") == tokenizer.encode("ab")
