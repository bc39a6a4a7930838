"""`make demo-model` in small: from two text files to a packed model, the same bytes each time."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from gpt2 import load
from gpt2.data import iter_documents
from gpt2.files import sha256

ROOT = Path(__file__).resolve().parents[2]
TINY = """\
[model]
d_model = 16
num_layers = 1
num_heads = 2
context_length = 32
vocab_size = 320

[optimization]
steps = 6
batch_size = 4

[run]
dtype = "float32"
threads = 1
evals = 1
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("demo_model_script", ROOT / "scripts" / "demo_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = tmp_path / "tiny.toml"
    settings.write_text(TINY, encoding="utf-8")
    monkeypatch.setattr(module, "SETTINGS", settings)
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    stories = [story for _, story in zip(range(60), iter_documents(), strict=False)]
    (tmp_path / "data").mkdir()
    for name, part in zip(module.FILES, (stories[:50], stories[50:]), strict=True):
        (tmp_path / "data" / name).write_text("\n<|endoftext|>\n".join(part), encoding="utf-8")
    return module


def test_text_in_a_packed_model_out_and_again_the_same(script: Any, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        out = tmp_path / name
        script.main(["--data", str(tmp_path / "data"), "--run", str(tmp_path / f"run-{name}"), "--out", str(out)])
        made.append(out)
    one, two = made
    assert sha256(one / "model.safetensors") == sha256(two / "model.safetensors")
    figures = json.loads((one / "figures.json").read_text(encoding="utf-8"))
    assert figures["steps"] == 6
    assert figures["tokens"] == 6 * 4 * 32
    assert figures["text"]["documents"] == 50
    assert figures["text"]["sha256"] == sha256(tmp_path / "data" / script.FILES[0])
    assert figures["held_out"]["documents"] == 10
    assert figures["bits_per_byte"]["float16"] == pytest.approx(figures["bits_per_byte"]["float32"], abs=0.01)
    assert str(tmp_path) not in (one / "figures.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in (one / "README.md").read_text(encoding="utf-8")
    model, _ = load(one)
    assert model.config.d_model == 16


def test_a_run_that_is_whole_is_only_packed(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--data", str(tmp_path / "data"), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    script.main(arguments)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(script, "train", never)
    before = sha256(tmp_path / "out" / "model.safetensors")
    script.main(arguments)
    assert sha256(tmp_path / "out" / "model.safetensors") == before
