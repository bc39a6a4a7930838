"""The manifest of a finished run: what differs is told with both sums, and there is a way out of each case."""

import hashlib
import json
from pathlib import Path

import pytest

from gpt2 import GPT2, GPT2Config, Tokenizer, load
from gpt2.errors import CheckpointError
from gpt2.manifest import FILES, changed, renew_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    config = GPT2Config(vocab_size=320, context_length=16, d_model=16, num_layers=1, num_heads=2, eos_token_id=0)
    GPT2(config).save_pretrained(folder)
    Tokenizer.train(["the cat sat on the mat. " * 20], 280, allow_fewer=True).save_pretrained(folder)
    (folder / "training").mkdir()
    (folder / "training/report.html").write_text("the report")
    write_manifest(folder)
    return folder


def flip(path: Path) -> str:
    """Change one bit in the middle; the new sum."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_it_lists_the_files_with_their_sums(folder: Path) -> None:
    files = json.loads((folder / "training/manifest.json").read_text())["files"]
    assert set(files) == {name for name in FILES if (folder / name).is_file()}
    assert {"model.safetensors", "tokenizer.json", "training/report.html"} <= set(files)
    for name, entry in files.items():
        content = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_a_flipped_bit_is_told_with_both_sums_and_ways_out(folder: Path) -> None:
    load(folder)
    before = json.loads((folder / "training/manifest.json").read_text())["files"]["model.safetensors"]["sha256"]
    after = flip(folder / "model.safetensors")
    for read in (load, GPT2.from_pretrained):
        with pytest.raises(CheckpointError, match=r"model\.safetensors is not what the run wrote") as caught:
            read(folder)
        for part in (before, after, f"gpt2 train --resume {folder}", "delete the manifest"):
            assert part in str(caught.value)
    (folder / "training/manifest.json").unlink()
    load(folder)


def test_an_edited_default_is_only_a_warning(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 0.5}')
    with pytest.warns(UserWarning, match="If you edited it, delete the manifest"):
        model, _ = load(folder)
    assert model.generation_defaults == {"temperature": 0.5}


def test_what_writes_a_file_again_is_no_damage(folder: Path) -> None:
    model, tokenizer = load(folder)
    (folder / "training/report.html").write_text("a new report")
    assert changed(folder, "training/report.html")
    renew_manifest(folder, "training/report.html")
    assert changed(folder, "training/report.html") is None
    tokenizer.save(folder)
    assert not (folder / "training/manifest.json").exists(), "no longer the run's"
    renew_manifest(folder, "training/report.html")
    assert not (folder / "training/manifest.json").exists(), "a part of a manifest would be none"
    write_manifest(folder)
    model.save_pretrained(folder)
    load(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"version": 9}', '{"version": 1, "files": []}', "[" * 100_000])
def test_a_manifest_that_cannot_be_read_is_named(folder: Path, content: str) -> None:
    (folder / "training/manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read .* or delete this file"):
        load(folder)
