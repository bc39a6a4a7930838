"""`gpt2 evaluate` on really trained models: one that has learned its text by heart, and one that has not."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2 import train
from gpt2.cli import main
from gpt2.data import iter_documents

SHAPE: dict[str, Any] = {
    "d_model": 64, "num_layers": 2, "num_heads": 4, "context_length": 64, "batch_size": 16, "vocab_size": 512,
    "evals": 1, "progress": False, "dtype": "float32", "compile": "off", "threads": 1,
}  # fmt: skip
FEW_STEPS: dict[str, Any] = {"num_layers": 1, "batch_size": 32}
"""Enough for learning fifty stories by heart, in half the time."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stories: the beginnings of fifty to learn by heart, many to learn from, and others that nobody has seen."""
    folder = tmp_path_factory.mktemp("examine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2_CACHE", str(folder / "cache"))
        stories = sorted(itertools.islice(iter_documents(), 900), key=len)
        fifty = [story[: story.index(". ", 200) + 1] for story in stories[:50]]
        many, unseen = stories[50::2], stories[51::2]
        for name, some in (("fifty", fifty), ("many", many), ("unseen", unseen[::3])):
            (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(some), encoding="utf-8")
        yield folder


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_model_that_recites_is_called_so_and_another_is_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_heart, many, unseen = (folder / f"{name}.txt" for name in ("fifty", "many", "unseen"))
    assert train(by_heart, valid=by_heart, out=folder / "heart", epochs=200, **{**SHAPE, **FEW_STEPS}) is not None
    assert train(many, valid=unseen, out=folder / "free", epochs=1, **SHAPE) is not None
    heart, free = (evaluate(capsys, folder / name, unseen, "--stories", 48) for name in ("heart", "free"))
    assert heart["memorization"]["verdict"] == "memorised"
    assert heart["memorization"]["recited"] > 0.8
    assert heart["memorization"]["passage"] in by_heart.read_text()
    assert free["memorization"]["verdict"] == "not memorised"
    assert free["bits_per_byte"] < free["baselines"]["unigram"] < free["baselines"]["uniform"]
    assert heart["bits_per_byte"] > free["bits_per_byte"]
    low, high = free["bits_per_byte_interval"]
    assert low < free["bits_per_byte"] < high
    # The run left the same figures in its folder, for the held-out documents it was told of.
    stored = json.loads((folder / "free" / "training" / "evaluation.json").read_text())
    assert stored["bits_per_byte"] == pytest.approx(free["bits_per_byte"], rel=1e-6)


def test_threads_change_no_figure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stories, pairs, baselines and scores come out alike, one after the other or beside one another."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(evaluate(capsys, "demo", folder / "fifty.txt", "--train", folder / "many.txt", "--stories", 6))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
    assert found[0]["stories"]["pairs"] > 50
    assert len(found[0]["memorization"]["samples"]) == 6


def test_a_model_from_elsewhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder written by transformers: no run, no training text, unless it is named."""
    assert train(folder / "fifty.txt", out=folder / "run", steps=2, **SHAPE) is not None
    model = GPT2LMHeadModel.from_pretrained(folder / "run")
    model.save_pretrained(folder / "theirs")
    (folder / "theirs" / "tokenizer.json").write_bytes((folder / "run" / "tokenizer.json").read_bytes())
    alone = evaluate(capsys, folder / "theirs", folder / "unseen.txt", "--stories", 4)
    assert "memorization" not in alone
    assert alone["baselines_counted_on"] == "another half of the same documents"
    assert "unknown_words" not in alone["stories"]["model"]
    told = evaluate(capsys, folder / "theirs", folder / "unseen.txt", "--stories", 4, "--train", folder / "fifty.txt")
    assert told["baselines_counted_on"] == "the training text"
    assert len(told["memorization"]["samples"]) == 4
    assert told["bits_per_byte"] == alone["bits_per_byte"]
    assert "stories" not in evaluate(capsys, folder / "theirs", folder / "unseen.txt", "--stories", 0)
    assert main(["evaluate", str(folder / "run"), str(folder / "fifty.txt"), "--stories", "3"]) == 0
    told_text = capsys.readouterr()
    assert "also stand in the training text" in told_text.err
    for words in ("bits per byte", "95% over documents", "gzip -9", "real text", "a or an", "not memorised"):
        assert words in told_text.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no model at nowhere|nowhere"),
        (["RUN", "nowhere.txt"], "nowhere.txt"),
        (["RUN", "--stories", "-1"], "stories must be 0 or more"),
        (["RUN", "--temperature", "0"], "temperature must be above 0"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run = folder / "small"
    if not run.exists():
        train(folder / "fifty.txt", out=run, steps=1, **SHAPE)
    capsys.readouterr()
    assert main(["evaluate", *(str(run) if word == "RUN" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpt2: error: ")
    assert any(part in error for part in message.split("|"))
