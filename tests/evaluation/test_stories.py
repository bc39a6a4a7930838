"""Figures of stories and minimal pairs, on text worked out by hand."""

import numpy as np
import pytest

from gpt2.evaluation.minimal_pairs import COHERENCE, RULES, Pair, accuracy, make_pairs
from gpt2.evaluation.stories import Vocabulary, story_figures, word_budget
from gpt2.evaluation.words import cast, sentences, words

STORY = (
    'Once upon a time, there was a girl named Mia. She had a red ball. "Look, Mom!" said Mia. '
    "The ball rolled away. Then Mia ran to the barn and found it."
)
STRANGER = "One day, a boy named Tom went to the pond. He saw a duck. Then Ben came home. And then Ben slept."


def test_words_sentences_and_names() -> None:
    assert words("Don't  stop, Élan!") == ["don't", "stop", "élan"]
    assert sentences('He ran. "Stop!" she said.') == ["He ran.", '"Stop!"', "she said."]
    assert cast(STORY).first == "Mia"
    assert cast(STORY).stays is True
    assert cast(STRANGER).first == "Tom"
    assert cast(STRANGER).stays is False
    assert cast("It was cold. The dog slept. I slept too.").first is None


def test_figures_by_hand() -> None:
    vocabulary = Vocabulary.of(["a b c d e f g"])
    figures = story_figures(["a b c d a b c d", 'x "y'], [True, False], vocabulary)
    assert figures["ended"].value == 0.5
    assert figures["words"].value == 5.0
    # ab bc cd da ab bc cd | xy: 5 of 8 pairs; abc bcd cda dab abc bcd: 4 of 6 triples
    assert figures["distinct_2"].value == pytest.approx(5 / 8)
    assert figures["distinct_3"].value == pytest.approx(4 / 6)
    # abcd bcda cdab dabc abcd: one of five said before; the second story has no four words
    assert figures["repetition"].value == pytest.approx(1 / 5)
    assert figures["quotes_closed"].value == 0.5
    assert figures["unknown_words"].value == pytest.approx((0 + 1) / 2)
    assert "name_stays" not in figures  # no story has a name
    assert figures["ended"].interval == (0.0, 1.0)
    assert story_figures([STORY, STRANGER], [True, True], None)["name_stays"].value == 0.5


def test_distinct_ngrams_are_counted_over_equally_many_words() -> None:
    short, long = ["a b c d e"], ["a b c d e", "a b c d e"]
    assert story_figures(long, [True] * 2, None)["distinct_2"].value == 0.5
    assert story_figures(long, [True] * 2, None, word_budget(short, long))["distinct_2"].value == 1.0


def test_pairs_differ_by_the_fault_they_are_named_for() -> None:
    text = (
        "There was an apple on the table. He was sad. He wanted to play with a ball. They played. The dogs saw him there. "
        "The other balls were gone. A dog is a dog. She sat on the mat. " + STORY
    )
    other = "Ben sat by the fire. He put on his hat. A ball hit him. Then Ben ran off. He did not play."
    pairs = {pair.rule: pair for pair in make_pairs([text, other])}
    assert set(pairs) == {*RULES, *COHERENCE}
    pairs = {pair.rule: (pair.good, pair.bad) for pair in reversed(make_pairs([text, other]))}
    assert pairs["subject and verb"] == ("He was sad.", "He were sad.")
    assert pairs["verb after to or not"][1] == "He wanted to played with a ball."
    assert pairs["case of pronouns"][1] == "The dogs saw he there."
    assert pairs["a or an"][1] == "There was a apple on the table."
    assert pairs["article and noun"][1] == "He wanted to play with a balls."
    assert pairs["word order"][1] == "Then Mia ran to barn the and found it."
    assert pairs["the right pronoun"][1].endswith("He was sad. She wanted to play with a ball.")
    assert pairs["the right name"][1].endswith("A ball hit him. Then Mia ran off.")
    assert pairs["order of sentences"][0].startswith("There was an apple on the table. He was sad. He wanted")
    assert pairs["order of sentences"][1].startswith("There was an apple on the table. He wanted")
    assert all(pair.good != pair.bad for pair in make_pairs([text, other]))
    assert make_pairs(["Es war einmal ein Hund."]) == []


def test_accuracy_is_a_mean_over_rules_and_a_tie_is_half() -> None:
    pairs = [Pair("a or an", "x", "y")] * 3 + [Pair("word order", "x", "y")]
    found = accuracy(pairs, np.array([1.0, 1, 1, 1]), np.array([2.0, 2, 0.5, 1]))
    assert found == {"a or an": pytest.approx(2 / 3), "word order": 0.5, "all": pytest.approx((2 / 3 + 0.5) / 2)}
    assert accuracy([], np.array([]), np.array([])) == {}
