"""What bits per byte mean: the same text under models that cannot write, and under file compressors."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.data.shards import TokenShards
from gpt2.evaluation.bits_per_byte import Score
from gpt2.evaluation.ngram import NGram

# Counting this many training tokens takes a second; more hardly changes a bigram model of so few contexts.
_COUNTED_TOKENS = 10_000_000


@dataclass(frozen=True)
class Baselines:
    """Bits per byte of the evaluated documents."""

    bits_per_byte: dict[str, float]
    """uniform (every token alike), unigram, bigram, gzip and, where a library for it is installed, zstd."""
    counted_on: str
    """Where the counts of unigram and bigram come from."""


def baselines(
    texts: Sequence[str], documents: Sequence[np.ndarray], end_of_text: int, vocab_size: int, counts: NGram | None
) -> Baselines:
    """Judge documents by uniform, unigram, bigram, gzip -9 and zstd -19.

    Args:
        texts: the documents.
        documents: their ids, the leading `<|endoftext|>` included.
        end_of_text: id of `<|endoftext|>`.
        vocab_size: number of ids.
        counts: of the training text; None: unigram and bigram are counted on one half of the documents and judged on
            the other.
    """
    num_bytes = [len(text.encode()) for text in texts]
    total = sum(num_bytes)
    tokens = sum(len(document) for document in documents)
    figures = {"uniform": float(tokens * np.log2(vocab_size) / total)}
    for order, name in ((1, "unigram"), (2, "bigram")):
        figures[name] = counted_score(documents, num_bytes, end_of_text, vocab_size, counts, order).bits_per_byte
    for name, size in _compressed("\n".join(texts).encode()).items():
        figures[name] = 8 * size / total
    return Baselines(figures, "another half of the same documents" if counts is None else "the training text")


def count(training: TokenShards, vocab_size: int) -> NGram:
    """Counts of the first ten million tokens of the training text."""
    return NGram.fit(training.read(0, min(training.num_tokens, _COUNTED_TOKENS)), vocab_size)


def counted_score(
    documents: Sequence[np.ndarray],
    num_bytes: Sequence[int],
    end_of_text: int,
    vocab_size: int,
    counts: NGram | None,
    order: int,
) -> Score:
    """Documents under counts of the training text, or of the half that they are not in."""
    if counts is not None:
        return counts.score(documents, num_bytes, end_of_text, order)
    nats, tokens = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
    for half in range(min(2, len(documents))):
        judged = [i for i in range(len(documents)) if i % 2 == half]
        seen = [documents[i] for i in range(len(documents)) if i % 2 != half]
        model = NGram.fit(np.concatenate([*seen, [end_of_text]]), vocab_size)
        score = model.score([documents[i] for i in judged], [num_bytes[i] for i in judged], end_of_text, order)
        nats[judged], tokens[judged] = score.nats, score.tokens
    return Score(nats, tokens, np.asarray(num_bytes, np.int64))


def _compressed(text: bytes) -> dict[str, int]:
    """Bytes after compression; an absent zstd is left out."""
    sizes = {"gzip": len(gzip.compress(text, 9, mtime=0))}
    zstd = _zstd(text)
    return sizes if zstd is None else {**sizes, "zstd": zstd}


def _zstd(text: bytes) -> int | None:
    try:
        import zstandard

        return len(zstandard.ZstdCompressor(level=19).compress(text))
    except ImportError:
        return None
