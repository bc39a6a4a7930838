"""Tokenised text on disk: memory-mapped shards, their index, and reading slices of them.

Each document is `<|endoftext|>` followed by its ids. Shard k is two files: `0000k.ids`, raw
little-endian unsigned ids, and `0000k.npy`, an int64 table (documents, 2) of each document's number
of ids (the leading one included) and UTF-8 bytes. `index.json`, written last, names them all with
size and SHA-256, and carries a SHA-256 of its own entries; a folder without it is not finished.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gpt2.data.verified import Verified
from gpt2.errors import DataError

FORMAT, VERSION = "gpt2-token-shards", 2
INDEX_NAME = "index.json"
_DTYPES = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_CHUNK_BYTES = 1 << 22
_SHA256 = re.compile("[0-9a-f]{64}")

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ShardRecord:
    """One shard as the index describes it."""

    num_ids: int
    num_documents: int
    ids_sha256: str
    table_sha256: str


def shard_paths(folder: Path, number: int) -> tuple[Path, Path]:
    """Its two files: ids, table."""
    return folder / f"{number:05d}.ids", folder / f"{number:05d}.npy"


class TokenShards:
    """Documents as token ids, read from disk as needed. Global token offsets run over all shards.

    Make one with `TokenShards.open`.
    """

    def __init__(
        self, folder: Path, index: dict[str, Any], records: list[ShardRecord], verify: bool, known: Verified | None
    ) -> None:
        self.folder, self._known = folder, known
        self.dtype = _DTYPES[index["id_bytes"]]
        """Of the ids: unsigned, 2 bytes, or 4 where the vocabulary needs it."""
        self.vocab_size: int = index["vocab_size"]
        self.tokenizer_fingerprint: str = index["tokenizer"]
        tables = [self._check_shard(number, record, verify) for number, record in enumerate(records)]
        table = np.concatenate(tables)
        self.lengths: IntArray = np.ascontiguousarray(table[:, 0])
        """Ids of each document, its leading `<|endoftext|>` included; (num_documents,)."""
        self.document_bytes: IntArray = np.ascontiguousarray(table[:, 1])
        """UTF-8 bytes of each document; (num_documents,)."""
        self.offsets: IntArray = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        """Where each document begins; (num_documents + 1,), the last is `num_tokens`."""
        self._starts: IntArray = np.cumsum([0, *(record.num_ids for record in records)]).astype(np.int64)
        # Plain arrays over the maps: slicing np.memmap itself costs five times as much.
        self._shards = [
            np.memmap(shard_paths(folder, number)[0], self.dtype, mode="r").view(np.ndarray)
            for number in range(len(records))
        ]
        self.fingerprint: str = _fingerprint(index["tokenizer"], records)
        """Hash of the contents: equal for equal ids, whatever the folder."""
        if known is not None:
            known.keep()

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True, known: Verified | None = None) -> Self:
        """Open a folder of shards and check it.

        Args:
            folder: where `index.json` stands.
            verify: compare every file's SHA-256; without it sizes, tables and the range of the ids are
                still checked.
            known: files that were compared before on this machine and are not read again.

        Raises:
            DataError: a file is missing or damaged; the message names it.
        """
        folder = Path(folder)
        index, records = _read_index(folder / INDEX_NAME)
        return cls(folder, index, records, verify, known)

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Number of stored ids."""
        return int(self.offsets[-1])

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return int(self.document_bytes.sum())

    def __len__(self) -> int:
        return self.num_documents

    def __repr__(self) -> str:
        return f"TokenShards({str(self.folder)!r}: {self.num_documents:,} documents, {self.num_tokens:,} ids)"

    def read(self, start: int, stop: int) -> np.ndarray:
        """The ids [start, stop), over shard borders; (stop - start,).

        Raises:
            IndexError: outside [0, num_tokens].
        """
        return self.gather([start], [stop - start])

    def document(self, number: int) -> np.ndarray:
        """One document's ids, `<|endoftext|>` first; (lengths[number],)."""
        number = range(self.num_documents)[number]
        return self.read(int(self.offsets[number]), int(self.offsets[number + 1]))

    def gather(self, starts: npt.ArrayLike, lengths: npt.ArrayLike) -> np.ndarray:
        """Many slices, one after another: what a training step reads.

        Args:
            starts: global token offsets, (n,).
            lengths: ids in each slice, (n,).

        Returns:
            (sum(lengths),), of `dtype`.

        Raises:
            IndexError: a slice leaves [0, num_tokens].
        """
        first, size = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        last = first + size
        if first.size and (first.min() < 0 or size.min() < 0 or last.max() > self.num_tokens):
            raise IndexError(f"a slice leaves the {self.num_tokens:,} ids of {self.folder}")
        if len(self._shards) == 1:
            ids = self._shards[0]
            parts = [ids[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        else:
            parts = [part for a, b in zip(first.tolist(), last.tolist(), strict=True) for part in self._parts(a, b)]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def _parts(self, start: int, stop: int) -> list[np.ndarray]:
        """The slice's share of each shard it touches."""
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        while True:
            base = int(self._starts[number]) if number < len(self._shards) else stop
            if base >= stop:
                return parts
            parts.append(self._shards[number][max(start - base, 0) : stop - base])
            number += 1

    def _check_shard(self, number: int, record: ShardRecord, verify: bool) -> np.ndarray:
        ids, table_file = shard_paths(self.folder, number)
        for path in (ids, table_file):
            if not path.is_file():
                raise DataError(f"{path} is missing; delete {self.folder} and prepare the text again")
        if ids.stat().st_size != record.num_ids * self.dtype.itemsize:
            raise _damaged(ids, f"it has {ids.stat().st_size:,} bytes, not {record.num_ids * self.dtype.itemsize:,}")
        self._check_ids(ids, record, verify)
        if verify and _sha256(table_file) != record.table_sha256:
            raise _damaged(table_file, "its SHA-256 is not the one in the index")
        try:
            table = np.load(table_file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise _damaged(table_file, str(error)) from error
        if table.shape != (record.num_documents, 2) or table.dtype != np.int64:
            raise _damaged(table_file, f"it is {table.dtype} {table.shape}, not int64 ({record.num_documents}, 2)")
        if table.min(initial=1) < 1 or table[:, 0].sum() != record.num_ids:
            raise _damaged(table_file, "its lengths do not add up to the ids")
        return table

    def _check_ids(self, path: Path, record: ShardRecord, verify: bool) -> None:
        if verify and self._known is not None and self._known.knows(path, record.ids_sha256):
            return
        # By reading, not through the map: mapped pages would count as this process's memory.
        digest, largest = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                if verify:
                    digest.update(chunk)
                largest = max(largest, int(np.frombuffer(chunk, self.dtype).max()))
        if verify and digest.hexdigest() != record.ids_sha256:
            raise _damaged(path, "its SHA-256 is not the one in the index")
        if largest >= self.vocab_size:
            raise _damaged(path, f"it has the id {largest:,}, the vocabulary has {self.vocab_size:,}")
        if verify and self._known is not None:
            self._known.add(path, record.ids_sha256)


def write_index(folder: Path, tokenizer: str, vocab_size: int, id_bytes: int, records: list[ShardRecord]) -> None:
    """Write `index.json`, which declares the shards in `folder` complete."""
    from gpt2.files import write_json

    shards = [vars(record) for record in records]
    description = {"format": FORMAT, "version": VERSION, "tokenizer": tokenizer, "vocab_size": vocab_size}
    write_json(folder / INDEX_NAME, sealed({**description, "id_bytes": id_bytes, "shards": shards}))


def sealed(index: dict[str, Any]) -> dict[str, Any]:
    """The entries of an index with their own SHA-256: a bit that turns over in one is noticed."""
    entries = {key: value for key, value in index.items() if key != "sha256"}
    return {**entries, "sha256": hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()}


def _read_index(path: Path) -> tuple[dict[str, Any], list[ShardRecord]]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: these are no finished token shards; prepare the text again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise _damaged(path, "it is no index of token shards")
    if index.get("version") != VERSION:
        raise DataError(f"{path} has version {index.get('version')!r}, not {VERSION}; prepare the text again")
    if sealed(index) != index:
        raise _damaged(path, "its entries do not have its SHA-256")
    try:
        records = [ShardRecord(**shard) for shard in index["shards"]]
        good = (
            index["id_bytes"] in _DTYPES
            and type(index["vocab_size"]) is int
            and _SHA256.fullmatch(index["tokenizer"])
            and records
            and all(type(r.num_ids) is int and type(r.num_documents) is int for r in records)
            and all(0 < r.num_documents <= r.num_ids for r in records)
            and all(_SHA256.fullmatch(r.ids_sha256) and _SHA256.fullmatch(r.table_sha256) for r in records)
        )
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"an entry is missing or wrong ({error})") from error
    if not good:
        raise _damaged(path, "an entry is out of range")
    return index, records


def _fingerprint(tokenizer: str, records: list[ShardRecord]) -> str:
    parts = [
        tokenizer,
        *(digest for record in records for digest in (record.ids_sha256, record.table_sha256)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} is damaged: {reason}; delete {path.parent} and prepare the text again")
