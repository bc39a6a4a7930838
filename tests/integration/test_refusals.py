"""Bad input: one clear line, status 2, no traceback, and nothing that was there is harmed."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2 import train
from gpt2.cli import main
from gpt2.data import iter_documents

SIZES = ["--d-model", "32", "--num-layers", "1", "--num-heads", "2", "--vocab-size", "300", "--steps", "2"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield  # pyright: ignore


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    stories = [story for _, story in zip(range(40), iter_documents(), strict=False)]
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model"
    train(
        [text],
        out=out,
        steps=2,
        d_model=32,
        num_layers=1,
        num_heads=2,
        context_length=32,
        vocab_size=300,
        progress=False,
    )
    return out


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused; gives what it said, after checking how it said it."""

    def run(*argv: object, box: bool = False) -> str:
        before = tree(tmp_path)
        capfd.readouterr()
        try:
            status = main([str(word) for word in argv])
        except SystemExit as stopped:  # the settings library's own way to end
            assert box, "only usage errors may come from the settings library"
            status = stopped.code
        said = capfd.readouterr().err
        assert status == 2, said
        assert "Traceback" not in said
        assert tree(tmp_path) == before
        if not box:
            assert said.splitlines()[-1].startswith("gpt2: error: "), said
            return said.splitlines()[-1]
        return said

    return run


def test_text_files(refused: Refused, text: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out", *SIZES]
    (tmp_path / "story.txt").write_text("A story.", encoding="utf-8")
    assert "story.txt" in refused("train", tmp_path / "stroy.txt", *out)
    (tmp_path / "empty.txt").touch()
    assert "empty.txt" in refused("train", tmp_path / "empty.txt", *out)
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 8)
    assert "picture.txt" in refused("train", tmp_path / "picture.txt", *out)
    (tmp_path / "folder").mkdir()
    assert "folder" in refused("train", tmp_path / "folder", *out)
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(text.read_bytes())[:-200])
    assert "cut.txt.gz" in refused("train", tmp_path / "cut.txt.gz", *out)
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n', encoding="utf-8")
    assert "2" in refused("train", tmp_path / "bad.jsonl", *out)
    (tmp_path / "other.jsonl").write_text('{"story": "fine"}\n', encoding="utf-8")
    assert "story" in refused("train", tmp_path / "other.jsonl", *out)


def test_bad_utf8_names_line_and_byte_and_may_be_replaced(refused: Refused, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(text.read_bytes() + b"\nA caf\xe9 at night.\n")
    said = refused("train", path, "--out", tmp_path / "out", *SIZES)
    line = text.read_bytes().count(b"\n") + 2
    assert "latin.txt" in said
    assert str(line) in said
    assert str(len(text.read_bytes()) + 6) in said.replace(",", "")
    assert "--encoding-errors replace" in said
    options = ["--context-length", "32", "--encoding-errors", "replace"]
    assert main(["train", str(path), "--out", str(tmp_path / "out"), *SIZES, *options]) == 0


def test_shapes_that_do_not_fit(refused: Refused, text: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out", "--steps", "2"]
    said = refused("train", text, *out, "--d-model", "100", "--num-heads", "3", "--num-layers", "1")
    assert "d_model (100) must be a multiple of num_heads (3)" in said
    said = refused(
        "train", text, *out, "--context-length", "90000", "--d-model", "16", "--num-heads", "2", "--num-layers", "1"
    )
    assert "context_length is 90,000" in said
    said = refused("train", text, "--out", tmp_path / "out", "--vocab-size", "60000", "--steps", "2")
    assert "60" in said
    assert "vocab" in said


def test_run_that_is_there_is_not_touched(refused: Refused, text: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "run")
    said = refused("train", text, "--out", tmp_path / "run", *SIZES)
    assert "--resume" in said
    assert "--overwrite" in said
    assert "no run to resume" in refused("train", "--resume", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "is a file" in refused("train", text, "--out", tmp_path / "file", *SIZES)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_model_folder_with_a_missing_file(refused: Refused, model: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    assert name in refused("generate", tmp_path / "m", "Once")
    assert name in refused("evaluate", tmp_path / "m")


def test_model_folder_with_a_damaged_or_mismatched_file(refused: Refused, model: Path, tmp_path: Path) -> None:
    weights = tmp_path / "m" / "model.safetensors"
    shutil.copytree(model, tmp_path / "m")
    whole = weights.read_bytes()
    for content in (whole[:-100], whole[:50], b"", b"\xff" * 200):
        weights.write_bytes(content)
        assert "model.safetensors is not what the run wrote" in refused("generate", tmp_path / "m", "Once")
    (tmp_path / "m/training/manifest.json").unlink()  # as in a folder from elsewhere
    weights.write_bytes(whole[:-100])
    assert "model.safetensors is damaged" in refused("generate", tmp_path / "m", "Once")
    weights.write_bytes(whole)
    config = tmp_path / "m" / "config.json"
    stored = json.loads(config.read_text())
    config.write_text(json.dumps({**stored, "n_embd": 64}))
    assert "the weights do not match the configuration" in refused("generate", tmp_path / "m", "Once")
    config.write_text("{")
    assert "config.json cannot be read" in refused("generate", tmp_path / "m", "Once")
    config.write_text(json.dumps(stored))
    (tmp_path / "m" / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    assert "tokenizer.json" in refused("generate", tmp_path / "m", "Once")


def test_disk_without_room(refused: Refused, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk has left is the operating system's to say; here it says little."""
    import shutil as used

    usage = used.disk_usage(tmp_path)
    monkeypatch.setattr(used, "disk_usage", lambda path: usage._replace(free=100_000))
    said = refused("train", text, "--out", tmp_path / "out", "--context-length", "32", *SIZES)
    assert "no room on the disk for the model and its checkpoints" in said
    assert "100 kB free" in said


def test_generation_options(refused: Refused, model: Path) -> None:
    assert "the model's context holds 32" in refused("generate", model, "once upon a time " * 30)
    assert "temperature must be 0 (greedy) or above, got -1.0" in refused("generate", model, "a", "--temperature", "-1")
    assert "top_p must be in (0, 1], got 2.0" in refused("generate", model, "a", "--top-p", "2")
    assert "num_samples must be 1 or more" in refused("generate", model, "a", "--num-samples", "0")
    assert "max_new_tokens must be 0 or more" in refused("generate", model, "a", "--max-new-tokens", "-3")
    assert "no device 'tpu'" in refused("generate", model, "a", "--device", "tpu")


def test_unknown_commands_options_and_settings(refused: Refused, text: Path, tmp_path: Path) -> None:
    assert "--d-model" in refused("train", text, "--d-modle", "32", box=True)
    assert "--temperature" in refused("generate", "x", "--temprature", "1", box=True)
    assert "Did you mean 'tinystories'" in refused("train", "--preset", "tinystorys")
    (tmp_path / "my.toml").write_text("d_modle = 3\n")
    assert "Did you mean 'd_model'" in refused("train", "--config", tmp_path / "my.toml")
    assert "give one of minutes, epochs and steps" in refused("train", text, "--steps", "3", "--minutes", "2")


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "Did you mean 'train'" in capsys.readouterr().err
