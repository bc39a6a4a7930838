"""Does a model write, or does it recite? The longest passages its samples share with the training text.

Real text shares passages with other real text too, so the same is measured on held-out documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.data.shards import TokenShards
from gpt2.evaluation.shared_ngrams import longest_shared
from gpt2.tokenizer import Tokenizer

FLOOR = 16
"""Tokens, about a dozen words: a passage no longer than this may be a turn of phrase in any kind of text."""
SOME, MANY = 0.05, 0.3
"""Shares of recited samples above which a model recites now and then, or is memorised."""


@dataclass(frozen=True)
class Memorization:
    """Longest passages shared with the training text, in tokens; 0 where fewer than 8 are shared."""

    samples: list[int]
    """Of each sample of the model."""
    held_out: list[int]
    """Of each held-out document, cut to the samples' median length: what such text shares by chance."""
    threshold: int
    """A longer passage counts as recited: what 99 % of the held-out documents stay below, and at least `FLOOR`."""
    recited: float
    """Share of the samples with a passage longer than the threshold."""
    passage: str
    """The longest passage of all samples."""

    @property
    def verdict(self) -> str:
        """Memorised, recites now and then, or not memorised."""
        if self.recited > MANY:
            return "memorised"
        return "recites now and then" if self.recited > SOME else "not memorised"

    def __str__(self) -> str:
        return (
            f"{self.verdict}: {round(self.recited * len(self.samples))} of {len(self.samples)} samples share more than "
            f"{self.threshold} tokens in a row with the training text"
        )


def memorization(
    samples: Sequence[str], held_out: Sequence[str], training: TokenShards, tokenizer: Tokenizer
) -> Memorization:
    """Compare samples and held-out documents with the training text, in one pass over it.

    Args:
        samples: texts that the model wrote.
        held_out: documents that it has not learned from.
        training: what it has learned from, as ids of `tokenizer`.
        tokenizer: encodes them.
    """
    written = [np.array(ids, np.int64) for ids in tokenizer.encode_batch(samples)]
    length = int(np.median([len(ids) for ids in written]))
    real = [np.array(ids[:length], np.int64) for ids in tokenizer.encode_batch(held_out)]
    lengths, starts = longest_shared([*written, *real], training, tokenizer.vocab_size)
    ours, theirs = lengths[: len(written)], lengths[len(written) :]
    threshold = max(FLOOR, int(np.quantile(theirs, 0.99))) if len(theirs) else FLOOR
    most = int(ours.argmax())
    passage = tokenizer.decode(written[most][starts[most] : starts[most] + ours[most]].tolist())
    return Memorization(ours.tolist(), theirs.tolist(), threshold, float((ours > threshold).mean()), passage.strip())
