"""From logits to tokens for streams that each have options of their own, and the scores of what was taken."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2 import native
from gpt2.generation.sampling import next_token, penalize_repetition
from gpt2.serving.stream import Options, Score, Stream

_BLOCK = 256  # draws made at once
_HOW = np.dtype([("temperature", "f8"), ("top_p", "f8"), ("min_p", "f8"), ("uniform", "f8"), ("top_k", "i8")])


class Chooser:
    """Draws the next token of each slot; a stream's draws depend on its seed alone.

    Args:
        slots: how many there are.
        vocab_size: V.

    Attributes:
        how: of each slot, how its tokens are drawn.
        draws: (slots, block) the numbers in [0, 1) by which they are, made in advance.
        used: (slots) how many of them have been.
    """

    def __init__(self, slots: int, vocab_size: int) -> None:
        self.how = np.zeros(slots, dtype=_HOW)
        self.draws, self.used = np.zeros((slots, _BLOCK)), np.zeros(slots, dtype=np.int64)
        self._generators = [torch.Generator() for _ in range(slots)]
        self._streams: list[Stream | None] = [None] * slots
        self._bent: dict[int, _Bent] = {}
        self._scored: set[int] = set()
        self._library = native.library()[0]
        self._room = np.empty(2 * vocab_size + 3 * native.LANES, dtype=np.float32)
        self._ids = np.empty(slots, dtype=np.int64)

    def assign(self, slot: int, stream: Stream) -> None:
        """From now on the slot is this stream's."""
        options, sampling = stream.options, stream.options.sampling
        chosen = sampling.temperature, sampling.top_p or 1.0, sampling.min_p or 0.0, 0.0, sampling.top_k or 0
        self.how[slot], self._streams[slot] = chosen, stream
        self._generators[slot].manual_seed(stream.seed % 2**63)
        self.used[slot] = _BLOCK
        self.refill(np.array([slot]))
        if options.bends:
            self._bent[slot] = _Bent(options, stream.prompt)
        if options.logprobs is not None:
            self._scored.add(slot)

    def release(self, slot: int) -> None:
        """The slot is nobody's any more."""
        self._streams[slot] = None
        self._bent.pop(slot, None)
        self._scored.discard(slot)

    @property
    def plain(self) -> bool:
        """Whether all tokens are drawn as `how` and `draws` say, with no penalties, biases or scores."""
        return not self._bent and not self._scored

    def choose(self, logits: Tensor, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next id of each slot. Scores go to the streams that want them.

        Args:
            logits: (rows, V) fp32; rows of streams with penalties or biases are overwritten.
            slots: (rows) whose row it is.
        """
        logits = logits.float().cpu()
        rows = list(enumerate(slots.tolist())) if self._bent or self._scored else []
        exact = {row: log_probabilities(logits[row]) for row, slot in rows if slot in self._scored}
        for row, slot in rows:
            if slot in self._bent:
                self._bent[slot].bend(logits[row])
        ids = self._draw(logits, slots)
        for row, slot in rows:
            token = int(ids[row])
            if slot in self._bent:
                self._bent[slot].count(token)
            stream = self._streams[slot]
            if row in exact and stream is not None:
                stream.scores.append(score(exact[row], token, stream.options.logprobs or 0))
        return ids

    def _draw(self, logits: Tensor, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        how, count = self.how[slots], len(slots)
        how["uniform"] = self.draws[slots, self.used[slots]]
        self.used[slots] += 1
        self.refill(slots)
        ids = self._ids[:count]
        if self._library is not None:
            self._library.gpt2_sample_rows(
                logits.data_ptr(), logits.stride(0), self._room.ctypes.data, logits.shape[1], count, how.ctypes.data,
                ids.ctypes.data,
            )  # fmt: skip
            return ids
        for row, slot in enumerate(slots.tolist()):
            stream = self._streams[slot]
            if stream is not None:
                number = torch.tensor([how["uniform"][row]], dtype=torch.float64).float()
                sampling = replace(stream.options.sampling, repetition_penalty=1.0)  # logits have it already
                ids[row] = next_token(logits[row : row + 1], [[]], sampling, number).item()
        return ids

    def refill(self, slots: NDArray[np.int64]) -> None:
        """New draws where all have been used."""
        for slot in slots[self.used[slots] == _BLOCK].tolist():
            self.draws[slot] = torch.rand(_BLOCK, generator=self._generators[slot]).numpy()
            self.used[slot] = 0


def log_probabilities(logits: Tensor) -> Tensor:
    """(V) -> (V) fp64, ln p of each token."""
    wide = logits.double()
    return wide - wide.logsumexp(-1)


def score(exact: Tensor, token: int, count: int) -> Score:
    """The score of `token` with the `count` likeliest, out of (V) log-probabilities."""
    value = exact[token].item()
    values, ids = exact.topk(min(count, len(exact)))
    top = list(zip(ids.tolist(), values.tolist(), strict=True))
    return Score(value, top if any(token == other for other, _ in top) else [*top, (token, value)])


class _Bent:
    """Penalties and biases of one stream."""

    def __init__(self, options: Options, prompt: list[int]) -> None:
        self._options = options
        self._times: dict[int, int] = {}
        self._history = list(prompt)
        self._biased = [token for token, _ in options.logit_bias]
        self._bias = torch.tensor([value for _, value in options.logit_bias])

    def bend(self, row: Tensor) -> None:
        """Change (V) logits in place."""
        options = self._options
        if options.sampling.repetition_penalty != 1.0:
            penalty = options.sampling.repetition_penalty
            row.copy_(penalize_repetition(row.unsqueeze(0), [self._history], penalty)[0])
        if self._times and (options.frequency_penalty or options.presence_penalty):
            times = torch.tensor(list(self._times.values()), dtype=torch.float32)
            row[list(self._times)] -= options.frequency_penalty * times + options.presence_penalty
        if self._biased:
            row[self._biased] += self._bias

    def count(self, token: int) -> None:
        """The token was generated."""
        self._times[token] = self._times.get(token, 0) + 1
        if self._options.sampling.repetition_penalty != 1.0:
            self._history.append(token)
