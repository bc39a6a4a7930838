"""An examination in lines of text, for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt2.evaluation.bootstrap import Interval
from gpt2.evaluation.examine import Examination, StoryQuality
from gpt2.evaluation.memorization import Memorization
from gpt2.evaluation.stories import FIGURES, Figure

_BASELINES = {
    "uniform": "every token alike",
    "unigram": "how often each token comes",
    "bigram": "which token follows which",
    "gzip": "gzip -9",
    "zstd": "zstd -19",
}


def describe(model: str, examination: Examination) -> list[str]:
    """What `gpt2 evaluate` prints."""
    score = examination.score
    lines = [
        f"{model} on {examination.source}",
        f"{len(score.nats):,} documents, {score.num_bytes.sum():,} bytes, {score.tokens.sum():,} tokens",
        "",
        f"bits per byte  {score.bits_per_byte:.4f}  {interval_text(examination.interval, '.4f')}",
        f"loss           {score.loss:.4f} nats per token",
        f"perplexity     {score.perplexity:.3f}",
        "",
        f"bits per byte without a neural network (counts of {examination.baselines.counted_on})",
    ]
    for name, value in examination.baselines.bits_per_byte.items():
        lines.append(f"  {name:<8} {value:7.4f}  {_BASELINES[name]}")
    if examination.stories is not None:
        lines += ["", *_stories(examination.stories)]
    if examination.memorization is not None:
        lines += ["", *_memorization(examination.memorization)]
    return lines


def describe_grades(grades: Mapping[str, Any] | None) -> list[str]:
    """A judge's grades; nothing without a judge."""
    if not grades:
        return []
    lines = ["", _row(f"grades from 1 to 10 by {grades['judge']}", "model", "real text")]
    for name, ours in grades["model"].items():
        lines.append(_row(f"  {name}", f"{ours:.2f}", f"{grades['held_out'][name]:.2f}"))
    return [*lines, f"  ({grades['graded']} of {grades['asked']} answers held grades)"]


def figure_text(name: str, figure: Figure) -> str:
    """A share as "93%", words as "141"."""
    if name == "words":
        return f"{figure.value:.0f}"
    return f"{figure.value:.1%}" if figure.value < 0.1 else f"{figure.value:.0%}"


def interval_text(interval: Interval | None, form: str) -> str:
    """As "(95% over documents: 1.25 to 1.28)"; empty without an interval."""
    return f"(95% over documents: {interval[0]:{form}} to {interval[1]:{form}})" if interval else ""


def _stories(stories: StoryQuality) -> list[str]:
    title = f"{len(stories.samples)} stories, temperature {stories.temperature:g}, {stories.max_tokens} tokens at most"
    lines = [_row(title, "model", "real text")]
    for name, figure in stories.model.items():
        real = stories.held_out.get(name)
        lines.append(_row(f"  {FIGURES[name]}", figure_text(name, figure), figure_text(name, real) if real else ""))
    if stories.grammar:
        lines += ["", _row(f"{stories.pairs} times real text or a faulty copy: real chosen", "model", "bigram")]
        for rule, share in stories.grammar.items():
            lines.append(_row(f"  {rule}", f"{share:.0%}", f"{stories.grammar_bigram[rule]:.0%}"))
    return lines


def _row(name: str, first: str, second: str) -> str:
    return f"{name:<60} {first:>8} {second:>10}"


def _memorization(found: Memorization) -> list[str]:
    def row(what: str, values: Sequence[int]) -> str:
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9]).astype(int)
        return f"  {what:<12} {low:>4} {middle:>6} {high:>6} {max(values):>6}"

    lines = [
        "longest passage out of the training text, in tokens (0: under 8)",
        f"  {'':<12}   10%   half    90%   most",
    ]
    lines += [row("samples", found.samples), row("real text", found.held_out)]
    return [*lines, f"  {found}"]
