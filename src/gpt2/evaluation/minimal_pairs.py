"""Grammar by minimal pairs: real held-out text and the same with one fault; which does the model find likelier?

The design of BLiMP (Warstadt et al., 2020), with pairs made by rules from the user's own held-out text, so that no
test set is needed and the words are those the model knows. English only: other text gives no pairs. Chance is one half.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from gpt2.evaluation.words import cast, sentences, words

PAIRS_PER_RULE = 30
_MAX_CHARACTERS = 160
_MAX_BEFORE = 250
_PRONOUNS = {"he": "m", "him": "m", "his": "m", "she": "f", "her": "f", "hers": "f"}

_Fault = Callable[[re.Match[str], frozenset[str]], str | None]
"""From what a rule matches, and the words of the text, to the wrong form; None: no fault can be made here."""


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in one place."""

    rule: str
    good: str
    bad: str


def _swap(**forms: str) -> _Fault:
    return lambda match, known: match.group(1) + forms[match.group(2).lower()]


def _past_for_base(match: re.Match[str], known: frozenset[str]) -> str | None:
    """To "did not walk": "did not walked", where the text has that form."""
    verb = match.group(2)
    past = verb + ("d" if verb.endswith("e") else "ed")
    return match.group(1) + past if past in known and past not in ("bed", "seed") else None


def _plural_for_singular(match: re.Match[str], known: frozenset[str]) -> str | None:
    """To "a dog": "a dogs", for nouns whose plural the text has."""
    noun = match.group(2)
    plural = noun + "s"
    return match.group(1) + plural if plural in known and not noun.endswith("s") else None


def _other_article(match: re.Match[str], known: frozenset[str]) -> str | None:
    article, word = match.group(1), match.group(2)
    vowel = word[0] in "aeiou"
    if word.startswith(("u", "o", "h", "eu")) or vowel != (article.lower() == "an"):
        return None  # "a uniform", "an hour", "a one": the sound decides, not the letter
    return f"{article[0]}{'' if vowel else 'n'} {word}"


def _words_exchanged(match: re.Match[str], known: frozenset[str]) -> str:
    return f"{match.group(2)} {match.group(1)}"


RULES: dict[str, tuple[re.Pattern[str], _Fault]] = {
    "subject and verb": (
        re.compile(r"\b((?:he|she|it|they|we|you) )(was|were)\b", re.IGNORECASE),
        _swap(was="were", were="was"),
    ),
    "verb after to or not": (
        re.compile(r"\b((?:did not|didn't|could not|couldn't|(?:wanted|tried|began|started|went|had) to) )([a-z]+)\b"),
        _past_for_base,
    ),
    "case of pronouns": (
        re.compile(r"\b((?:to|with|at|for|gave|told|saw|asked) )(him|them)\b"),
        _swap(him="he", them="they"),
    ),
    "article and noun": (
        re.compile(r"(?<!\bupon )\b(a )([a-z]{3,})(?=[.,!?]| (?:was|and|in|on|who|that)\b)"),
        _plural_for_singular,
    ),
    "a or an": (re.compile(r"\b(a|an) ([a-z]+)"), _other_article),
    "word order": (re.compile(r"\b(the) ([a-z]{3,})(?= (?:was|and|in|on|had|said|of|to)\b)"), _words_exchanged),
}
"""Faults inside a sentence: where one can be made, and how. Counting pairs of words finds most of them."""

COHERENCE = ("the right name", "the right pronoun", "order of sentences")
"""Faults that only the story before shows; counting pairs of words does not find them."""


def make_pairs(texts: Sequence[str], per_rule: int = PAIRS_PER_RULE) -> list[Pair]:
    """Pairs from held-out stories, at most one per sentence and rule, the first that are found.

    Args:
        texts: documents that no model under test has learned from.
        per_rule: most pairs of a rule.
    """
    known = frozenset(word for text in texts for word in words(text))
    counts: Counter[str] = Counter()
    pairs = []
    for sentence in _sentences(texts):
        if all(counts[rule] == per_rule for rule in RULES):
            break
        for rule, (pattern, fault) in RULES.items():
            if counts[rule] < per_rule and (bad := _spoil(sentence, pattern, fault, known)):
                pairs.append(Pair(rule, sentence, bad))
                counts[rule] += 1
    firsts = [cast(text).first for text in texts]
    others = sorted(set(filter(None, firsts)))
    for text, first in zip(texts, firsts, strict=True):
        if all(counts[rule] == per_rule for rule in COHERENCE):
            break
        for pair in _incoherent(text, first, others):
            if counts[pair.rule] < per_rule:
                pairs.append(pair)
                counts[pair.rule] += 1
    return pairs


def accuracy(pairs: Sequence[Pair], good_nats: np.ndarray, bad_nats: np.ndarray) -> dict[str, float]:
    """Share of the pairs whose real side costs less, a tie being half; per rule, "all" is the mean over rules.

    Args:
        pairs: what was scored.
        good_nats: -ln p of each real sentence, (pairs,).
        bad_nats: -ln p of each wrong one, (pairs,).
    """
    difference = np.asarray(bad_nats) - np.asarray(good_nats)
    right = np.where(np.abs(difference) < 1e-6, 0.5, difference > 0)
    rules = [rule for rule in (*RULES, *COHERENCE) if any(pair.rule == rule for pair in pairs)]
    shares = {rule: float(np.mean([r for r, p in zip(right, pairs, strict=True) if p.rule == rule])) for rule in rules}
    return {**shares, "all": float(np.mean(list(shares.values())))} if shares else {}


def _incoherent(text: str, first: str | None, names: Sequence[str]) -> Iterator[Pair]:
    """The beginning of a story, and the same with one fault that only the sentences before show."""
    told = sentences(text)[:8]
    beginnings = [(" ".join(told[:n]) + " ", told[n]) for n in range(1, len(told))]
    beginnings = [(before, told) for before, told in beginnings if len(before) <= _MAX_BEFORE and '"' not in told]
    for rule, spoil in zip(COHERENCE, (partial(_other_name, first, names), _other_pronoun), strict=False):
        spoilt = ((before, told, spoil(before, told)) for before, told in beginnings)
        pair = next(((before, told, bad) for before, told, bad in spoilt if bad), None)
        if pair is not None:
            yield Pair(rule, pair[0] + pair[1], pair[0] + pair[2])
    four = told[:4]
    if len(four) == 4 and not any('"' in sentence or sentence.endswith(("Mr.", "Mrs.")) for sentence in four):
        yield Pair(COHERENCE[2], " ".join(four), " ".join([four[0], four[2], four[1], four[3]]))


def _other_name(first: str | None, names: Sequence[str], before: str, sentence: str) -> str | None:
    """Someone else's name in the place of the first character's."""
    if first is None or not re.search(rf"\b{first}\b", before) or not re.search(rf"\b{first}\b", sentence):
        return None
    other = names[(names.index(first) + len(names) // 2) % len(names)]  # far off in the alphabet: Tim, Timmy
    return re.sub(rf"\b{first}\b", other, sentence, count=1) if other != first else None


def _other_pronoun(before: str, sentence: str) -> str | None:
    """She for he at the beginning of a sentence, if all pronouns before are of one kind."""
    kinds = {_PRONOUNS[word] for word in words(before) if word in _PRONOUNS}
    match = re.match(r"(He|She)\b", sentence)
    if match is None or kinds != {_PRONOUNS[match.group().lower()]}:
        return None
    return ("She" if match.group() == "He" else "He") + sentence[match.end() :]


def _sentences(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        for sentence in sentences(text):
            if 10 <= len(sentence) <= _MAX_CHARACTERS and sentence.count('"') == 0 and sentence[0].isupper():
                yield sentence


def _spoil(sentence: str, pattern: re.Pattern[str], fault: _Fault, known: frozenset[str]) -> str | None:
    for match in pattern.finditer(sentence):
        bad = fault(match, known)
        if bad is not None:
            return sentence[: match.start()] + bad + sentence[match.end() :]
    return None
