"""`examine`: what is in a text before a model is trained on it."""

import codecs
import dataclasses
import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.data.corpus import Source, find_files
from gpt2.errors import DataError
from gpt2.files import human_bytes
from gpt2.text_files import TextFormat, has_separator, is_json_lines, iter_pieces, open_bytes, refuse_binary

_LISTED_PROBLEMS = 10  # of each file; one bad file shall not bury the others
_LARGE_DOCUMENT = 100_000  # characters


@dataclass(frozen=True)
class Report:
    """What `examine` found."""

    files: list[str]
    documents: int
    """Documents with text in them."""
    bytes: int
    """UTF-8 bytes of the documents."""
    characters: dict[str, float]
    """Of a document: `min`, `median`, `max`."""
    empty_documents: int
    """Documents without text, which are dropped."""
    duplicate_documents: int
    """Documents that stood before, word for word."""
    valid_overlap: int | None
    """Validation documents that also stand in the training text; None: no validation text was given."""
    encoding_problems: list[str]
    """Places that are not UTF-8, the first ten of each file."""
    hints: list[str]
    """What looks odd, in sentences."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        shortest, median, longest = (self.characters[name] for name in ("min", "median", "max"))
        lines = [
            f"files                {len(self.files):,}",
            f"documents            {self.documents:,} ({human_bytes(self.bytes)} of text)",
            f"characters           {shortest:,.0f} shortest, {median:,.0f} median, {longest:,.0f} longest",
            f"empty documents      {self.empty_documents:,}",
            f"duplicate documents  {self.duplicate_documents:,}",
            f"encoding problems    {len(self.encoding_problems):,}",
        ]
        if self.valid_overlap is not None:
            lines.append(f"shared with --valid  {self.valid_overlap:,}")
        return [
            *lines,
            *(f"! {problem}" for problem in self.encoding_problems),
            *(f"* {hint}" for hint in self.hints),
        ]


def examine(
    sources: Sequence[Source] = (),
    *,
    valid: Sequence[Source] = (),
    split: str = "auto",
    text_field: str = "text",
) -> Report:
    """Read text and report on it; bad UTF-8 is reported too, not an error.

    Args:
        sources: files and folders; none: the bundled stories.
        valid: validation text, to count the documents that stand in both.
        split: "auto" or "paragraph".
        text_field: the key of the text in JSON lines.

    Raises:
        DataError: a file is missing, empty, not text, or not JSON lines.
    """
    text_format = TextFormat(split, text_field, "replace")
    files = find_files(sources)
    problems = [problem for path in files for problem in encoding_problems(path)]
    hashes, characters, num_bytes, empty = _measure(files, text_format)
    if not len(hashes):
        raise DataError(f"there is no text in {', '.join(map(str, files[:3]))}")
    overlap = None
    if valid:
        overlap = int(np.isin(_measure(find_files(valid), text_format)[0], hashes).sum())
    middle = {"min": characters.min(), "median": np.median(characters), "max": characters.max()}
    return Report(
        files=[str(path) for path in files],
        documents=len(hashes),
        bytes=num_bytes,
        characters={name: float(value) for name, value in middle.items()},
        empty_documents=empty,
        duplicate_documents=len(hashes) - len(np.unique(hashes)),
        valid_overlap=overlap,
        encoding_problems=problems,
        hints=_hints(files, split, characters, overlap),
    )


def encoding_problems(path: Path, limit: int = _LISTED_PROBLEMS) -> list[str]:
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


def _measure(files: list[Path], text_format: TextFormat) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Hash and characters of each document, (n,) both; UTF-8 bytes; how many are empty."""
    hashes, lengths = bytearray(), array("q")
    num_bytes = length = empty = 0
    digest = hashlib.blake2b(digest_size=8)
    for text, last in iter_pieces(files, text_format, keep_empty=True):
        encoded = text.encode("utf-8")
        digest.update(encoded)
        num_bytes += len(encoded)
        length += len(text)
        if last:
            if length:
                hashes += digest.digest()
                lengths.append(length)
            empty += not length
            length, digest = 0, hashlib.blake2b(digest_size=8)
    return np.frombuffer(bytes(hashes), np.uint64), np.frombuffer(lengths, np.int64), num_bytes, empty


def _hints(files: list[Path], split: str, characters: np.ndarray, overlap: int | None) -> list[str]:
    hints = []
    whole = [path for path in files if not is_json_lines(path) and not has_separator(path)]
    if whole and split == "auto" and characters.max() > _LARGE_DOCUMENT:
        names = ", ".join(map(str, whole[:3])) + (" ..." if len(whole) > 3 else "")
        hints.append(
            f"no <|endoftext|> in {names}: such a file is one document; "
            f"--split paragraph makes one of each block between blank lines"
        )
    if overlap:
        hints.append("documents in both texts make the validation loss look better than it is")
    return hints
