"""Where derived data lives, and the fingerprints that decide whether it still holds."""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2.errors import DataError
from gpt2.files import cache_folder as cache_folder
from gpt2.files import sha256, try_lock, write_json

SETTLED_NS = 2_000_000_000  # a file changed twice within a clock tick keeps its time: trust none that young


def key_of(*parts: Any) -> str:
    """A short name for derived data, from everything (JSON values) that it depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def file_fingerprint(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes; remembered by path, size and time, so that asking again is free.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        status = path.stat()
        state = [str(path.resolve()), status.st_size, status.st_mtime_ns]
        memory = cache / "fingerprints" / f"{key_of(state[0])}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(memory.read_text(encoding="utf-8"))
            if known["state"] == state:
                return str(known["sha256"])
        fingerprint = sha256(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if time.time_ns() - status.st_mtime_ns > SETTLED_NS:
        write_json(memory, {"state": state, "sha256": fingerprint})
    return fingerprint


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock that the system drops when the process dies. Yields False if another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        yield try_lock(file.fileno())
