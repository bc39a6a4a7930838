"""Where operations can be compiled makes a difference in the last bits, so a run keeps to those it was begun with."""

from pathlib import Path
from typing import Any

import pytest

from gpt2 import native, train
from gpt2.data import iter_documents
from gpt2.errors import CheckpointError
from gpt2.files import sha256
from tests.integration.breaking import break_off

OPTIONS: dict[str, Any] = {
    "d_model": 32, "num_layers": 1, "num_heads": 1, "context_length": 64, "vocab_size": 300, "batch_size": 4,
    "steps": 8, "evals": 2, "progress": False, "dtype": "float32",
}  # fmt: skip


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if native.library()[0] is None:
        pytest.skip(native.library()[1])
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(text for _, text in zip(range(60), iter_documents(), strict=False)))
    return path


def weights(folder: Path) -> str:
    return sha256(folder / "model.safetensors")


def test_a_run_begun_without_a_compiler_goes_on_without(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with native.refused("no compiler yet"):
        train([text], out=tmp_path / "whole", **OPTIONS)
        break_off(text, tmp_path / "broken", 4, monkeypatch, **OPTIONS)
    train(resume=tmp_path / "broken", progress=False)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    train([text], out=tmp_path / "compiled", **OPTIONS)
    assert weights(tmp_path / "compiled") != weights(tmp_path / "whole"), "or the test could not fail"


def test_a_run_begun_with_compiled_operations_is_not_resumed_by_others(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(text, tmp_path / "run", 4, monkeypatch, **OPTIONS)
    before = weights(tmp_path / "run")
    with native.refused("there is no C++ compiler"), pytest.raises(CheckpointError, match=r"no C\+\+ compiler.*--from"):
        train(resume=tmp_path / "run", progress=False)
    assert weights(tmp_path / "run") == before
    train(resume=tmp_path / "run", progress=False)


def test_a_run_of_the_reference_kernels_needs_no_compiler(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "kernels": "reference"}
    train([text], out=tmp_path / "whole", **options)
    break_off(text, tmp_path / "broken", 4, monkeypatch, **options)
    with native.refused("there is no C++ compiler"):
        train(resume=tmp_path / "broken", progress=False)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
