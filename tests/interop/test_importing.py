"""`gpt2 import` of Hugging Face folders and .pt files: verified, and nothing harmed when it is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from gpt2 import GPT2, Tokenizer, load
from gpt2.cli import main
from gpt2.errors import CheckpointError, TokenizerError, UserError
from gpt2.interop import importing as module
from gpt2.interop.importing import import_model
from gpt2.interop.parity import ParityError

IDS = torch.tensor([[5, 6, 7, 300]])


@pytest.mark.parametrize("form", ["safetensors", "shards", "bin"])
def test_a_folder_is_imported_and_verified(form: str, saved: Path, model: GPT2, tmp_path: Path) -> None:
    theirs = GPT2LMHeadModel.from_pretrained(saved)
    if form == "shards":
        theirs.save_pretrained(saved, max_shard_size="50KB")
    elif form == "bin":
        torch.save(theirs.state_dict(), saved / "pytorch_model.bin")
    if form != "safetensors":
        (saved / "model.safetensors").unlink()
    done = import_model(str(saved), out=tmp_path / "out")
    assert done.verified is not None
    assert done.verified.num_strings >= 1000
    again, _ = load(tmp_path / "out")
    assert torch.equal(again(IDS), model(IDS))
    origin = json.loads((tmp_path / "out" / "source.json").read_text())
    assert origin["source"] == str(saved)
    assert set(origin["sha256"]) >= {"model.safetensors", "config.json", "tokenizer.json"}


def test_a_pt_file_and_the_command(
    saved: Path, model: GPT2, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(saved.parent)
    torch.save(model.state_dict(), saved / "gpt2_model.pt")
    assert main(["import", "tiny/gpt2_model.pt"]) == 0
    text = capsys.readouterr().out
    assert "models/gpt2_model: 2 layers" in text.replace("\\", "/")
    assert "verified: by transformers" in text
    assert torch.equal(load("models/gpt2_model")[0](IDS), model(IDS))
    assert main(["import", "tiny/gpt2_model.pt"]) == 2
    assert "already holds a model; replace it with --overwrite" in capsys.readouterr().err
    assert main(["import", "tiny/gpt2_model.pt", "--overwrite"]) == 0


def test_another_tokenizer(saved: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "tok")
    (saved / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="no tokenizer"):
        import_model(str(saved), out=tmp_path / "out")
    import_model(str(saved), out=tmp_path / "out", tokenizer=str(tmp_path / "tok"))
    assert load(tmp_path / "out")[1].fingerprint == tokenizer.fingerprint


def test_broken_numbers_are_refused_by_name(saved: Path, tmp_path: Path) -> None:
    state = load_file(saved / "model.safetensors")
    state["transformer.h.1.ln_2.weight"][3] = torch.nan
    save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"h\.1\.ln_2\.weight that are no finite numbers"):
        import_model(str(saved), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_reading_is_not_written(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written has one weight wrong: transformers' reading of the source tells."""
    right = GPT2.save_pretrained

    def wrong(self: GPT2, folder: Path) -> None:
        with torch.no_grad():
            self.transformer.wpe.weight[2, 3] += 1.0
        right(self, folder)

    monkeypatch.setattr(module.GPT2, "save_pretrained", wrong)
    with pytest.raises(ParityError, match="predictions differ"):
        import_model(str(saved), out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_what_is_there_is_kept(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("mine")
    with pytest.raises(UserError, match=r"already holds config\.json"):
        import_model(str(saved), out=tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == "mine"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.json"]
