"""Which part of a text validates: pure functions of its content."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gpt2.documents import Piece
from gpt2.errors import DataError

MAX_HELD_OUT_DOCUMENTS = 2_000
MAX_HELD_OUT_BYTES = 2_000_000
"""Of one long document."""

_NEAR = 20_000  # characters around the wanted place in which a boundary is looked for


def choose_held_out(hashes: np.ndarray, share: float) -> np.ndarray:
    """The documents to hold out: those whose contents have the smallest hashes.

    So the choice depends neither on their order nor on chance, and copies of a document land on
    the same side. At least one is chosen, at most `MAX_HELD_OUT_DOCUMENTS` (and the copies of the
    last), and never all.

    Args:
        hashes: of the documents' contents, uint64 (N,), two different ones at least.
        share: of the documents, in (0, 1).

    Returns:
        bool (N,): True where held out.
    """
    wanted = min(max(1, round(share * len(hashes))), MAX_HELD_OUT_DOCUMENTS)
    distinct, copies = np.unique(hashes, return_counts=True)
    taken = int(np.searchsorted(np.cumsum(copies), wanted)) + 1
    return hashes <= distinct[min(taken, len(distinct) - 1) - 1]


class Half(NamedTuple):
    """A piece of a document that was cut in two."""

    held_out: bool
    text: str
    last: bool


def cut_document(pieces: Iterable[Piece], num_bytes: int, share: float) -> Iterator[Half]:
    """Cut one document in two: its end, about `share` of its bytes, is held out.

    The cut falls between paragraphs if it can, else between lines, else between words.

    Raises:
        DataError: the text is a single word.
    """
    target = num_bytes - min(math.ceil(share * num_bytes), MAX_HELD_OUT_BYTES)
    seen, held_out = 0, False
    held: Half | None = None
    for text, last in pieces:
        size = len(text.encode("utf-8"))
        halves = [Half(held_out, text, last)]
        if not held_out and (seen + size > target or last):
            wanted = len(text.encode("utf-8")[: max(target - seen, 0)].decode("utf-8", "ignore"))
            if cut := _boundary(text, wanted):
                halves = [Half(False, text[:cut].rstrip(), True), Half(True, text[cut:].lstrip(), last)]
                held_out = True
        seen += size
        for half in halves:
            if held is not None:
                yield held
            held = half
    if not held_out or held is None:
        raise DataError("the text is too short to hold a part of it out; give another file as --valid")
    yield held


def _boundary(text: str, wanted: int) -> int:
    """Where to cut, near `wanted`, with text left on both sides; 0: nowhere."""
    low, high = max(wanted - _NEAR, 0), wanted + _NEAR
    for mark in ("\n\n", "\n", " "):
        for place in (text.find(mark, wanted, high), text.rfind(mark, low, wanted)):
            if place > 0 and text[:place].strip() and text[place:].strip():
                return place
    return 0
