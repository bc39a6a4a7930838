r"""Tokenising a lot of text: the same ids as `Tokenizer.encode`, several times faster.

Text has few distinct words. So split it with Python's `re` (in C) by GPT-2's pattern and look each
word's ids up in a dictionary; only a new word goes to the BPE. Python's `re` knows no `\p{L}`, so
this road is taken where the classes can be written out: ASCII, and the scripts and punctuation of
`_COVERED`. All other text goes to the `tokenizers` library whole. Where gigatoken is installed
it does all of this faster (`fast.py`). Tests hold the roads equal.
"""

import functools
import re
import sys
import unicodedata
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt2.documents import MAX_RUN, cut_pieces
from gpt2.errors import TokenizerError
from gpt2.tokenizer.fast import Ids, gigatoken_encoder
from gpt2.tokenizer.learn import require_encodable

if TYPE_CHECKING:
    from gpt2.tokenizer.bpe import Tokenizer

_MAX_WORDS = 1 << 17  # about 25 MB; a text with more distinct words starts anew
_PIECE_CHARACTERS = 1 << 15
_CHECK_EVERY = 1000  # texts: one in so many is encoded both ways
_MAX_WORD = 64  # characters; longer ones do not come back
_WORTH_PROVING = 1 << 20  # characters; for fewer, proving gigatoken's ids equal takes longer than it saves
# Latin, Greek, Cyrillic, and the punctuation of typeset English.
_COVERED = [*range(0x530), *range(0x2010, 0x2028), *range(0x2030, 0x205F), 0x20AC, 0x2122]


class BulkEncoder:
    """Encodes texts to the raw bytes of their ids. Not thread-safe; make one per thread.

    Args:
        tokenizer: whose ids to give.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self.itemsize = id_bytes(tokenizer.vocab_size)
        """Bytes of one id, little-endian and unsigned: 2, or 4 where the vocabulary needs it."""
        self._words = _Words(self._encode_whole)
        self._count = self._characters = 0

    @property
    def has_much(self) -> bool:
        """Whether so much text came that what takes a while to begin is worth it."""
        return self._characters > _WORTH_PROVING

    @property
    def is_fast(self) -> bool:
        """Whether gigatoken does the work from now on: other processes would not help."""
        return self._fast is not None

    @functools.cached_property
    def _fast(self) -> Ids | None:
        return gigatoken_encoder(self._tokenizer)

    def encode(self, text: str) -> bytes:
        """The ids of `text`, special strings being plain text; `len(result) // itemsize` of them.

        Raises:
            TokenizerError: a lone surrogate; the message says where.
        """
        self._characters += len(text)
        if self._takes_fast([text]):
            return self._encode_fast([text])[0]
        # Small pieces: a list of a megabyte's words is large, and one rare character in it would send
        # all of it down the slow road.
        if len(text) > _PIECE_CHARACTERS:
            pieces = (small for piece in cut_pieces(text) for small in cut_pieces(piece, _PIECE_CHARACTERS))
            return b"".join(map(self._encode_piece, pieces))
        return self._encode_piece(text)

    def encode_many(self, texts: Sequence[str]) -> tuple[bytes, list[int]]:
        """The ids of all `texts`, one text's after the other's, and how many each has; otherwise as `encode`."""
        if self._takes_fast(texts):
            self._characters += sum(map(len, texts))
            return self._encode_fast(texts)
        parts = [self.encode(text) for text in texts]
        return b"".join(parts), [len(part) // self.itemsize for part in parts]

    def to_list(self, encoded: bytes) -> list[int]:
        """The ids in what `encode` gave."""
        ids = array(_typecode(self.itemsize), encoded)
        if sys.byteorder == "big":
            ids.byteswap()
        return ids.tolist()

    def _takes_fast(self, texts: Sequence[str]) -> bool:
        wanted = "_fast" in self.__dict__ or self.has_much
        return wanted and self._fast is not None and bool(texts) and max(map(len, texts)) <= MAX_RUN

    def _encode_fast(self, texts: Sequence[str]) -> tuple[bytes, list[int]]:
        assert self._fast is not None
        try:
            ids, counts = self._fast(texts)
        except TypeError:  # its word for a lone surrogate
            for text in texts:
                require_encodable(text)
            raise
        ends = counts.cumsum()
        for number in range(-(self._count + 1) % _CHECK_EVERY, len(texts), _CHECK_EVERY):
            text, end = texts[number], ends[number]
            found = ids[end - counts[number] : end].tolist()
            if len(text) < _PIECE_CHARACTERS and found != self._tokenizer.encode(text):
                raise TokenizerError(
                    f"gigatoken gives other ids than tokenizers for {text[:60]!r}...; set GPT2_FAST=0 or uninstall "
                    f"it, and tokenise again"
                )
        self._count += len(texts)
        return ids.astype(f"<u{self.itemsize}").tobytes(), counts.tolist()

    def _encode_piece(self, text: str) -> bytes:
        if not self._tokenizer.splits_by_pattern:
            return self._encode_whole(text)
        if text.isascii():
            words = _ascii_pattern().findall(text)
        elif self._tokenizer.normalizes or _uncovered().search(text):
            return self._encode_whole(text)
        else:
            words = _wide_pattern().findall(text)
        if len(self._words) > _MAX_WORDS:
            self._words.clear()
        return b"".join(map(self._words.__getitem__, words))

    def _encode_whole(self, text: str) -> bytes:
        ids = array(_typecode(self.itemsize), self._tokenizer.encode(text))
        if sys.byteorder == "big":
            ids.byteswap()
        return ids.tobytes()


def id_bytes(vocab_size: int) -> int:
    """Bytes that hold any id below `vocab_size`: 2 or 4."""
    return 2 if vocab_size <= 1 << 16 else 4


class _Words(dict[str, bytes]):
    def __init__(self, encode: "functools.partial[bytes] | object") -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, word: str) -> bytes:
        encoded: bytes = self._encode(word)  # type: ignore[operator]
        if len(word) <= _MAX_WORD:
            self[word] = encoded
        return encoded


def _typecode(itemsize: int) -> str:
    return next(code for code in "HIL" if array(code).itemsize == itemsize)


@functools.cache
def _ascii_pattern() -> re.Pattern[str]:
    return _pattern(range(128))


@functools.cache
def _wide_pattern() -> re.Pattern[str]:
    return _pattern(_covered())


@functools.cache
def _uncovered() -> re.Pattern[str]:
    return re.compile(f"[^{_class(_covered())}]")


def _covered() -> list[int]:
    # Unassigned characters may become letters in a later Unicode: leave them to the library.
    return [point for point in _COVERED if unicodedata.category(chr(point)) != "Cn"]


def _pattern(points: "range | list[int]") -> re.Pattern[str]:
    """GPT-2's pattern (openai/gpt-2, `encoder.py`) for text of these characters."""
    letters = _class([p for p in points if unicodedata.category(chr(p))[0] == "L"])
    numbers = _class([p for p in points if unicodedata.category(chr(p))[0] == "N"])
    # White_Space of Unicode; str.isspace would add the separators U+001C to U+001F.
    blanks = _class([p for p in points if chr(p).isspace() and not 0x1C <= p <= 0x1F])
    return re.compile(
        rf"'(?:[stmd]|re|ve|ll)| ?[{letters}]+| ?[{numbers}]+| ?[^{blanks}{letters}{numbers}]+"
        rf"|[{blanks}]+(?![^{blanks}])|[{blanks}]+"
    )


def _class(points: "list[int] | range") -> str:
    """The inside of a character class, runs written as ranges."""
    points = sorted(points)
    present = set(points)
    starts = [p for p in points if p - 1 not in present]
    ends = [p for p in points if p + 1 not in present]
    return "".join(rf"\u{start:04x}-\u{end:04x}" for start, end in zip(starts, ends, strict=True))
