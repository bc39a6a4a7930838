"""One trainer per run folder."""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from gpt2.errors import UserError
from gpt2.files import try_lock


class RunLock:
    """Held while a run is trained; the system drops it when the process dies, however suddenly.

    The file also says who holds it. A file without a holder is what a dead process left: it is taken over, and said.

    Args:
        path: the lock file; removed at the end.
        say: takes a sentence.

    Raises:
        UserError: another process trains here; on entering.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "RunLock":
        while self._file is None:
            self._file = self._open()
        self._file.seek(0)
        left = self._file.read()
        if left:
            self.say(f"{self.path.name}: taken over from {_holder(left)}, which has ended without a word")
        self._file.seek(0)
        self._file.truncate()
        about = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._file.write(json.dumps(about).encode())
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            if os.name == "nt":  # Windows cannot remove an open file
                self._file.close()
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _open(self) -> IO[bytes] | None:
        """The locked file; None: its last holder has just removed it, try again."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        except OSError as error:
            raise UserError(f"cannot write to {self.path.parent}: {error.strerror or error}") from error
        if not try_lock(file.fileno()):
            file.seek(0)
            holder = _holder(file.read())
            file.close()
            raise UserError(
                f"another training works in {self.path.parent.parent}: {holder}; wait for it, stop it, "
                f"or choose another --out"
            )
        try:
            if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                return file
        except OSError:
            pass
        file.close()
        return None


def _holder(content: bytes) -> str:
    try:
        about = json.loads(content)
        return f"process {about['pid']} on {about['host']}, since {about['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process of unknown number"
