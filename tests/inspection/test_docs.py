"""Every command and every line of Python in docs/inspection.md, run for real on a small model."""

import re
import shlex
from pathlib import Path

import pytest

from gpt2 import GPT2, Tokenizer
from gpt2.checkpoint.snapshots import save_snapshot
from gpt2.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "inspection.md"


@pytest.fixture(scope="module")
def models(model: GPT2, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs")
    model.save_pretrained(path / "models/demo")
    tokenizer.save_pretrained(path / "models/demo")
    for step in (0, 10):
        save_snapshot(path / "models/demo/training/snapshots", model, step, 64 * step)
    return path


def test_the_examples_run(models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(models)
    text = PAGE.read_text(encoding="utf-8")
    shell = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    commands = [line for block in shell for line in block.splitlines()]
    assert len(commands) >= 5
    for line in commands:
        assert main(shlex.split(line)[1:]) == 0, line
        assert capsys.readouterr().out.strip()
    assert {"head.svg", "learned.png"} <= {path.name for path in models.iterdir()}
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, str(PAGE), "exec"), names)
    assert (models / "why.svg").exists()
