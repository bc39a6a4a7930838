"""What the next step computes: a token of each stream that is under way, and stretches of the prompts of others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
_PLACE = np.dtype([("newest", "i8"), ("column", "i8"), ("left", "i8"), ("ending", "i8")])


class Step(NamedTuple):
    """Rows for `Slots.step`, those that want logits first."""

    ids: Numbers
    slots: Numbers
    columns: Numbers
    answers: int
    asked: Numbers
    """Slots that get a token, of the first rows."""
    begun: list[int]
    """Those of them whose first it is."""
    scored: range
    """Rows whose logits say how likely the prompt's next token was."""


@dataclass
class _Prompt:
    ids: Numbers
    next: int
    scored: bool


class Plan:
    """Where each slot's sequence stands.

    Args:
        count: slots.
        stretch: most tokens of prompts in a step.
        whole: a prompt must not be parted; `stretch` then has room for any.

    Attributes:
        places: of each slot: its newest token, the column where that is stored, tokens left, the id that ends it.
        writing: slots whose prompts are done, in order.
    """

    def __init__(self, count: int, stretch: int, whole: bool) -> None:
        self._stretch, self._whole = stretch, whole
        self.places = np.zeros(count, dtype=_PLACE)
        self._prompts: dict[int, _Prompt] = {}
        self._writing: set[int] = set()
        self.writing = np.zeros(0, dtype=np.int64)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not self._writing and not self._prompts

    def add(self, slot: int, prompt: list[int], kept: int, most: int, ending: int, scored: bool) -> None:
        """A sequence begins in a slot.

        Args:
            slot: a free one.
            prompt: its ids.
            kept: how many of them are stored already, fewer than all.
            most: new tokens, 1 or more.
            ending: the id after which it ends; -1: none.
            scored: whether the prompt's tokens are to be scored.
        """
        self._prompts[slot] = _Prompt(np.array(prompt, dtype=np.int64), kept, scored)
        self.places["left"][slot], self.places["ending"][slot] = most, ending

    def remove(self, slot: int) -> None:
        """The sequence is over."""
        self._prompts.pop(slot, None)
        if slot in self._writing:
            self._writing.discard(slot)
            self._sort()

    @property
    def reading(self) -> bool:
        """Whether there is a prompt to compute."""
        return bool(self._prompts)

    def next_step(self, writing: Numbers) -> Step:
        """The rows to compute now: a token of each of `writing`, stretches of prompts. Whoever asks computes them."""
        newest, column = self.places["newest"], self.places["column"]
        groups = [(newest[writing], writing, column[writing])]
        column[writing] += 1
        if not self._prompts:
            return Step(*groups[0], len(writing), writing, [], range(0))
        last, scored, silent, begun = [], [], [], []
        for slot, ids, columns, prompt in self._stretches():
            rows = ids, np.full(len(ids), slot), columns
            end = len(ids)
            if prompt.next == len(prompt.ids):
                end -= 1
                last.append([part[end:] for part in rows])
                begun.append(slot)
            (scored if prompt.scored else silent).append([part[:end] for part in rows])
        for slot in begun:
            column[slot] = len(self._prompts.pop(slot).ids)
            self._writing.add(slot)
        asked = np.concatenate([writing, np.array(begun, dtype=np.int64)])
        groups += last + scored
        answers = sum(len(group[0]) for group in groups)
        groups += silent
        self._sort()
        ids, slots, columns = (np.concatenate([group[part] for group in groups]) for part in range(3))
        return Step(ids, slots, columns, answers, asked, begun, range(len(asked), answers))

    def advance(self, slots: Numbers, tokens: Numbers) -> None:
        """Take in a new token of each slot."""
        self.places["newest"][slots] = tokens
        self.places["left"][slots] -= 1

    def over(self, slots: Numbers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(is over, is over by its ending id) of each slot."""
        places = self.places[slots]
        ended = places["newest"] == places["ending"]
        return ended | (places["left"] == 0), ended

    def _stretches(self) -> Iterator[tuple[int, Numbers, Numbers, _Prompt]]:
        room = self._stretch
        for slot, prompt in self._prompts.items():
            take = min(room, len(prompt.ids) - prompt.next)
            if take == 0 or (self._whole and take < len(prompt.ids)):
                return
            columns = np.arange(prompt.next, prompt.next + take)
            prompt.next += take
            room -= take
            yield slot, prompt.ids[columns], columns, prompt

    def _sort(self) -> None:
        self.writing = np.array(sorted(self._writing), dtype=np.int64)
