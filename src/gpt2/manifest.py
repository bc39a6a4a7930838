"""`training/manifest.json`: the hashes of a finished run's files, so that damage does not load in silence.

A flipped bit in a file of weights leaves a valid file of other weights. Who reads one of these files compares it
first. Who writes one removes the manifest before: while there is none, as in folders from elsewhere, nothing is
compared.
"""

import contextlib
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2.errors import CheckpointError
from gpt2.files import sha256, write_json

VERSION = 1
_WEIGHTS = "model.safetensors"
_OF_THE_MODEL = ("config.json", "generation_config.json", _WEIGHTS, "tokenizer.json", "tokenizer_config.json")
_OF_THE_RUN = ("config.toml", "metrics.jsonl", "samples.md", "loss.svg", "environment.json", "evaluation.json",
               "report.html")  # fmt: skip
FILES = (*_OF_THE_MODEL, "README.md", *(f"training/{name}" for name in _OF_THE_RUN))
"""What a manifest lists, where it is there."""
# People edit these, and the worst that a damaged one does is to be read as it stands.
_MAY_CHANGE = ("generation_config.json", "tokenizer_config.json")


def write_manifest(folder: str | Path) -> None:
    """Write down what the files of a finished or stopped run hold."""
    _write(Path(folder), {}, FILES)


def renew_manifest(folder: str | Path, *names: str) -> None:
    """The same for files that were written anew; the others stay as they were known. Without a manifest, nothing."""
    if _path(Path(folder)).is_file():
        _write(Path(folder), _read(Path(folder)), names)


def changed(folder: str | Path, name: str) -> str | None:
    """What is wrong with a file of which the folder's manifest has the sum; None: nothing, or nobody knows.

    Raises:
        CheckpointError: there is a manifest, but it cannot be read.
    """
    folder = Path(folder)
    files = _read(folder) if _path(folder).is_file() else {}
    if name not in files or not (folder / name).is_file():  # what is missing is the reader's to tell
        return None
    found, expected = sha256(folder / name), files[name].get("sha256")
    if found == expected:
        return None
    return f"{folder / name} is not what the run wrote: its sha256 is {found}, {_path(folder)} says {expected}"


def require_unchanged(folder: str | Path, *names: str) -> None:
    """Compare files with the folder's manifest, if it has one; reads each file once.

    A changed generation_config.json or tokenizer_config.json is only warned of.

    Raises:
        CheckpointError: a file differs, and the message has both sums and the way out; or the manifest is damaged.
    """
    for name in names:
        difference = changed(folder, name)
        if difference is None:
            continue
        if name in _MAY_CHANGE:
            warnings.warn(f"{difference}. If you edited it, delete the manifest to silence this", stacklevel=3)
            continue
        anew = (
            f", or let gpt2 train --resume {folder} write it anew from its last checkpoint" if name == _WEIGHTS else ""
        )
        raise CheckpointError(
            f"{difference}. If nobody meant to change it, it is damaged: copy it again{anew}. "
            f"If the change was meant, delete the manifest"
        )


def forget_manifest(folder: str | Path) -> None:
    """Remove the manifest, before one of its files is written."""
    with contextlib.suppress(OSError):  # none there; or a folder that cannot be written, which the writer says better
        _path(Path(folder)).unlink()


def _write(folder: Path, known: dict[str, dict[str, Any]], names: Iterable[str]) -> None:
    for name in names:
        if (folder / name).is_file():
            known[name] = {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size}
    write_json(_path(folder), {"version": VERSION, "files": dict(sorted(known.items()))})


def _path(folder: Path) -> Path:
    return folder / "training" / "manifest.json"


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    path = _path(folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"its format is version {content['version']}, this program reads {VERSION}")
        files = content["files"]
        if not all(isinstance(entry, dict) for entry in files.values()):
            raise ValueError("its entries are no objects")
        return files
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): it is damaged, and so may be what it lists; copy the folder again, "
            f"or delete this file to load the model unchecked"
        ) from error
