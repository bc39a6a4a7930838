"""Damage in text: bytes that are not UTF-8, and characters that tell of a wrong turn on the way here."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from gpt2.errors import DataError
from gpt2.text_files import open_bytes, refuse_binary

LISTED_PROBLEMS = 10  # of each file; one bad file shall not bury the others

# UTF-8 that was once read as Windows-1252 or Latin-1: a lead byte's character and then those of continuation bytes.
_CONTINUATION = "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
_KINDS = {
    "replacement characters (U+FFFD: bytes that somebody could not read)": re.compile("\ufffd"),
    "mojibake (UTF-8 read as Latin-1 or Windows-1252)": re.compile(
        f"[\u00c2\u00c3]{_CONTINUATION}|\u00e2{_CONTINUATION}{_CONTINUATION}|\u00f0\u0178{_CONTINUATION}"
    ),
    "control characters": re.compile("[\x01-\x08\x0b\x0e-\x1f\x7f]"),
    "entities of HTML": re.compile(r"&(?:amp|quot|lt|gt|nbsp|apos|#\d{2,5}|#x[0-9a-fA-F]{2,4});"),
    "byte order marks inside the text": re.compile("\ufeff"),
}


@dataclass(frozen=True)
class Damage:
    """One kind of damage."""

    kind: str
    documents: int
    """In how many it occurs."""
    first_document: int
    """The first of them, counted from 1."""
    example: str
    """What stands there."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.documents:,} documents, first in document {self.first_document:,}: {self.example!r}"


class DamageCount:
    """Looks at documents one after another, in pieces."""

    def __init__(self) -> None:
        self._found: dict[str, Damage] = {}
        self._number, self._here = 1, set[str]()

    def look(self, text: str, last: bool) -> None:
        """Take in the next piece of the present document, its last one or not."""
        for kind, pattern in _KINDS.items():
            if kind not in self._here and (match := pattern.search(text)):
                self._here.add(kind)
                near = text[max(0, match.start() - 15) : match.end() + 15]
                known = self._found.get(kind, Damage(kind, 0, self._number, near))
                self._found[kind] = Damage(kind, known.documents + 1, known.first_document, known.example)
        if last:
            self._number, self._here = self._number + 1, set()

    def found(self) -> list[Damage]:
        """What was found, in a fixed order."""
        return [self._found[kind] for kind in _KINDS if kind in self._found]


def encoding_problems(path: Path, limit: int = LISTED_PROBLEMS) -> list[str]:
    """Where a file is not UTF-8, in words: `"story.txt, line 3: byte 0xe9 at offset 57"`.

    Raises:
        DataError: it is not a text file at all, or cannot be read.
    """
    problems: list[str] = []
    line, offset, rest = 1, 0, b""
    try:
        with open_bytes(path) as file:
            while len(problems) < limit:
                block = file.read(1 << 20)
                if offset == 0:
                    refuse_binary(path, block)
                data = rest + block
                try:
                    text, used = codecs.utf_8_decode(data, "strict", not block)
                    line += text.count("\n")
                except UnicodeDecodeError as error:
                    line += data.count(b"\n", 0, error.start)
                    where = f"byte 0x{data[error.start]:02x} at offset {offset + error.start:,}"
                    problems.append(f"{path}, line {line}: {where}")
                    used = error.end
                offset, rest = offset + used, data[used:]
                if not block and not rest:
                    break
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return problems
