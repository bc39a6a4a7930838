"""Batches of whole documents, packed end to end: a pure function of (seed, step).

An epoch is one stream: every document once, in an order drawn from (seed, epoch), each beginning
with `<|endoftext|>`. Step s takes the tokens [s N, (s + 1) N) of it. A document that is longer than the
context is cut into windows; otherwise only the one document at the border of two steps is cut. The
documents of a step are then dealt out to processes and micro-batches, so the step holds the same
tokens however many there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gpt2.errors import DataError
from gpt2.model.ops import IGNORED


class TokenSource(Protocol):
    """What the loader needs of token data; `TokenShards` is one."""

    offsets: np.ndarray
    """(documents + 1,) int64: where each document's ids begin; the first id is `<|endoftext|>`."""

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The ids of many slices, end to end."""
        ...


@dataclass(frozen=True)
class Batch:
    """Documents end to end, longest first."""

    ids: Tensor
    """(1, N) long."""
    targets: Tensor
    """(1, N) long: the id after each."""
    lengths: Sequence[int]
    """Tokens of each document, in order; they sum to N."""

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return Batch(self.ids.to(device, non_blocking=True), self.targets.to(device, non_blocking=True), self.lengths)


class BatchLoader:
    """Gives the batch of any step at once, without walking through those before it.

    Args:
        source: the token data.
        tokens_per_step: N, over all processes and micro-batches.
        context_length: longest piece of a document.
        seed: of the order.
    """

    def __init__(self, source: TokenSource, tokens_per_step: int, context_length: int, seed: int = 0) -> None:
        self.source, self.tokens_per_step = source, tokens_per_step
        self.context_length, self.seed = context_length, seed
        self.tokens_per_epoch = int(source.offsets[-1] - source.offsets[0])
        if self.tokens_per_epoch == 0:
            raise DataError("there are no tokens to train on")
        self._separator = int(source.gather(source.offsets[:1], np.array([1]))[0])
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Share `part` of `parts` of the batch at `step`; shares differ by less than one document.

        Where there are fewer documents than parts, the last parts are one token that no loss counts.
        """
        starts, lengths = self.pieces(step)
        order = np.argsort(-lengths, kind="stable")
        starts, lengths = starts[order], lengths[order]
        if parts > 1:
            mine = deal(lengths, parts) == part
            starts, lengths = starts[mine], lengths[mine]
            if not len(lengths):
                return Batch(torch.tensor([[self._separator]]), torch.tensor([[IGNORED]]), [1])
        ids = self.source.gather(starts, lengths).astype(np.int64)
        targets = self._after(starts, lengths)
        return Batch(torch.from_numpy(ids)[None], torch.from_numpy(targets)[None], lengths.tolist())

    def pieces(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the documents of a step begin and how long they are: (pieces,), (pieces,) int64."""
        position, wanted = step * self.tokens_per_step, self.tokens_per_step
        starts, lengths = [], []
        while wanted > 0:
            epoch, inside = divmod(position, self.tokens_per_epoch)
            take = min(wanted, self.tokens_per_epoch - inside)
            piece_starts, piece_ends, sources = self._epoch(epoch)
            first = int(np.searchsorted(piece_ends, inside, side="right"))
            last = int(np.searchsorted(piece_ends, inside + take, side="left"))
            low = np.maximum(piece_starts[first : last + 1], inside)
            high = np.minimum(piece_ends[first : last + 1], inside + take)
            starts.append(sources[first : last + 1] + (low - piece_starts[first : last + 1]))
            lengths.append(high - low)
            position, wanted = position + take, wanted - take
        return np.concatenate(starts), np.concatenate(lengths)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pieces of an epoch in its order: begin and end in the stream, begin in the source."""
        if epoch not in self._epochs:
            random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            sources, lengths = self._cut(random)
            order = random.permutation(len(lengths))
            ends = np.cumsum(lengths[order])
            self._epochs = {key: self._epochs[key] for key in self._epochs if key == epoch - 1}
            self._epochs[epoch] = (ends - lengths[order], ends, sources[order])
        return self._epochs[epoch]

    def _cut(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Documents as pieces of at most `context_length`: begin in the source and length of each.

        A long document's first piece has a length drawn anew each epoch, so its cuts wander.
        """
        begins, ends, limit = self.source.offsets[:-1], self.source.offsets[1:], self.context_length
        sizes = ends - begins
        heads = np.where(sizes > limit, random.integers(1, limit + 1, size=len(sizes)), sizes)
        counts = 1 + -(-(sizes - heads) // limit)
        document = np.repeat(np.arange(len(sizes)), counts)
        index = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = begins[document] + np.where(index == 0, 0, heads[document] + (index - 1) * limit)
        stops = np.minimum(begins[document] + heads[document] + index * limit, ends[document])
        return starts, stops - starts

    def _after(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The id after each id of the slices; after the very last stands a separator."""
        end = self.source.offsets[-1]
        overhang = starts + lengths == end
        targets = self.source.gather(starts + 1, lengths - overhang)
        if overhang.any():
            places = np.cumsum(lengths - overhang)[overhang]
            targets = np.insert(targets, places, self._separator)
        return targets.astype(np.int64)


def deal(lengths: np.ndarray, parts: int) -> np.ndarray:
    """Which part each piece goes to: longest first, each to the part with the fewest tokens so far."""
    filled = np.zeros(parts, dtype=np.int64)
    owner = np.empty(len(lengths), dtype=np.int64)
    for piece, length in enumerate(lengths):
        owner[piece] = part = int(filled.argmin())
        filled[part] += length
    return owner
