"""`gpt2 verify-resume`, run for real; and that it would see a difference."""

import dataclasses
from pathlib import Path

import pytest

from gpt2 import train
from gpt2.cli import main
from gpt2.training.verification import Verdict, verify_resume
from tests.stories import write_stories


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "model"
    text = write_stories(out.with_name("stories.txt"), 40)
    sizes = {"d_model": 32, "num_layers": 1, "num_heads": 2, "context_length": 32, "vocab_size": 300}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2_CACHE", str(out.parent / "cache"))
        train(text, out=out, steps=3, batch_size=4, dropout=0.1, dtype="float32", progress=False, **sizes)
    return out


def test_a_killed_run_is_proven_to_resume_exactly(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_CACHE", str(model.parent / "cache"))
    before = sorted(path.name for path in model.rglob("*"))
    said: list[str] = []
    verdict = verify_resume(model, steps=9, say=said.append)
    assert verdict.exact, verdict.lines()
    assert (verdict.steps, verdict.resumed_at, verdict.killed_at) == (9, 3, 4)
    assert set(verdict.files) == {"model.safetensors", "average.safetensors", "optimizer.safetensors"}
    assert "9 of 9 equal in every bit" in verdict.lines()[1]
    assert len(said) == 3
    assert sorted(path.name for path in model.rglob("*")) == before


def test_a_difference_is_told_and_is_no_success() -> None:
    same = Verdict(20, 6, 9, None, {"model.safetensors": ("ab" * 32, "ab" * 32)}, "this machine")
    assert same.exact
    other = dataclasses.replace(same, first_difference=8, files={"model.safetensors": ("ab" * 32, "cd" * 32)})
    assert not other.exact
    assert "7 of 20 equal" in other.lines()[1]
    assert "DIFFERENT, cdcdcdcd" in other.lines()[2]
    assert other.lines()[-1].startswith("RESUMING IS NOT EXACT")


def test_what_is_no_run_is_refused(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-resume", str(tmp_path / "none")]) == 2
    assert "no run to resume" in capsys.readouterr().err
    assert main(["verify-resume", str(model), "--steps", "3"]) == 2
    assert "too few" in capsys.readouterr().err
