"""`examine`: what is in a text before a model is trained on it."""

import dataclasses
import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.data.corpus import Source, find_files
from gpt2.data.damage import Damage, DamageCount, encoding_problems
from gpt2.data.token_check import TokenReport, count_tokens
from gpt2.errors import DataError
from gpt2.files import human_bytes
from gpt2.text_files import TextFormat, has_separator, is_json_lines, iter_pieces
from gpt2.tokenizer import Tokenizer

_SMALL_DOCUMENT, _LARGE_DOCUMENT = 20, 100_000  # characters


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
    short_documents: int
    """With fewer than 20 characters."""
    long_documents: int
    """With more than 100,000 characters."""
    empty_documents: int
    """Documents without text, which are dropped."""
    duplicate_documents: int
    """Documents that stood before, word for word."""
    valid_overlap: int | None
    """Validation documents that also stand in the training text; None: no validation text was given."""
    encoding_problems: list[str]
    """Places that are not UTF-8, the first ten of each file."""
    damage: list[Damage]
    """Characters that tell of a wrong turn on the way here, by kind."""
    tokens: TokenReport | None
    """What a tokenizer makes of it; None: no tokenizer was given."""
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
            f"extreme lengths      {self.short_documents:,} documents under {_SMALL_DOCUMENT} characters, "
            f"{self.long_documents:,} over {_LARGE_DOCUMENT:,}",
            f"empty documents      {self.empty_documents:,}",
            f"duplicate documents  {self.duplicate_documents:,}",
            f"encoding problems    {len(self.encoding_problems):,}",
        ]
        if self.valid_overlap is not None:
            lines.append(f"shared with --valid  {self.valid_overlap:,}")
        return [
            *lines,
            *(self.tokens.lines() if self.tokens else []),
            *(f"! {damage}" for damage in self.damage),
            *(f"! {problem}" for problem in self.encoding_problems),
            *(f"* {hint}" for hint in self.hints),
        ]


def examine(
    sources: Sequence[Source] = (),
    *,
    valid: Sequence[Source] = (),
    split: str = "auto",
    text_field: str = "text",
    tokenizer: Tokenizer | None = None,
    context_length: int | None = None,
) -> Report:
    """Read text and report on it; bad UTF-8 is reported too, not an error.

    Args:
        sources: files and folders; none: the bundled stories.
        valid: validation text, to count the documents that stand in both.
        split: "auto" or "paragraph".
        text_field: the key of the text in JSON lines.
        tokenizer: to count tokens with.
        context_length: of the model, to count what is cut.

    Raises:
        DataError: a file is missing, empty, not text, or not JSON lines.
    """
    text_format = TextFormat(split, text_field, "replace")
    files = find_files(sources)
    problems = [problem for path in files for problem in encoding_problems(path)]
    damage = DamageCount()
    hashes, characters, num_bytes, empty = _measure(files, text_format, damage)
    if not len(hashes):
        raise DataError(f"there is no text in {', '.join(map(str, files[:3]))}")
    overlap = None
    if valid:
        overlap = int(np.isin(_measure(find_files(valid), text_format, DamageCount())[0], hashes).sum())
    middle = {"min": characters.min(), "median": np.median(characters), "max": characters.max()}
    return Report(
        files=[str(path) for path in files],
        documents=len(hashes),
        bytes=num_bytes,
        characters={name: float(value) for name, value in middle.items()},
        short_documents=int((characters < _SMALL_DOCUMENT).sum()),
        long_documents=int((characters > _LARGE_DOCUMENT).sum()),
        empty_documents=empty,
        duplicate_documents=len(hashes) - len(np.unique(hashes)),
        valid_overlap=overlap,
        encoding_problems=problems,
        damage=damage.found(),
        tokens=count_tokens(iter_pieces(files, text_format), tokenizer, context_length) if tokenizer else None,
        hints=_hints(files, split, characters, overlap),
    )


def _measure(
    files: list[Path], text_format: TextFormat, damage: DamageCount
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Hash and characters of each document, (n,) both; UTF-8 bytes; how many are empty."""
    hashes, lengths = bytearray(), array("q")
    num_bytes = length = empty = 0
    digest = hashlib.blake2b(digest_size=8)
    for text, last in iter_pieces(files, text_format, keep_empty=True):
        encoded = text.encode("utf-8")
        digest.update(encoded)
        num_bytes += len(encoded)
        length += len(text)
        if length:
            damage.look(text, last)
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
