"""How good stories are, without a judge: figures of form, each beside the same figure of real held-out text.

A figure alone says little: real stories repeat themselves too. What counts is the distance to real text.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.evaluation.bootstrap import Interval, mean_interval
from gpt2.evaluation.words import cast, words

EASY_WORDS = 1000
"""Words that are no rarer than this rank in the reference text count as easy."""


@dataclass(frozen=True)
class Vocabulary:
    """Words of a reference text, by frequency."""

    easy: frozenset[str]
    known: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Vocabulary":
        """Count the words of some texts."""
        counts = Counter(word for text in texts for word in words(text))
        return cls(frozenset(word for word, _ in counts.most_common(EASY_WORDS)), frozenset(counts))


@dataclass(frozen=True)
class Figure:
    """A mean over stories."""

    value: float
    interval: Interval | None
    """95 %, over stories."""


FIGURES = {
    "ended": "stories that come to an end",
    "words": "words per story",
    "distinct_2": "different word pairs among all word pairs",
    "distinct_3": "different word triples among all word triples",
    "repetition": "four-word phrases said before in the same story",
    "name_stays": "stories whose first name comes again in the second half",
    "quotes_closed": "stories that close every quotation mark",
    "hard_words": f"words beyond the {EASY_WORDS:,} commonest of the reference text",
    "unknown_words": "words that the reference text does not have",
}
"""What each figure is. All but `words` are shares."""


def story_figures(
    stories: Sequence[str], ended: Sequence[bool], vocabulary: Vocabulary | None, budget: int | None = None
) -> dict[str, Figure]:
    """Every figure of `FIGURES`; those of words' rarity only with a reference vocabulary.

    Args:
        stories: texts.
        ended: whether each came to its end within the length allowed.
        vocabulary: of the reference text.
        budget: words over which distinct n-grams are counted, since their share falls with the amount of text;
            None: all.
    """
    split = [words(story) for story in stories]
    figures = {
        "ended": _mean([float(flag) for flag in ended]),
        "words": _mean([len(story) for story in split]),
        "distinct_2": Figure(_distinct(split, 2, budget), None),
        "distinct_3": Figure(_distinct(split, 3, budget), None),
        "repetition": _mean([_repetition(story) for story in split]),
        "name_stays": _mean([_flag(cast(story).stays) for story in stories]),
        "quotes_closed": _mean([float(_quotes_closed(story)) for story in stories]),
    }
    if vocabulary is not None:
        figures["hard_words"] = _mean([_share(story, vocabulary.easy) for story in split])
        figures["unknown_words"] = _mean([_share(story, vocabulary.known) for story in split])
    return {name: figure for name, figure in figures.items() if not np.isnan(figure.value)}


def word_budget(*groups: Sequence[str]) -> int:
    """The number of words that each group of stories has: what distinct n-grams are compared over."""
    return min(sum(len(words(story)) for story in stories) for stories in groups)


def _mean(values: Sequence[float]) -> Figure:
    array = np.array(values, float)
    valid = array[~np.isnan(array)]
    return Figure(float(valid.mean()) if len(valid) else float("nan"), mean_interval(valid))


def _ngrams(story: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(story[i:] for i in range(n)), strict=False))


def _distinct(stories: list[list[str]], n: int, budget: int | None) -> float:
    """Li et al. (2016): different n-grams over all n-grams."""
    seen: set[tuple[str, ...]] = set()
    total = left = 0
    left = budget if budget is not None else sum(map(len, stories))
    for story in stories:
        grams = _ngrams(story[:left], n)
        seen.update(grams)
        total += len(grams)
        left -= min(left, len(story))
    return len(seen) / total if total else float("nan")


def _repetition(story: list[str]) -> float:
    grams = _ngrams(story, 4)
    return 1 - len(set(grams)) / len(grams) if grams else float("nan")


def _share(story: list[str], of: frozenset[str]) -> float:
    """Share of the words that are not in a set."""
    return sum(word not in of for word in story) / len(story) if story else float("nan")


def _quotes_closed(story: str) -> bool:
    return story.count('"') % 2 == 0 and story.count("“") == story.count("”")


def _flag(value: bool | None) -> float:
    return float("nan") if value is None else float(value)
