"""Interleaved rounds: every entry in every round, the order turned round each time, medians with quartiles."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class CheckError(Exception):
    """The entries do not compute the same thing, so timing them would compare nothing."""


class Missing(Exception):
    """A peer that is not installed here; the message says what to install."""


@dataclass(frozen=True)
class Running:
    """An entry that is ready to be timed."""

    answer: Any
    """What it computes, compared between entries before anything is timed; None: not comparable."""
    measure: Callable[[], float]
    """One round; gives its figure in the row's unit."""
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Entry:
    """One tool in one configuration."""

    name: str
    start: Callable[[], Running]
    """Builds, compiles and warms up."""
    ours: bool = False


@dataclass(frozen=True)
class Row:
    """One measurement: entries that do the same work."""

    name: str
    title: str
    unit: str
    entries: list[Entry]
    check: Callable[[Mapping[str, Any]], str]
    """Takes {entry: answer}; gives a sentence on what was compared, or raises `CheckError`."""
    limit: Callable[[], tuple[str, float]] | None = None
    """(what it is, figure in the row's unit) of the machine, measured once per round."""
    more_is_better: bool = True
    settings: str = ""


@dataclass
class Figure:
    """What one entry reached."""

    name: str
    ours: bool
    ready_seconds: float
    rounds: list[float] = field(default_factory=list)
    failed: str = ""

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile over the rounds."""
        if len(self.rounds) == 1:
            return self.rounds[0], self.rounds[0]
        first, _, third = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return first, third


@dataclass
class Measured:
    """A row's figures."""

    name: str
    title: str
    unit: str
    more_is_better: bool
    settings: str
    checked: str
    figures: list[Figure]
    limit_name: str = ""
    limit: list[float] = field(default_factory=list)


def run(row: Row, rounds: int, say: Callable[[str], None]) -> Measured:
    """Start every entry, check that they agree, then time them in turns.

    Raises:
        CheckError: they do not agree.
    """
    running: dict[str, Running] = {}
    figures: dict[str, Figure] = {}
    for entry in row.entries:
        start = time.perf_counter()
        figures[entry.name] = Figure(entry.name, entry.ours, 0.0)
        try:
            running[entry.name] = entry.start()
        except Missing as error:
            figures[entry.name].failed = f"not measured: {error}"
            say(f"  {entry.name}: {figures[entry.name].failed}")
            continue
        figures[entry.name].ready_seconds = time.perf_counter() - start
        say(f"  {entry.name}: ready after {figures[entry.name].ready_seconds:.1f} s")
    try:
        checked = row.check({name: entry.answer for name, entry in running.items() if entry.answer is not None})
        apart = [name for name, entry in running.items() if entry.answer is None]
        checked += f"; not comparable: {', '.join(apart)}" if 0 < len(apart) < len(running) else ""
        say(f"  checked: {checked}")
        measured = Measured(
            row.name, row.title, row.unit, row.more_is_better, row.settings, checked, list(figures.values())
        )
        for number in range(rounds):
            if row.limit is not None:
                measured.limit_name, value = row.limit()
                measured.limit.append(value)
            names = list(running) if number % 2 == 0 else list(reversed(running))
            for name in names:
                figures[name].rounds.append(running[name].measure())
            say(f"  round {number + 1}: " + ", ".join(f"{n} {figures[n].rounds[-1]:,.4g}" for n in running))
        return measured
    finally:
        for entry in running.values():
            entry.close()


def agree_on_number(answers: Mapping[str, float], tolerance: float, what: str) -> str:
    """All answers within `tolerance` of one another."""
    spread = max(answers.values()) - min(answers.values())
    if not (spread <= tolerance and all(map(math.isfinite, answers.values()))):
        raise CheckError(f"{what} differs by {spread:.2g}, more than {tolerance:g}: {dict(answers)}")
    return f"{what} agrees within {spread:.1g}"


def agree_on_numbers(answers: Mapping[str, Sequence[float]], tolerance: float, what: str) -> str:
    """Equally many numbers in all answers, each within `tolerance` of the first answer's."""
    first = next(iter(answers.values()))
    spread = 0.0
    for name, answer in answers.items():
        if len(answer) != len(first):
            raise CheckError(f"{name} gives {len(answer):,} numbers, {next(iter(answers))} {len(first):,}")
        gaps = [abs(a - b) for a, b in zip(answer, first, strict=True)]
        spread = max(spread, *gaps) if all(map(math.isfinite, gaps)) else math.inf
    if not spread <= tolerance:
        raise CheckError(f"{what} differs by {spread:.2g}, more than {tolerance:g}")
    return f"{what} of {len(first):,} agrees within {spread:.1g}"


def agree_exactly(answers: Mapping[str, Any], what: str) -> str:
    """All answers equal."""
    first = next(iter(answers.values()))
    other = [name for name, answer in answers.items() if answer != first]
    if other:
        raise CheckError(f"{what} of {', '.join(other)} is another than that of {next(iter(answers))}")
    return f"{what} is the same in all {len(answers)}"
