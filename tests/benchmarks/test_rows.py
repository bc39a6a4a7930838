"""The rows, at a tiny shape: every entry computes what the others do."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.measure import CheckError, Row, run
from benchmarks.rows import decoding, inspection, saving, tap, time_to_loss, training
from benchmarks.shapes import Shape
from gpt2 import GPT2Config
from gpt2.data import iter_documents

TINY = Shape("tiny", GPT2Config(vocab_size=97, context_length=256, d_model=32, num_layers=2, num_heads=2), 2, 16)


def once(row: Row, without: str = "compiled") -> None:
    row.entries[:] = [entry for entry in row.entries if without not in entry.name]
    measured = run(row, 1, lambda line: None)
    timed = [figure for figure in measured.figures if not figure.failed]
    assert sum(not figure.ours for figure in timed) >= 2
    assert all(figure.median > 0 for figure in timed)
    assert measured.limit[0] > 0


def test_training() -> None:
    once(training.row(TINY))


def test_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints change no loss; the row compares the losses itself."""
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path))
    monkeypatch.setattr(saving, "_WARM_UP", 1)
    measured = run(saving.row(replace(TINY, config=replace(TINY.config, context_length=32)), 6, 3), 1, print)
    assert all(figure.median > 0 for figure in measured.figures)
    assert "every loss, bit for bit, with checkpoints and without, is the same" in measured.checked


def test_time_to_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides learn from the same text, and more time makes them better."""
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path))
    stories = [text for _, text in zip(range(120), iter_documents(), strict=False)]
    for name, part in (("train", stories[:100]), ("valid", stories[100:])):
        (tmp_path / f"TinyStories-{name}.txt").write_text("\n<|endoftext|>\n".join(part), encoding="utf-8")
    monkeypatch.setenv("GPT2_DATA", str(tmp_path))
    shape = replace(TINY, config=replace(TINY.config, vocab_size=400), time=64)
    text = time_to_loss.Text.sample(400)
    uniform = 9.0 / 2  # log2 of the vocabulary, over about two bytes per token
    for start in (time_to_loss.ours(shape, 3.0, text), time_to_loss.adamw(shape, 3.0, 3e-3, text)):
        assert 1.0 < start.measure() < uniform


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_decoding(kind: str) -> None:
    once(decoding.row(TINY, kind))


def test_a_wrong_continuation_is_found() -> None:
    right = decoding.ours(TINY, decoding._TYPES["fp32"]).answer
    assert decoding.near_likeliest({"right": right}, TINY)
    with pytest.raises(CheckError, match="wrong"):
        decoding.near_likeliest({"wrong": [[*right[0][:100], 5, *right[0][101:]]]}, TINY)


@pytest.mark.parametrize("job", ["training", "decoding"])
def test_the_twin_without_a_tap_computes_the_same(job: str) -> None:
    measured = run(tap.row(TINY, job), 1, lambda line: None)
    assert all(figure.median > 0 for figure in measured.figures)
    assert len(measured.figures) == 2


def test_nothing_of_the_tap_is_left_in_the_twin() -> None:
    for module in tap._TWINS:
        source = tap.source_without_tap(module)
        assert "hook_" not in source
        assert "def forward" in source or "def attention" in source
    with pytest.raises(TypeError, match="tap"):
        tap.twin()(TINY.config, tap._twin_kernels())(torch.zeros(1, 1, dtype=torch.long), tap=lambda name, value: value)


@pytest.mark.parametrize("job", list(inspection._TITLES))
def test_inspection_without_its_peer(job: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The peer's own test is `gpt2 bench inspection-*`, where every number of both is compared first."""
    monkeypatch.setenv("GPT2_HEAVY_PYTHON", str(tmp_path / "none"))
    monkeypatch.setitem(inspection._ROUNDS, job, 1)
    measured = run(inspection.row(job), 1, lambda line: None)
    assert measured.figures[0].median > 0
    assert "make interop" in measured.figures[1].failed
