"""The table of docs/recipe.md is made of the runs on record, and each change it names does change the training."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation, ablation_changes
from gpt2 import Tokenizer
from gpt2.data import Prepared, iter_documents, prepare_corpus, survey


def test_the_table_is_of_the_runs_on_record() -> None:
    assert ablation.table(ablation.read()) in ablation.PAGE.read_text(encoding="utf-8")
    assert {result.change for result in ablation.read()} <= set(ablation_changes.CHANGES)


def test_mean_difference_and_error_by_hand() -> None:
    base, change = list(ablation_changes.CHANGES)[:2]
    results = [ablation.Result(base, seed, 1.0, 1.0 + seed / 10) for seed in range(3)]
    results += [ablation.Result(change, seed, 0.9, 0.9 + seed / 10 + seed / 100) for seed in range(3)]
    results.append(ablation.Result("momentum 0.9", 0, 0.5, 0.5))  # not all seeds yet: left out
    rows = ablation.table(results).splitlines()[2:]
    # Differences of -0.10, -0.09 and -0.08: their mean, and 0.01 divided by the root of three.
    assert rows == [
        f"| {change} | 1.0100 | -0.0900 ± 0.0058 | 0.9000 |",
        f"| **{base}** | 1.1000 |  | 1.0000 |",
    ]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Tokenizer]:
    folder = tmp_path_factory.mktemp("ablation")
    stories = [story for _, story in zip(range(80), iter_documents(), strict=False)]
    for name, some in (("text", stories[:70]), ("valid", stories[70:])):
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(some), encoding="utf-8")
    corpus = survey([folder / "text.txt"], valid=[folder / "valid.txt"], cache=folder / "cache", progress=False)
    tokenizer = Tokenizer.train(corpus.training_texts(), 300)
    return prepare_corpus(corpus, tokenizer, cache=folder / "cache", progress=False), tokenizer


def test_each_change_changes_something(material: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"num_layers": 1, "d_model": 16, "num_heads": 2, "context_length": 32}
    monkeypatch.setattr(ablation, "_SHAPE", shape)
    monkeypatch.setattr(ablation, "TOKENS", 12 * ablation_changes.UNIT)
    found = {name: ablation.train(*material, recipe, seed=0) for name, recipe in ablation_changes.CHANGES.items()}
    assert ablation.train(*material, ablation_changes.Recipe(), seed=0) == found[next(iter(found))]
    assert len(set(found.values())) == len(found)


def test_one_text_alone_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ablation", str(Path("train.txt"))])
    with pytest.raises(SystemExit):
        ablation.main()
    assert "VALID is missing" in capsys.readouterr().err
