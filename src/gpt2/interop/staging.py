"""New files appear in a folder only when all of them are written and checked; until then what is there stays."""

import contextlib
import filecmp
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt2.errors import UserError


@contextlib.contextmanager
def staged(out: Path, overwrite: bool) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A temporary folder beside `out` whose files move into `out` at the end, if nothing went wrong.

    Yields:
        the folder, and a function that refuses early, before the checks, what could not move at the end.

    Raises:
        UserError: `out` cannot be written, or holds other files of the same names and `overwrite` is off.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give --out a folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror or error}") from error

    def refuse_if_taken() -> None:
        if overwrite:
            return
        taken = [file for file in _files(work) if _differs(work / file, out / file)]
        if taken:
            raise UserError(
                f"{out} already holds {', '.join(map(str, taken))} with other content; "
                f"choose another --out, or --overwrite"
            )

    try:
        yield work, refuse_if_taken
        refuse_if_taken()
        for file in _files(work):
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            (work / file).replace(out / file)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _differs(new: Path, old: Path) -> bool:
    return old.exists() and not (old.is_file() and filecmp.cmp(new, old, shallow=False))
