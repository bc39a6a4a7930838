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


class EncodedPieces(NamedTuple):
    """Some stretches of documents as ids, in order."""

    ids: np.ndarray
    """Of all, one stretch's after the other's; little-endian, of `id_bytes` bytes each."""
    counts: np.ndarray
    """Ids of each stretch; (N,)."""
    num_bytes: np.ndarray
    """UTF-8 bytes of each; (N,)."""
    last: np.ndarray
    """Whether its document ends with it, bool (N,)."""

    def cut(self, number: int) -> tuple["EncodedPieces", "EncodedPieces"]:
        """The first `number` stretches, and the rest."""
        place = self.counts[:number].sum()
        return (
            EncodedPieces(self.ids[:place], self.counts[:number], self.num_bytes[:number], self.last[:number]),
            EncodedPieces(self.ids[place:], self.counts[number:], self.num_bytes[number:], self.last[number:]),
        )


def write_shards(
    folder: Path,
    tokenizer: Tokenizer,
    pieces_after: Callable[[int], Iterator[EncodedPieces]],
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
    stretches = _stretches(pieces, tokenizer.eos_token_id, shard_ids)
    for number in count(len(records)):
        record = _write_shard(folder, number, stretches)
        if record is None:
            break
        records.append(record)
    if not records:
        raise DataError("there is no document to tokenise")
    write_index(folder, tokenizer.fingerprint, tokenizer.vocab_size, itemsize, records)
    for number in range(len(records)):
        _record_path(folder, number).unlink(missing_ok=True)


class _Stretch(NamedTuple):
    ids: np.ndarray  # of documents with the end-of-text token before each
    table: np.ndarray  # (documents that end in it, 2): ids, with that token, and UTF-8 bytes
    fills: bool  # a shard


def _stretches(pieces: Iterator[EncodedPieces], end_of_text: int, shard_ids: int) -> Iterator[_Stretch]:
    """What to write, none of it in two shards."""
    size = 0  # ids of the shard so far
    begun = np.zeros(2, np.int64)  # ids and bytes of the document that did not end yet
    for rest in pieces:
        while len(rest.last):
            begins = np.concatenate(([not begun[0]], rest.last[:-1]))
            sums = np.cumsum(np.stack([rest.counts + begins, rest.num_bytes], axis=1), axis=0)
            ends = np.flatnonzero(rest.last)
            full = ends[size + sums[ends, 0] >= shard_ids][:1]
            stop = int(full[0]) + 1 if len(full) else len(rest.last)
            here, rest = rest.cut(stop)
            totals = np.concatenate((np.zeros((1, 2), np.int64), begun + sums[ends[ends < stop]]))
            firsts = np.cumsum(here.counts) - here.counts
            yield _Stretch(
                np.insert(here.ids, firsts[begins[:stop]], end_of_text), np.diff(totals, axis=0), len(full) > 0
            )
            size = 0 if len(full) else size + int(sums[stop - 1, 0])
            begun = begun + sums[stop - 1] - totals[-1]


def _write_shard(folder: Path, number: int, stretches: Iterator[_Stretch]) -> ShardRecord | None:
    first = next(stretches, None)
    if first is None:
        return None
    ids_path, table_path = shard_paths(folder, number)
    tables, size, digest = [], 0, hashlib.sha256()
    with atomic_write(ids_path, "wb") as file:
        stretch: _Stretch | None = first
        while stretch is not None:
            content = stretch.ids.tobytes()
            file.write(content)
            digest.update(content)
            size += len(stretch.ids)
            tables.append(stretch.table)
            stretch = None if stretch.fills else next(stretches, None)
    table = np.concatenate(tables)
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    with atomic_write(table_path, "wb") as file:
        file.write(buffer.getbuffer())
    record = ShardRecord(size, len(table), digest.hexdigest(), sha256(table_path))
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
