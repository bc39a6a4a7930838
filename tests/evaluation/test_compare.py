"""Comparisons whose truth is known: made-up scores first, then really trained models.

seeds.npz holds the scores of models that differ in nothing but the seed; scripts/seed_noise.py trained them.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from gpt2 import load, train
from gpt2.cli import main
from gpt2.data import iter_documents
from gpt2.errors import DataError
from gpt2.evaluation.bits_per_byte import Score, score_documents
from gpt2.evaluation.compare import SEED_NOISE, compare, seed_noise
from gpt2.evaluation.text import Judged

LN2 = np.log(2)
DRAW = np.random.default_rng(0)
SIZES = DRAW.integers(300, 1500, 200)
HARDNESS = DRAW.normal(1.2, 0.25, 200)  # of the documents: the same for every model


def made_up(bits_per_byte: float, seed: int, noise: float = 0.02) -> Score:
    rates = HARDNESS + bits_per_byte - 1.2 + np.random.default_rng(seed).normal(0, noise, 200)
    return Score(rates * SIZES * LN2, SIZES // 4, SIZES)


def test_pairing_finds_what_separate_intervals_do_not() -> None:
    first, second = made_up(1.20, 1), made_up(1.17, 2)
    found = compare([first], [second], noise=0)
    assert found.bits_per_byte == pytest.approx(first.bits_per_byte - second.bits_per_byte)
    assert found.is_told_from_noise
    assert "the second is better" in found.verdict()
    assert "B is better" in found.verdict("A", "B")
    (_, high), (low, _) = second.interval() or (0, 0), first.interval() or (0, 0)
    assert low < high  # apart, their intervals overlap


def test_the_interval_over_documents_holds_its_rate() -> None:
    wrong = sum(compare([made_up(1.2, 2 * i)], [made_up(1.2, 2 * i + 1)], 0).is_told_from_noise for i in range(100))
    assert 1 <= wrong <= 12  # 5 % of 100 are 5; three standard errors around it


def test_seeds_that_scatter_are_not_taken_for_recipes() -> None:
    draw = np.random.default_rng(5)

    def runs(level: float, n: int) -> list[Score]:
        return [made_up(level + draw.normal(0, 0.02), int(draw.integers(1 << 30))) for _ in range(n)]

    wrong = sum(compare(runs(1.2, 3), runs(1.2, 3)).is_told_from_noise for _ in range(60))
    assert wrong <= 8  # 5 %, and what chance allows above it
    assert compare(runs(1.2, 3), runs(1.0, 3)).is_told_from_noise
    alone = compare([made_up(1.2, 1)], [made_up(1.195, 2)])
    assert not alone.is_told_from_noise
    assert "no more than another seed" in alone.verdict()


def test_a_model_is_no_better_than_itself() -> None:
    found = compare([made_up(1.2, 1)], [made_up(1.2, 1)])
    assert found.same
    assert not found.is_told_from_noise
    assert found.verdict().startswith("no difference")


def test_a_model_that_is_not_there_is_told_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the text, too, which would have to be read and scored with the model before it."""
    assert main(["compare", "demo", "modles/mine", "--text", "no-text.txt"]) == 2
    assert "no model folder at modles/mine" in capsys.readouterr().err


def test_other_documents_are_refused_and_one_document_says_nothing() -> None:
    with pytest.raises(DataError, match="same documents"):
        compare([made_up(1, 1)], [Score(np.ones(3), np.ones(3, int), np.ones(3, int))])
    one = Score(np.array([3.0]), np.array([2]), np.array([5]))
    other = Score(np.array([4.0]), np.array([2]), np.array([5]))
    assert compare([one], [other]).documents is None
    assert not compare([one], [other]).is_told_from_noise


def test_the_assumed_noise_falls_with_the_steps() -> None:
    assert seed_noise(None) == SEED_NOISE == seed_noise(100) > seed_noise(101)
    assert seed_noise(500) == seed_noise(10**6) == 0.001
    short, long = made_up(1.2, 1), made_up(1.19, 2)
    assert not compare([short], [long], (seed_noise(100), seed_noise(100))).is_told_from_noise
    assert compare([short], [long], (seed_noise(5000), seed_noise(5000))).is_told_from_noise
    found = compare([short], [long], (seed_noise(100), seed_noise(200)))
    assert found.seeds == "assumed, 0.50% and assumed, 0.25%"
    # By hand: five degrees of freedom a side, and t of 7.35 of them rounded down to 7 is 2.36.
    spread = (found.training[1] - found.bits_per_byte) if found.training else 0.0
    seeds = 2.36 * np.hypot(0.005 * short.bits_per_byte, 0.0025 * long.bits_per_byte)
    documents = (found.documents[1] - found.documents[0]) / 2 if found.documents else 0.0
    assert spread == pytest.approx(np.hypot(seeds, documents), rel=0.02)


def seeds_of(setting: str) -> list[Score]:
    """Scores of models that differ in the seed alone, of 200 stories."""
    with np.load(Path(__file__).with_name("seeds.npz"), allow_pickle=False) as held:
        return [Score(row.astype(float), np.ones(200, int), held["bytes"]) for row in held[setting]]


def told_apart(scores: list[Score], noise: float) -> tuple[int, int]:
    """(pairs told from noise, pairs)."""
    pairs = list(itertools.combinations(scores, 2))
    return sum(compare([a], [b], noise).is_told_from_noise for a, b in pairs), len(pairs)


@pytest.mark.parametrize(
    ("setting", "steps", "least"),
    [("2x32-40", 40, 66), ("2x32-100", 100, 190), ("2x32-200", 200, 66), ("2x64-200", 200, 21)],
)
def test_trained_models_that_differ_in_the_seed_are_told_apart_no_more_often_than_promised(
    setting: str, steps: int, least: int
) -> None:
    told, pairs = told_apart(seeds_of(setting), seed_noise(steps))
    assert pairs >= least
    assert told <= 0.05 * pairs
    # By documents alone most pairs differ, and rightly: they are different models.
    assert told_apart(seeds_of(setting)[:8], 0.0)[0] > 10


def test_trained_models_that_have_learned_twice_as_long_are_told_apart() -> None:
    half, whole = seeds_of("2x32-100"), seeds_of("2x32-200")
    found = [compare([a], [b], (seed_noise(100), seed_noise(200))) for a, b in zip(half, whole, strict=False)]
    assert all(difference.is_told_from_noise and difference.bits_per_byte > 0 for difference in found)
    assert all(compare([a], [a], seed_noise(100)).same for a in half)


SMALL = {
    "d_model": 32, "num_layers": 1, "num_heads": 2, "context_length": 64, "vocab_size": 384, "batch_size": 8,
    "evals": 1, "progress": False, "dtype": "float32", "compile": "off", "threads": 1,
}  # fmt: skip


@pytest.mark.slow
def test_trained_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One model against itself, 21 pairs of seeds, and one trained twice as long, by the command too."""
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    stories = list(iter_documents())
    (tmp_path / "train.txt").write_text("\n<|endoftext|>\n".join(stories[:300]), encoding="utf-8")
    (tmp_path / "valid.txt").write_text("\n<|endoftext|>\n".join(stories[300:400]), encoding="utf-8")
    judged = Judged(stories[300:400], "")
    text = {"text": str(tmp_path / "train.txt"), "valid": str(tmp_path / "valid.txt")}
    scores = []
    for seed in range(7):
        run = train(**text, out=tmp_path / f"{seed}", steps=60, seed=seed, **SMALL)
        assert run is not None
        model, tokenizer = load(run.folder)
        scores.append(score_documents(model, judged.encode(tokenizer), judged.num_bytes, tokenizer.eos_token_id))
    told, pairs = told_apart(scores, seed_noise(60))
    assert pairs == 21
    assert told <= 1  # 5 % of 21
    train(**text, out=tmp_path / "long", steps=120, seed=9, **SMALL)
    capsys.readouterr()
    arguments = ["compare", str(tmp_path / "0"), str(tmp_path / "0"), str(tmp_path / "long"), "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    itself, long = found["differences"]
    assert itself["same"]
    assert itself["bits_per_byte"] == 0.0
    assert long["told_from_noise"]
    assert long["bits_per_byte"] > 0.05
    assert long["seeds"] == "assumed, 0.83% and assumed, 0.42%"
    assert main(["compare", str(tmp_path / "0"), "--text", str(tmp_path / "valid.txt")]) == 2
    assert main(["compare", *(str(tmp_path / f"{i}") for i in range(3)), "--against", str(tmp_path / "long")]) == 0
    assert "after --against is better" in capsys.readouterr().out.replace("those after", "after")
