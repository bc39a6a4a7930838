"""The measuring itself: turns, medians, the check before the clock, what a page shows."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.measure import (
    CheckError,
    Entry,
    Missing,
    Row,
    Running,
    agree_exactly,
    agree_on_number,
    agree_on_numbers,
    run,
)


def row(answers: dict[str, object], figures: dict[str, list[float]], calls: list[str], **options: object) -> Row:
    def entry(name: str) -> Entry:
        values = iter(figures[name])

        def start() -> Running:
            if answers[name] == "missing":
                raise Missing("pip install it")

            def measure() -> float:
                calls.append(name)
                return next(values)

            return Running(answers[name], measure, lambda: calls.append(f"close {name}"))

        return Entry(name, start, ours=name == "ours")

    return Row("r", "Row", "tokens/s", [entry(n) for n in answers], lambda given: agree_exactly(given, "it"), **options)  # type: ignore[arg-type]


def test_entries_take_turns_and_the_order_turns_round() -> None:
    calls: list[str] = []
    figures = {"ours": [4.0, 8.0, 6.0], "peer": [2.0, 3.0, 4.0]}
    measured = run(row({"ours": 1, "peer": 1}, figures, calls), 3, lambda line: None)
    assert calls == ["ours", "peer", "peer", "ours", "ours", "peer", "close ours", "close peer"]
    assert [figure.median for figure in measured.figures] == [6.0, 3.0]
    assert measured.figures[0].quartiles == (5.0, 7.0)
    assert report.ratio(measured) == 2.0


def test_nothing_is_timed_if_the_answers_differ() -> None:
    calls: list[str] = []
    with pytest.raises(CheckError, match="it of peer is another than that of ours"):
        run(row({"ours": 1, "peer": 2}, {"ours": [1.0], "peer": [1.0]}, calls), 1, lambda line: None)
    assert calls == ["close ours", "close peer"]


def test_a_missing_peer_is_shown_as_missing(tmp_path: Path) -> None:
    answers = {"ours": 1, "peer": "missing", "other": None}
    measured = run(row(answers, {"ours": [5.0], "peer": [], "other": [10.0]}, []), 1, lambda line: None)
    assert "not comparable: other" in measured.checked
    table = report.table(measured)
    assert "| peer | not measured: pip install it |" in table
    assert "| **ours** | 5 (5 to 5) | 0.50 |" in table
    report.save(measured, {"processor": "p", "memory": "m", "system": "s", "versions": "v"}, "gpt2 bench r", tmp_path)
    report.write_page(tmp_path, tmp_path / "page.md", tmp_path / "picture.svg")
    assert table in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "0.50" in (tmp_path / "picture.svg").read_text(encoding="utf-8")


def test_less_is_better_where_the_row_says_so() -> None:
    figures = {"ours": [2.0], "peer": [6.0], "other": [3.0]}
    measured = run(row(dict.fromkeys(figures, 1), figures, [], more_is_better=False), 1, lambda line: None)
    assert report.ratio(measured) == 1.5


def test_numbers_agree_within_a_tolerance() -> None:
    assert "agrees" in agree_on_number({"a": 1.0, "b": 1.01}, 0.02, "loss")
    with pytest.raises(CheckError):
        agree_on_number({"a": 1.0, "b": 1.1}, 0.02, "loss")
    with pytest.raises(CheckError):
        agree_on_number({"a": 1.0, "b": float("nan")}, 0.02, "loss")


def test_many_numbers_agree_one_by_one() -> None:
    assert agree_on_numbers({"a": [1.0, 2.0], "b": [1.0, 2.01]}, 0.02, "every number").endswith(
        "of 2 agrees within 0.01"
    )
    for other, words in (([1.0, 2.1], "differs by 0.1"), ([1.0, float("nan")], "inf"), ([1.0], "b gives 1 numbers")):
        with pytest.raises(CheckError, match=words):
            agree_on_numbers({"a": [1.0, 2.0], "b": other}, 0.02, "every number")
