"""Writing token shards: one at a time, each complete or absent, continued after an interruption."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt2.data.shards import ShardRecord, shard_paths, write_index
from gpt2.errors import DataError
from gpt2.files import atomic_write, sha256, write_json
from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.bulk import id_bytes

SHARD_IDS = 64_000_000
"""A shard ends with the document that reaches this many ids."""


class EncodedPiece(NamedTuple):
    """A stretch of a document as ids."""

    ids: bytes
    num_bytes: int
    last: bool


def write_shards(
    folder: Path,
    tokenizer: Tokenizer,
    pieces_after: Callable[[int], Iterator[EncodedPiece]],
    *,
    shard_ids: int = SHARD_IDS,
) -> None:
    """Write all documents to `folder`; shards that an earlier try completed are kept.

    Args:
        folder: only this function writes there.
        tokenizer: whose ids they are.
        pieces_after: `pieces_after(n)` gives the documents after the first n, from the start of one.
        shard_ids: see `SHARD_IDS`.

    Raises:
        DataError: there is no document.
        UserError: the disk is full or cannot be written.
    """
    itemsize = id_bytes(tokenizer.vocab_size)
    for path in folder.glob(".*.tmp-*"):  # what a killed run left half written
        path.unlink()
    records = _finished(folder, itemsize)
    pieces = pieces_after(sum(record.num_documents for record in records))
    end_of_text = tokenizer.eos_token_id.to_bytes(itemsize, "little")
    for number in count(len(records)):
        record = _write_shard(folder, number, pieces, end_of_text, shard_ids)
        if record is None:
            break
        records.append(record)
    if not records:
        raise DataError("there is no document to tokenise")
    write_index(folder, tokenizer.fingerprint, tokenizer.vocab_size, itemsize, records)
    for number in range(len(records)):
        _record_path(folder, number).unlink(missing_ok=True)


def _write_shard(
    folder: Path, number: int, pieces: Iterator[EncodedPiece], end_of_text: bytes, shard_ids: int
) -> ShardRecord | None:
    first = next(pieces, None)
    if first is None:
        return None
    ids_path, table_path = shard_paths(folder, number)
    itemsize, digest = len(end_of_text), hashlib.sha256()
    table, size, document_start, document_bytes = [], 0, 0, 0
    with atomic_write(ids_path, "wb") as file:
        piece: EncodedPiece | None = first
        while piece is not None:
            stretch = piece.ids if size > document_start else end_of_text + piece.ids
            file.write(stretch)
            digest.update(stretch)
            size += len(stretch)
            document_bytes += piece.num_bytes
            if piece.last:
                table.append(((size - document_start) // itemsize, document_bytes))
                document_start, document_bytes = size, 0
                if size >= shard_ids * itemsize:
                    break
            piece = next(pieces, None)
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(table, np.int64), allow_pickle=False)
    with atomic_write(table_path, "wb") as file:
        file.write(buffer.getbuffer())
    record = ShardRecord(size // itemsize, len(table), digest.hexdigest(), sha256(table_path))
    write_json(_record_path(folder, number), dataclasses.asdict(record))
    return record


def _finished(folder: Path, itemsize: int) -> list[ShardRecord]:
    """Shards that an interrupted run completed: the record is written after the files."""
    records: list[ShardRecord] = []
    for number in count():
        ids, table = shard_paths(folder, number)
        try:
            record = ShardRecord(**json.loads(_record_path(folder, number).read_text(encoding="utf-8")))
            if sha256(ids) != record.ids_sha256 or sha256(table) != record.table_sha256:
                return records
        except (OSError, ValueError, TypeError):
            return records
        records.append(record)
    raise AssertionError("unreachable")


def _record_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.done.json"
