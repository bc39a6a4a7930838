"""Counting models against dictionaries, compressors against the libraries themselves."""

import gzip
import math
from collections import Counter

import numpy as np
import pytest

from gpt2.evaluation.baselines import baselines
from gpt2.evaluation.ngram import NGram

V = 7
STREAM = np.array([0, 1, 2, 1, 2, 3, 0, 1, 1, 4, 0])


def by_hand(before: int, after: int) -> float:
    """Witten and Bell's formula over dictionaries."""
    single, pairs = Counter(STREAM[1:].tolist()), Counter(zip(STREAM[:-1].tolist(), STREAM[1:].tolist(), strict=True))
    total, kinds = sum(single.values()), len(single)
    low = (single[after] + kinds / V) / (total + kinds)
    seen = sum(n for (a, _), n in pairs.items() if a == before)
    followers = sum(a == before for a, _ in pairs)
    return (pairs[before, after] + followers * low) / (seen + followers) if followers else low


def test_bigrams_are_witten_and_bells_and_sum_to_one() -> None:
    model = NGram.fit(STREAM, V)
    for before in range(V):
        p = model.bigram(np.full(V, before), np.arange(V))
        assert p.sum() == pytest.approx(1)
        np.testing.assert_allclose(p, [by_hand(before, after) for after in range(V)])
    assert model.unigram(np.arange(V)).sum() == pytest.approx(1)


def test_documents_are_scored_with_their_closing_end() -> None:
    model = NGram.fit(STREAM, V)
    score = model.score([np.array([0, 1, 5]), np.array([0])], [9, 1], 0, order=2)
    expected = [-math.log(by_hand(0, 1) * by_hand(1, 5) * by_hand(5, 0)), -math.log(by_hand(0, 0))]
    np.testing.assert_allclose(score.nats, expected)
    assert score.tokens.tolist() == [3, 1]


def test_baselines_of_a_text() -> None:
    texts = ["the cat sat on the mat. a dog ran. " * n for n in (3, 4, 5)]
    documents = [np.array([0, *(1 + ord(c) % 50 for c in text)]) for text in texts]
    found = baselines(texts, documents, 0, 64, None).bits_per_byte
    size = sum(map(len, texts))
    assert found["uniform"] == pytest.approx(math.log2(64) * (size + 3) / size)
    assert found["gzip"] == pytest.approx(8 * len(gzip.compress("\n".join(texts).encode(), 9, mtime=0)) / size)
    zstandard = pytest.importorskip("zstandard")
    assert found["zstd"] == pytest.approx(
        8 * len(zstandard.ZstdCompressor(19).compress("\n".join(texts).encode())) / size
    )
    assert found["bigram"] < found["unigram"] < found["uniform"]


def test_a_single_document_has_no_other_half_to_count() -> None:
    found = baselines(["abc"], [np.array([0, 1, 2, 3])], 0, 64, None).bits_per_byte
    assert found["unigram"] == found["bigram"] == pytest.approx(found["uniform"]) == pytest.approx(4 * 6 / 3)


def test_unknown_training_text_does_not_let_a_document_help_itself() -> None:
    same = [np.array([0, 1, 2, 3])] * 2
    other = [np.array([0, 1, 2, 3]), np.array([0, 4, 5, 6])]
    known, unknown = (baselines(["abc", "abc"], docs, 0, 64, None).bits_per_byte["bigram"] for docs in (same, other))
    assert known < 0.6 * unknown
