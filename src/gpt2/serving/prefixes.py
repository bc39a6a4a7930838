"""What the slots hold, so that a prompt which begins like an earlier one need not be computed from its start."""

import numpy as np
from numpy.typing import NDArray

_LEAST = 4  # tokens; copying so few takes an eighth of the time of computing them


class Prefixes:
    """The ids whose keys and values each slot stores.

    Args:
        slots: how many there are.
        context: most ids of one.
    """

    def __init__(self, slots: int, context: int) -> None:
        self._ids = np.zeros((slots, context), dtype=np.int64)
        self._stored = np.zeros(slots, dtype=np.int64)
        self._used = np.zeros(slots, dtype=np.int64)
        self._clock = 0

    def store(self, ids: NDArray[np.int64], slots: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        """Tokens were computed; columns of a slot follow each other."""
        self._ids[slots, columns] = ids
        np.maximum.at(self._stored, slots, columns + 1)

    def begin(self, slot: int, kept: int) -> None:
        """A sequence begins of which the first `kept` ids are stored."""
        self._stored[slot] = kept
        self._clock += 1
        self._used[slot] = self._clock

    def find(self, prompt: list[int]) -> tuple[int, int]:
        """(slot that begins like the prompt, how many ids of it); at least the last id is left to compute."""
        wanted = np.array(prompt[:-1], dtype=np.int64)
        same = self._ids[:, : len(wanted)] == wanted
        length = np.where(same.all(axis=1), len(wanted), same.argmin(axis=1)) if len(wanted) else self._stored * 0
        length = np.minimum(length, self._stored)
        best = int(length.argmax())
        return (best, int(length[best])) if length[best] >= _LEAST else (-1, 0)

    def copy(self, source: int, target: int, length: int) -> None:
        """The ids that go with copied keys and values."""
        self._ids[target, :length] = self._ids[source, :length]

    def oldest(self, free: set[int]) -> int:
        """Of the free slots the one that began the longest ago."""
        return min(free, key=lambda slot: int(self._used[slot]))
