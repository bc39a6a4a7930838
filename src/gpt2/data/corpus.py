"""`Corpus`: text that was read once, its documents counted and divided; `survey` makes one.

Nothing is kept of a document but its size and a hash of its content. Each file's survey is kept in
the cache, so a second look at gigabytes costs nothing.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.data.cache import cache_folder, file_fingerprint, key_of
from gpt2.data.holdout import choose_held_out, cut_document
from gpt2.documents import Piece
from gpt2.errors import DataError
from gpt2.files import atomic_write
from gpt2.text_files import TextFormat, find_text_files, is_json_lines, iter_pieces
from gpt2.text_files import iter_documents as _iter_documents

BUNDLED = "bundled"
"""The source name of the stories that come with the package."""

_RULES = 1  # raise it when reading or dividing changes: old caches are then not used

Source = str | Path


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents of some files, in order, each by the hash of its content and its size."""

    files: tuple[Path, ...]
    text_format: TextFormat
    hashes: np.ndarray
    """uint64 (N,)."""
    sizes: np.ndarray
    """UTF-8 bytes, int64 (N,)."""
    key: str
    """Changes whenever the content does."""

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents divided into training and validation. Make one with `survey`."""

    documents: Documents
    """All of which a fraction is used: the first `len(held_out)`."""
    held_out: np.ndarray
    """bool (n,): which of the used documents validate."""
    valid: Documents | None
    """Documents given for validation; then nothing is held out."""
    cut_share: float | None
    """The share of its end that validates, if there is but one document."""
    key: str
    """Changes whenever the content or the division does."""
    notes: list[str] = field(default_factory=list)
    """What was decided and what is odd, in sentences."""

    @property
    def num_documents(self) -> int:
        """Documents used for training (a document of which the end validates counts)."""
        return 1 if self.cut_share is not None else int(len(self.held_out) - self.held_out.sum())

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the training documents; an estimate where one document is cut."""
        used = self.documents.sizes[: len(self.held_out)]
        if self.cut_share is not None:
            return int(used[0] * (1 - self.cut_share))
        return int(used[~self.held_out].sum())

    @property
    def num_valid_documents(self) -> int:
        """Documents used for validation."""
        if self.cut_share is not None:
            return 1
        return len(self.valid) if self.valid is not None else int(self.held_out.sum())

    @property
    def num_valid_bytes(self) -> int:
        """UTF-8 bytes of the validation documents; an estimate where one document is cut."""
        used = self.documents.sizes[: len(self.held_out)]
        if self.cut_share is not None:
            return int(used[0] - self.num_bytes)
        return int(self.valid.sizes.sum() if self.valid is not None else used[self.held_out].sum())

    def training_pieces(self) -> Iterator[Piece]:
        """The training documents, in order, in pieces."""
        return self._pieces(held_out=False)

    def validation_pieces(self) -> Iterator[Piece]:
        """The validation documents, in order, in pieces."""
        if self.valid is not None:
            return iter_pieces(self.valid.files, self.valid.text_format)
        return self._pieces(held_out=True)

    def training_texts(self, max_bytes: int = 100_000_000) -> Iterator[str]:
        """Text for training a tokenizer: nothing that is held out is in it.

        Args:
            max_bytes: about this much at most, evenly spread; more hardly changes a vocabulary.
        """
        every = max(1, math.ceil(self.num_bytes / max_bytes))
        return (text for number, (text, _) in enumerate(self.training_pieces()) if number % every == 0)

    def _pieces(self, held_out: bool) -> Iterator[Piece]:
        pieces = iter_pieces(self.documents.files, self.documents.text_format)
        if self.cut_share is not None:
            halves = cut_document(_first_document(pieces), int(self.documents.sizes[0]), self.cut_share)
            yield from ((half.text, half.last) for half in halves if half.held_out is held_out)
            return
        wanted = (self.held_out if held_out else ~self.held_out).tolist()
        remaining, number = sum(wanted), 0
        for text, last in pieces:
            if wanted[number]:
                yield text, last
                remaining -= last
                if not remaining:
                    return
            number += last


def bundled_corpus() -> Path:
    """The file of the bundled stories: 2,040 of them, 1.4 MB, public domain."""
    return Path(str(resources.files("gpt2.data") / "bundled_stories.txt.xz"))


def find_files(sources: Sequence[Source]) -> list[Path]:
    """The text files of `sources`; none, or `"bundled"`, stand for the bundled stories.

    Raises:
        DataError: a missing or empty file, or a folder without text.
    """
    named = [bundled_corpus() if str(source) == BUNDLED else source for source in sources]
    return find_text_files(named or [bundled_corpus()])


def iter_documents(sources: Sequence[Source] = (), **text_format: Any) -> Iterator[str]:
    """Every document of files, folders or the bundled stories; keywords as `TextFormat`'s.

    Raises:
        DataError: a file is missing, empty or not text.
    """
    return _iter_documents(find_files(sources), TextFormat(**text_format))


def survey(
    sources: Sequence[Source] = (),
    *,
    valid: Sequence[Source] = (),
    fraction: float = 1.0,
    valid_fraction: float = 0.05,
    split: str = "auto",
    text_field: str = "text",
    encoding_errors: str = "strict",
    cache: str | Path | None = None,
    progress: bool = True,
) -> Corpus:
    """Read the text once, count its documents and divide them.

    Args:
        sources: files and folders; none: the bundled stories.
        valid: files and folders for validation; none: some documents are held out.
        fraction: use only the first ceil(fraction * N) of N documents, in (0, 1].
        valid_fraction: share of the documents to hold out (of a single document: its end), in (0, 1).
        split: "auto" or "paragraph"; see `TextFormat`.
        text_field: the key of the text in JSON lines.
        encoding_errors: "strict" or "replace"; see `TextFormat`.
        cache: folder for derived data; see `cache_folder`.
        progress: show a bar.

    Raises:
        DataError: a file is missing, empty, not text, or too short to divide.
    """
    if not 0 < fraction <= 1:
        raise DataError(f"fraction must lie in (0, 1], got {fraction}")
    if not 0 < valid_fraction < 1:
        raise DataError(f"valid_fraction must lie in (0, 1), got {valid_fraction}")
    text_format, folder = TextFormat(split, text_field, encoding_errors), cache_folder(cache)
    documents = _read(find_files(sources), text_format, folder, progress)
    used = math.ceil(fraction * len(documents))
    given = _read(find_files(valid), text_format, folder, progress) if valid else None
    held_out, cut_share = np.zeros(used, bool), None
    if given is None:
        if len(np.unique(documents.hashes[:used])) == 1:
            cut_share = valid_fraction
        else:
            held_out = choose_held_out(documents.hashes[:used], valid_fraction)
    key = key_of(_RULES, documents.key, used, given.key if given else None, None if given else valid_fraction)
    corpus = Corpus(documents, held_out, given, cut_share, key)
    corpus.notes.extend(_notes(corpus))
    return corpus


def _notes(corpus: Corpus) -> Iterator[str]:
    used = corpus.documents.hashes[: len(corpus.held_out)]
    copies = len(used) - len(np.unique(used))
    if len(used) < len(corpus.documents):
        yield f"the first {len(used):,} of {len(corpus.documents):,} documents are used"
    if copies:
        yield f"{copies:,} of {len(used):,} documents are copies of another"
    if corpus.cut_share is not None:
        yield f"there is one document: the last {corpus.cut_share:.3g} of its text (2 MB at most) validates"
    elif corpus.valid is None:
        yield (
            f"{corpus.num_valid_documents:,} of {len(used):,} documents are held out for validation, "
            f"chosen by a hash of their content"
        )
    else:
        shared = int(np.isin(corpus.valid.hashes, used).sum())
        if shared:
            yield (
                f"{shared:,} of {len(corpus.valid):,} validation documents also stand in the training text: "
                f"the validation loss will look better than it is"
            )


def _read(files: list[Path], text_format: TextFormat, cache: Path, progress: bool) -> Documents:
    """Survey every file, or remember an earlier survey of it."""
    from tqdm import tqdm

    tables, keys = [], []
    total = sum(path.stat().st_size for path in files)
    with tqdm(
        total=total,
        desc="reading",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None if progress else True,
    ) as bar:
        for path in files:
            fingerprint = file_fingerprint(path, cache)
            key = key_of(_RULES, fingerprint, vars(text_format), is_json_lines(path), path.suffix.lower())
            keys.append(key)
            tables.append(_remembered(cache / "surveys" / f"{key}.npy", path, text_format, bar))
    table = np.concatenate(tables)
    if not len(table):
        raise DataError(f"there is no text in {', '.join(map(str, files[:3]))}{' ...' if len(files) > 3 else ''}")
    sizes = table[:, 1].astype(np.int64)
    return Documents(tuple(files), text_format, np.ascontiguousarray(table[:, 0]), sizes, key_of(keys))


def _remembered(memory: Path, path: Path, text_format: TextFormat, bar: Any) -> np.ndarray:
    try:
        table = np.load(memory, allow_pickle=False)
        if table.dtype == np.uint64 and table.ndim == 2 and table.shape[1] == 2:
            bar.update(path.stat().st_size)
            return table
    except (OSError, ValueError, EOFError):
        pass
    table = _survey_file(path, text_format, bar)
    with atomic_write(memory, "wb") as file:
        np.save(file, table, allow_pickle=False)
    return table


def _survey_file(path: Path, text_format: TextFormat, bar: Any) -> np.ndarray:
    """(documents, 2) uint64: hash of the content, UTF-8 bytes."""
    rows, size, digest = bytearray(), 0, hashlib.blake2b(digest_size=8)
    for text, last in iter_pieces([path], text_format, bar.update):
        encoded = text.encode("utf-8")
        digest.update(encoded)
        size += len(encoded)
        if last:
            rows += digest.digest() + size.to_bytes(8, "little")
            size, digest = 0, hashlib.blake2b(digest_size=8)
    return np.frombuffer(bytes(rows), "<u8").reshape(-1, 2).astype(np.uint64)


def _first_document(pieces: Iterable[Piece]) -> Iterator[Piece]:
    for text, last in pieces:
        yield text, last
        if last:
            return
