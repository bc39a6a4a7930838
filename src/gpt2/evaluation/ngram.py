"""Unigram and bigram models: what counting alone achieves, for a trained model to be measured against.

Witten and Bell's smoothing (1991, method C), each order interpolated with the one below it, the lowest with the
uniform distribution: p(w | v) = (c(v, w) + t(v) p(w)) / (c(v) + t(v)), with t(v) the distinct ids seen after v.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from gpt2.evaluation.bits_per_byte import Score


@dataclass(frozen=True)
class NGram:
    """Counts of ids and of pairs of ids."""

    vocab_size: int
    unigrams: np.ndarray
    """Counts, int64 (V,)."""
    pairs: np.ndarray
    """Pairs that occur, as v * V + w, sorted; int64 (P,)."""
    pair_counts: np.ndarray
    """int64 (P,)."""

    @classmethod
    def fit(cls, ids: np.ndarray, vocab_size: int) -> Self:
        """Count a stream of ids, `<|endoftext|>` before each document and after the last; (N,)."""
        ids = np.asarray(ids, np.int64)
        pairs, pair_counts = np.unique(ids[:-1] * vocab_size + ids[1:], return_counts=True)
        return cls(vocab_size, np.bincount(ids[1:], minlength=vocab_size), pairs, pair_counts)

    def unigram(self, ids: np.ndarray) -> np.ndarray:
        """p(id), of any shape; the uniform distribution where nothing has been counted."""
        total, kinds = self.unigrams.sum(), max(1, np.count_nonzero(self.unigrams))
        return (self.unigrams[ids] + kinds / self.vocab_size) / (total + kinds)

    def bigram(self, before: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """p(id | the id before it); both of one shape."""
        starts = self.pairs // self.vocab_size
        seen = np.bincount(starts, weights=self.pair_counts, minlength=self.vocab_size)[before]
        kinds = np.bincount(starts, minlength=self.vocab_size)[before]
        wanted = np.asarray(before, np.int64) * self.vocab_size + ids
        place = np.minimum(np.searchsorted(self.pairs, wanted), max(0, len(self.pairs) - 1))
        together = np.where(self.pairs[place] == wanted, self.pair_counts[place], 0) if len(self.pairs) else 0
        below = self.unigram(ids)
        return np.where(kinds > 0, (together + kinds * below) / np.maximum(1, seen + kinds), below)

    def score(self, documents: Sequence[np.ndarray], num_bytes: Sequence[int], end_of_text: int, order: int) -> Score:
        """Score documents as `score_documents` does a model; `order` 1 or 2."""
        ids = [np.append(np.asarray(document, np.int64), end_of_text) for document in documents]
        before, after = np.concatenate([d[:-1] for d in ids]), np.concatenate([d[1:] for d in ids])
        nats = -np.log(self.unigram(after) if order == 1 else self.bigram(before, after))
        tokens = np.array([len(document) - 1 for document in ids])
        sums = np.add.reduceat(nats, np.concatenate([[0], np.cumsum(tokens)[:-1]]))
        return Score(sums, tokens, np.asarray(num_bytes, dtype=np.int64))
