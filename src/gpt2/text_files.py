"""Text files to documents: `.txt` and `.jsonl`, plain or compressed, streamed in bounded memory.

CRLF reads as LF, a byte order mark is dropped. How text becomes documents: `gpt2.documents`. In a
`.jsonl` file each line is one document (a `<|endoftext|>` inside still parts it: it is never text).
"""

import codecs
import contextlib
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpt2.documents import SEPARATOR, DocumentSplitter, Piece
from gpt2.errors import DataError, nearest

SUFFIXES = (".txt", ".txt.gz", ".txt.xz", ".jsonl", ".jsonl.gz", ".jsonl.xz")

OnBytes = Callable[[int], object]
"""Told how many bytes came from the disk since the last call."""

_BLOCK_BYTES = 1 << 18  # see PIECE_CHARACTERS
_MAX_LINE_BYTES = 1 << 26  # of JSON: one line must fit in memory
_MAGIC = {
    b"\x1f\x8b": "gzip data (name it .gz)",
    b"\xfd7zXZ": "xz data (name it .xz)",
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x7fELF": "a program",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16 text (save it as UTF-8)",
    b"\xfe\xff": "UTF-16 text (save it as UTF-8)",
}


@dataclass(frozen=True)
class TextFormat:
    """How files become documents.

    Raises:
        DataError: a value is not one of those named.
    """

    split: str = "auto"
    """"auto": separators only; "paragraph": blank lines too, in files without any separator."""
    text_field: str = "text"
    """The key of the text in a line of JSON."""
    encoding_errors: str = "strict"
    """"strict": bad UTF-8 is an error; "replace": U+FFFD takes its place."""

    def __post_init__(self) -> None:
        for name, allowed in (("split", ("auto", "paragraph")), ("encoding_errors", ("strict", "replace"))):
            if getattr(self, name) not in allowed:
                raise DataError(f"{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")


DEFAULT_FORMAT = TextFormat()


def find_text_files(sources: Iterable[str | Path]) -> list[Path]:
    """The files that `sources` name, each once, in order.

    A folder stands for every text file below it (`SUFFIXES`), sorted by path; hidden and empty
    ones are left out. A file named outright is taken whatever its suffix.

    Raises:
        DataError: a missing or empty file, or a folder without text.
    """
    files: dict[Path, Path] = {}
    for source in map(Path, sources):
        for path in _files_in(source) if source.is_dir() else [_checked(source)]:
            files.setdefault(path.resolve(), path)
    return list(files.values())


def iter_documents(
    files: Iterable[str | Path], text_format: TextFormat = DEFAULT_FORMAT, on_bytes: OnBytes | None = None
) -> Iterator[str]:
    """Every document whole, in order. One document must fit in memory; `iter_pieces` needs less."""
    held: list[str] = []
    for text, last in iter_pieces(files, text_format, on_bytes):
        held.append(text)
        if last:
            yield "".join(held)
            held.clear()


def iter_pieces(
    files: Iterable[str | Path],
    text_format: TextFormat = DEFAULT_FORMAT,
    on_bytes: OnBytes | None = None,
    *,
    keep_empty: bool = False,
) -> Iterator[Piece]:
    """Every document as one or more pieces, cut so that their tokens are those of the whole.

    Args:
        files: as `find_text_files` gives them.
        text_format: how they become documents.
        on_bytes: told of progress.
        keep_empty: give out empty documents as `("", True)`; they are dropped otherwise.

    Raises:
        DataError: naming the file, the line and, for bad UTF-8, the byte.
    """
    for path in map(Path, files):
        reader = _json_pieces if is_json_lines(path) else _text_pieces
        try:
            yield from reader(path, text_format, on_bytes or (lambda count: None), keep_empty)
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{path}: the compressed data is cut short or damaged ({error}); get it again") from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def is_json_lines(path: Path) -> bool:
    """Whether the name says JSON lines: `.jsonl`, `.jsonl.gz`, `.jsonl.xz`."""
    return path.name.lower().removesuffix(".gz").removesuffix(".xz").endswith(".jsonl")


def _files_in(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and path.stat().st_size:
                found.append(path)
    if not found:
        raise DataError(f"the folder {folder} has no text in it; files named {', '.join(SUFFIXES[:5:2])} would do")
    return sorted(found, key=lambda path: path.as_posix())


def _checked(path: Path) -> Path:
    if not path.exists():
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        where = "" if path.parent.is_dir() else f" There is no folder {path.parent} either."
        raise DataError(f"there is no file {path}.{nearest(path.name, names)}{where}")
    if not path.is_file():
        raise DataError(f"{path} is not a regular file; it must be read more than once, so save it to disk first")
    if path.stat().st_size == 0:
        raise DataError(f"the file {path} is empty")
    return path


def _text_pieces(path: Path, text_format: TextFormat, on_bytes: OnBytes, keep_empty: bool) -> Iterator[Piece]:
    splitter = DocumentSplitter(text_format.split == "paragraph" and not has_separator(path), keep_empty)
    for text in _decoded_blocks(path, text_format.encoding_errors, on_bytes):
        yield from splitter.push(text)
    yield from splitter.flush()


def _decoded_blocks(path: Path, errors: str, on_bytes: OnBytes) -> Iterator[str]:
    """The file's text in stretches, with LF newlines and no byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset, held = 0, ""
    with open_bytes(path, on_bytes) as file:
        while True:
            block = file.read(_BLOCK_BYTES)
            if offset == 0:
                refuse_binary(path, block)
            waiting = len(decoder.getstate()[0])  # bytes of a character that the last block cut in two
            try:
                text = decoder.decode(block, not block)
            except UnicodeDecodeError as error:
                line = _line_at(path, offset - waiting + error.start)
                raise DataError(_bad_utf8(path, line, offset - waiting, error)) from error
            text = held + (text if offset else text.removeprefix("\ufeff"))
            offset += len(block)
            held = "\r" if block and text.endswith("\r") else ""  # its LF may begin the next block
            if "\r" in text:
                text = text.removesuffix(held).replace("\r\n", "\n")
            yield text
            if not block:
                return


def _line_at(path: Path, offset: int) -> int:
    line = 1
    with open_bytes(path) as file:
        while offset > 0 and (block := file.read(min(offset, _BLOCK_BYTES))):
            line, offset = line + block.count(b"\n"), offset - len(block)
    return line


def _json_pieces(path: Path, text_format: TextFormat, on_bytes: OnBytes, keep_empty: bool) -> Iterator[Piece]:
    offset, number = 0, 0
    with open_bytes(path, on_bytes) as file:
        while line := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > _MAX_LINE_BYTES:
                raise DataError(f"{path}, line {number}: over {_MAX_LINE_BYTES >> 20} MiB long; is this JSON lines?")
            if number == 1:
                refuse_binary(path, line)
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                text = _json_text(path, number, offset, line, text_format).replace("\r\n", "\n")
                splitter = DocumentSplitter(keep_empty=keep_empty)
                yield from splitter.push(text)
                yield from splitter.flush()
                if keep_empty and not text.strip("\n"):
                    yield "", True
            offset += len(line)


def _json_text(path: Path, number: int, offset: int, line: bytes, text_format: TextFormat) -> str:
    field, where = text_format.text_field, f"{path}, line {number}"
    try:
        record: Any = json.loads(line.decode("utf-8", text_format.encoding_errors))
    except UnicodeDecodeError as error:
        raise DataError(_bad_utf8(path, number, offset, error)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); a .jsonl file holds one JSON object per line") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON object is needed, this is a {type(record).__name__}")
    if field not in record:
        fields = ", ".join(map(repr, record)) or "none"
        raise DataError(f"{where}: no field {field!r}; its fields are {fields}; name one with --text-field")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: the field {field!r} must be text, it is a {type(text).__name__}")
    if text_format.encoding_errors == "replace":
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    if half := re.search("[\ud800-\udfff]", text):  # from an escape such as \ud800
        raise DataError(
            f"{where}: \\u{ord(half[0]):04x} is half of a surrogate pair, not a character; "
            f"--encoding-errors replace puts U+FFFD there and goes on"
        )
    return text


def has_separator(path: Path) -> bool:
    """Whether `<|endoftext|>` stands anywhere in the file."""
    needle, tail = SEPARATOR.encode(), b""
    with open_bytes(path) as file:
        while block := file.read(_BLOCK_BYTES):
            if needle in tail + block:
                return True
            tail = block[-len(needle) :]
    return False


def refuse_binary(path: Path, start: bytes) -> None:
    """Raise DataError if a file that starts so is no text file; the message says what it is."""
    for magic, name in _MAGIC.items():
        if start.startswith(magic):
            raise DataError(f"{path} is not a text file but {name}")
    if 0 in start:
        raise DataError(f"{path} is not a text file: it has a zero byte at offset {start.index(0):,}")


@contextlib.contextmanager
def open_bytes(path: Path, on_bytes: OnBytes = lambda count: None) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed by its suffix."""
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("rb", buffering=0))
        counted: Any = stack.enter_context(io.BufferedReader(_Counted(raw, on_bytes), _BLOCK_BYTES))
        match path.suffix.lower():
            case ".gz":
                counted = stack.enter_context(gzip.GzipFile(fileobj=counted))
            case ".xz":
                counted = stack.enter_context(lzma.LZMAFile(counted))
        yield counted


class _Counted(io.RawIOBase):
    """A raw file that reports what is read from it."""

    def __init__(self, raw: io.RawIOBase, on_bytes: OnBytes) -> None:
        self._raw, self._on_bytes = raw, on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        self._on_bytes(count or 0)
        return count


def _bad_utf8(path: Path, line: int, offset: int, error: UnicodeDecodeError) -> str:
    byte, position = error.object[error.start], offset + error.start
    return (
        f"{path}, line {line}: byte 0x{byte:02x} at offset {position:,} is not UTF-8; convert the file, "
        f"or use --encoding-errors replace to put U+FFFD there and go on"
    )
