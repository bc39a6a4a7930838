"""The rows, at a tiny shape: every entry computes what the others do."""

import pytest

from benchmarks.measure import CheckError, Row, run
from benchmarks.rows import decoding, training
from benchmarks.shapes import Shape
from gpt2 import GPT2Config

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


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_decoding(kind: str) -> None:
    once(decoding.row(TINY, kind))


def test_a_wrong_continuation_is_found() -> None:
    right = decoding.ours(TINY, decoding._TYPES["fp32"]).answer
    assert decoding.near_likeliest({"right": right}, TINY)
    with pytest.raises(CheckError, match="wrong"):
        decoding.near_likeliest({"wrong": [[*right[0][:100], 5, *right[0][101:]]]}, TINY)
