"""A stream of text to documents, in bounded memory. No files here: `gpt2.text_files` reads those.

A document ends at `<|endoftext|>` (TinyStories' separator, wherever it stands: alone on a line, at
a line's end or inside one), at a blank line if that is asked for, or where its file ends. Outer
newlines are stripped, and documents that are empty then do not exist.
"""

import re
from collections.abc import Iterator

SEPARATOR = "<|endoftext|>"

PIECE_CHARACTERS = 1 << 16
"""Longer documents come as pieces of about this many characters.

Small on purpose: strings of megabytes, made and dropped all the time, leave holes in the heap, and
the process grows by hundreds of megabytes."""
MAX_RUN = 1 << 20
"""Where no harmless cut is found within this many characters, the text is cut all the same."""

Piece = tuple[str, bool]
"""Text, and whether its document ends with it."""

# GPT-2's pre-tokenizer never joins a visible character and the blank after it, and looks ahead only
# from blanks: text cut here gives the same tokens in pieces as whole. Python's \S leaves out every
# character that any Unicode version calls white space.
_SAFE_CUT = re.compile(r"(?<=\S)[ \n]")
# Settled only once the next visible character is there: more blank lines may follow.
_BLANK_LINES = re.compile(r"(?<=\S)[^\S\n]*+\n(?:[^\S\n]*+\n)++(?=[^\S\n]*+\S)")
_MARGIN = len(SEPARATOR) - 1  # the text may end with a part of a separator


def cut_pieces(text: str, size: int = PIECE_CHARACTERS) -> list[str]:
    """Cut a long text into pieces whose tokens, joined, are the tokens of the whole.

    The one exception: after `MAX_RUN` characters without a blank the text is cut all the same.
    """
    pieces, start = [], 0
    while cut := _next_cut(text, start, len(text), size):
        pieces.append(text[start:cut])
        start = cut
    return [*pieces, text[start:]]


class DocumentSplitter:
    """Gives out the pieces of documents as soon as they are complete.

    Args:
        paragraphs: blank lines end documents; for text that has no separators.
        keep_empty: give out empty documents as `("", True)` instead of dropping them.
    """

    def __init__(self, paragraphs: bool = False, keep_empty: bool = False) -> None:
        self.paragraphs = paragraphs
        self.keep_empty = keep_empty
        self._text = ""
        self._piece: str | None = None  # the newest of this document: is it the last? Not known yet
        self._after_separator = False

    def push(self, text: str) -> list[Piece]:
        """Take in the next stretch of text, with LF newlines; what is complete comes out."""
        self._text += text
        if self._after_separator:
            self._text = self._text.lstrip(" \t")
            self._after_separator = not self._text
        *documents, rest = self._text.split(SEPARATOR)
        pieces: list[Piece] = []
        if documents:
            # Blanks beside a separator belong to its line, not to the document.
            pieces += self._finish(documents[0].rstrip(" \t"))
            # The others begin and end in this stretch: nothing of them is held.
            whole = (document.strip(" \t").strip("\n") for document in documents[1:])
            pieces += [(document, True) for document in whole if document or self.keep_empty]
            rest = rest.lstrip(" \t")
            self._after_separator = not rest
        if self.paragraphs:
            before = self._piece[-1:] if self._piece else ""  # a cut may stand just before the blank lines
            blocks = _BLANK_LINES.split(before + rest)
            blocks[0] = blocks[0].removeprefix(before)
            rest = blocks.pop()
            for block in blocks:
                pieces += self._finish(block)
        self._text = rest if self._piece is not None else rest.lstrip("\n")
        pieces += self._shorten()
        return pieces

    def flush(self) -> Iterator[Piece]:
        """The text ends, and with it the last document."""
        text, self._text = self._text, ""
        # After the last separator comes the end, not an empty document.
        yield from (piece for piece in self._finish(text.rstrip() if self.paragraphs else text) if piece[0])

    def _shorten(self) -> Iterator[Piece]:
        while cut := _next_cut(self._text, 0, len(self._text) - _MARGIN, PIECE_CHARACTERS):
            if self._piece is not None:
                yield self._piece, False
            self._piece, self._text = self._text[:cut], self._text[cut:]

    def _finish(self, text: str) -> Iterator[Piece]:
        held, self._piece = self._piece, None
        text = text.rstrip("\n") if held is not None else text.strip("\n")
        if held is not None:
            yield held, not text
        if text or (held is None and self.keep_empty):
            yield text, True


def _next_cut(text: str, start: int, stop: int, size: int) -> int:
    """Where to cut `text[start:]`; 0: nowhere (yet). Independent of how the text arrived."""
    if stop - start <= size:
        return 0
    if match := _SAFE_CUT.search(text, start + size, min(stop, start + MAX_RUN)):
        return match.start()
    return start + MAX_RUN if stop - start > MAX_RUN else 0
