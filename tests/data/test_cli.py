import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2.cli.data import main
from gpt2.errors import ConfigError, DataError, TokenizerError, UserError
from gpt2.tokenizer import Tokenizer


def test_check_prints_json_and_its_status_tells_of_problems(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["check", str(write(["one", "two"])), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["duplicate_documents"], report["valid_overlap"]) == (2, 0, None)
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    assert main(["check", str(tmp_path / "bad.txt")]) == 2
    assert "line 1: byte 0xe9 at offset 3" in capsys.readouterr().out


def test_prepare_trains_a_tokenizer_and_finds_its_shards_again(
    write: Callable[..., Path], cache: Path, tmp_path: Path, stories: list[str], capsys: pytest.CaptureFixture[str]
):
    path, saved = str(write(stories[:100])), tmp_path / "tokenizer.json"
    assert main(["prepare", path, "--vocab-size", "500", "--save-tokenizer", str(saved)]) == 0
    out = capsys.readouterr().out
    assert "train  95 documents" in out
    assert "valid  5 documents" in out
    assert "written" in out
    assert len(Tokenizer.load(saved)) == 500
    assert main(["prepare", path, "--tokenizer", str(saved)]) == 0
    assert "found" in capsys.readouterr().out


def test_the_tokenizer_never_sees_the_validation_text(
    write: Callable[..., Path], cache: Path, tmp_path: Path, stories: list[str]
):
    path = write([*stories[:60], "zyzzyva " * 50], "a.txt")
    saved = tmp_path / "t.json"
    valid = write(["zyzzyva " * 50], "v.txt")
    assert main(["prepare", str(write(stories[:60])), "--valid", str(valid), "--vocab-size", "400",
                 "--save-tokenizer", str(saved)]) == 0  # fmt: skip
    tokens = [Tokenizer.load(saved).token_bytes(i) for i in range(400)]
    assert not any(b"zyz" in token for token in tokens)
    assert main(["prepare", str(path), "--valid", str(valid), "--vocab-size", "400",
                 "--save-tokenizer", str(saved)]) == 0  # fmt: skip
    assert any(b"zyz" in Tokenizer.load(saved).token_bytes(i) for i in range(400))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["prepare", "{text}"], ConfigError, "--tokenizer PATH, or --vocab-size"),
        (["prepare", "{text}", "--tokenizer", "x", "--vocab-size", "300"], ConfigError, "--tokenizer PATH, or"),
        (["prepare", "{text}", "--tokenizer", "{text}"], TokenizerError, "not JSON"),
        (["prepare", "{text}", "--vocab-size", "9000"], TokenizerError, "larger than the text supports"),
        (["prepare", "{text}x", "--vocab-size", "300"], DataError, "Did you mean 'text.txt'"),
        (["check", "{folder}"], DataError, "has no text in it"),
        (["download", "tinystoris"], DataError, "Did you mean 'tinystories'"),
    ],
)
def test_bad_input_is_a_user_error_of_status_2(
    arguments: list[str], error: type[UserError], message: str, write: Callable[..., Path], cache: Path, tmp_path: Path
):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write(["some text", "more text"])
    filled = [argument.format(text=path, folder=folder) for argument in arguments]
    with pytest.raises(error, match=message) as caught:
        main(filled)
    assert caught.value.exit_code == 2
    assert not list(cache.rglob("*.ids"))


def test_an_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "--vocab-sise", "300"])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert "--vocab-size" in printed.out + printed.err


def test_help_needs_no_heavy_library():
    code = """
import sys
from gpt2.cli import data
try:
    data.main(["prepare", "--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {"torch", "numpy", "tokenizers", "gpt2.data", "gpt2.tokenizer"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--vocab-size" in done.stdout


def test_importing_the_data_package_imports_no_torch():
    code = "import sys, gpt2.data, gpt2.data.download, gpt2.data.check; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
