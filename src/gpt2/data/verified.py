"""Files whose hash this machine has already compared: they are not read again until they change."""

import contextlib
import json
import platform
import time
from pathlib import Path

from gpt2.data.cache import SETTLED_NS, cache_folder, key_of
from gpt2.errors import UserError
from gpt2.files import write_json


class Verified:
    """Remembers files by size, time and inode, for this machine and one folder of them.

    A bit that turns over on the disk changes none of the three: `gpt2 data check FOLDER` reads everything anew.

    Args:
        folder: of the files.
        cache: where the memory is kept; see `cache_folder`.
    """

    def __init__(self, folder: Path, cache: str | Path | None = None) -> None:
        key = key_of(platform.node(), str(folder.resolve()))
        self._path = cache_folder(cache) / "verified" / f"{key}.json"
        self._known: dict[str, list[object]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError):
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = stored if isinstance(stored, dict) else {}

    def knows(self, path: Path, digest: str) -> bool:
        """Whether the file had this hash, and has not changed since."""
        return self._known.get(path.name) == self._state(path, digest)

    def add(self, path: Path, digest: str) -> None:
        """The file has just been found to have this hash."""
        if time.time_ns() - path.stat().st_mtime_ns > SETTLED_NS:
            self._known[path.name] = self._state(path, digest)
            self._changed = True

    def keep(self) -> None:
        """Store the memory; a cache that cannot be written only costs another look next time."""
        if self._changed:
            with contextlib.suppress(UserError):
                write_json(self._path, self._known)

    def _state(self, path: Path, digest: str) -> list[object]:
        status = path.stat()
        return [status.st_size, status.st_mtime_ns, status.st_ino, digest]
