"""`gpt2 export`: each format through its reader, and that nothing bad is ever left or lost."""

import json
import sys
from pathlib import Path

import onnx
import pytest
import torch

from gpt2 import load
from gpt2.cli import main
from gpt2.errors import ConfigError, UserError
from gpt2.interop import export as module
from gpt2.interop.export import export, model_name
from gpt2.interop.parity import ParityError

FILES = {
    "hf": {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"},
    "pt": {"gpt2_model.pt", "tokenizer.json", "tokenizer_config.json"},
    "onnx": {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx",
        "onnx/model_quantized.onnx",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("to", "dtype"), [("hf", None), ("hf", "f16"), ("hf", "bf16"), ("pt", None), ("pt", "f16"), ("onnx", None)]
)
def test_every_format_is_verified(to: str, dtype: str | None, saved: Path, tmp_path: Path) -> None:
    done = export(saved, to, out=tmp_path / "out", dtype=dtype)
    assert set(done.files) == FILES[to]
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")} == FILES[to]
    assert done.unverified == {}
    assert len(done.verified) == (2 if to == "onnx" else 1)
    assert all(parity.num_strings >= 1000 for parity in done.verified.values()) or to == "pt"
    if to in ("hf", "pt"):
        again, _ = load(tmp_path / "out" / ("gpt2_model.pt" if to == "pt" else ""))
        kind = {None: torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
        assert {parameter.dtype for parameter in again.parameters()} == {kind}


def test_gguf_says_how_it_would_be_verified(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2_NODE_MODULES", raising=False)
    assert main(["export", "tiny", "--to", "gguf", "--dtype", "q8_0"]) == 0
    text = capsys.readouterr().out
    assert "exports/tiny/tiny-q8_0.gguf" in text.replace("\\", "/")
    assert "written, not verified" in text
    assert "npm install node-llama-cpp" in text
    assert "\nverified: " not in text


def test_a_reader_that_is_not_installed_leaves_the_file_unverified(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = export(saved, "onnx", out=tmp_path / "out")
    assert done.verified == {}
    assert set(done.unverified) == {"onnx/model.onnx", "onnx/model_quantized.onnx"}
    assert (tmp_path / "out" / "onnx" / "model.onnx").is_file()


def test_a_missing_writer_is_one_line(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library, to in (("gguf", "gguf"), ("onnx", "onnx")):
        monkeypatch.setitem(sys.modules, library, None)
        assert main(["export", str(saved), "--to", to, "--out", str(saved.parent / "out")]) == 2
        assert "pip install 'gpt2-from-scratch[export]'" in capsys.readouterr().err
    assert not (saved.parent / "out").exists()
    assert list(saved.parent.iterdir()) == [saved]


def test_a_mismatch_deletes_the_export_and_fails(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A writer with one wrong weight; what stood there before stays."""
    right = module.onnx.write_onnx

    def wrong(model, path: Path, quantised: bool) -> None:
        right(model, path, quantised)
        made = onnx.load(path)
        (bias,) = [tensor for tensor in made.graph.initializer if tensor.name == "h.1.mlp.c_proj.bias"]
        values = onnx.numpy_helper.to_array(bias).copy()
        values[5] += 0.5  # one of them: a shift of all of them is taken away by the norm that follows
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(made, path)

    export(saved, "onnx", out=tmp_path / "out")
    before = (tmp_path / "out" / "onnx" / "model.onnx").read_bytes()
    monkeypatch.setattr(module.onnx, "write_onnx", wrong)
    assert main(["export", str(saved), "--to", "onnx", "--out", str(tmp_path / "out"), "--overwrite"]) == 1
    assert "onnx/model.onnx failed its check and has been removed" in capsys.readouterr().err
    assert (tmp_path / "out" / "onnx" / "model.onnx").read_bytes() == before
    with pytest.raises(ParityError, match="predictions differ by more than the format explains"):
        export(saved, "onnx", out=tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]


def test_formats_share_a_folder_and_other_models_are_not_overwritten(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for to in ("hf", "onnx", "pt", "gguf"):
        export(saved, to, out=out)
    export(saved, "hf", out=out)  # the same again is no conflict
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}))
    whole = (out / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"already holds config\.json with other content; .* --overwrite"):
        export(saved, "hf", out=out)
    assert (out / "config.json").read_bytes() == whole
    export(saved, "hf", out=out, overwrite=True)
    assert (out / "config.json").read_bytes() != whole
    with pytest.raises(UserError, match="is a file; give --out a folder"):
        export(saved, "hf", out=out / "config.json")


def test_bad_options_are_refused_by_name(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--dtype q8_0 does not exist for hf; it can be f32, f16, bf16"):
        export(saved, "hf", dtype="q8_0")
    with pytest.raises(ConfigError, match="both written"):
        export(saved, "onnx", dtype="f16")
    with pytest.raises(ConfigError, match="there is no format 'ggml'; choose hf, gguf, onnx, pt"):
        export(saved, "ggml")
    assert main(["export", str(saved.parent / "tin"), "--to", "hf"]) == 2
    assert "Did you mean 'tiny'?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(saved), "--to", "hf", "--dtype", "None"])


def test_names_of_sources() -> None:
    assert model_name("models/mine") == model_name("models/mine/") == "mine"
    assert model_name("hf:owner/name@main") == "name"
    assert model_name("hf:gpt2") == "gpt2"
    assert model_name("a/gpt2_model.pt") == "gpt2_model"
