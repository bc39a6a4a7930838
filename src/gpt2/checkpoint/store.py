"""Checkpoints that are whole or not there: temporary folder, hashes, sync, manifest last, rename.

    checkpoints/step-00001200/  NAME.safetensors ...  state.json  manifest.json

A flipped bit or a truncated file loads silently in safetensors, so every file is compared with the
sha256 of its manifest; the newest checkpoint that is whole wins, and each one skipped is named.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2.errors import CheckpointError, UserError
from gpt2.files import is_alive, require_free_space, sha256

VERSION = 1
_PREFIX = "step-"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # no folders: a manifest may come from a stranger


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been compared with their hashes."""

    path: Path
    step: int
    state: dict[str, Any]
    """Everything that is not a tensor."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved as `name`."""
        return load_file(self.path / f"{name}.safetensors")


def save_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint; it appears under its name only when complete.

    Args:
        root: the run's folder of checkpoints.
        step: optimizer steps done.
        tensors: file name (without ending) -> tensors.
        state: JSON values.

    Raises:
        UserError: the disk is full or not writable; checkpoints already there are as they were.
    """
    size = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    require_free_space(root, int(1.05 * size) + 1_000_000, f"checkpoint {step}")
    final = root / f"{_PREFIX}{step:08d}"
    if final.exists():
        if _problem(final) is None:
            return final
        shutil.rmtree(final)
    work = root / f".{final.name}.tmp-{os.getpid()}"
    try:
        work.mkdir(parents=True)
        for name, group in tensors.items():
            save_file(
                {key: value.detach().cpu().contiguous() for key, value in group.items()},
                work / f"{name}.safetensors",
            )
        (work / "state.json").write_text(json.dumps(state), encoding="utf-8")
        files = {file.name: {"sha256": sha256(file), "size": file.stat().st_size} for file in sorted(work.iterdir())}
        for file in work.iterdir():
            _sync(file)
        manifest = {"version": VERSION, "step": step, "files": files}
        (work / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _sync(work / "manifest.json")
        _sync(work)
        work.rename(final)
        _sync(root)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the checkpoint {final}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final


def newest_checkpoint(root: Path, before: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not.

    Args:
        root: the run's folder of checkpoints.
        before: only those of this step or earlier.
    """
    skipped = []
    for path in reversed(_steps(root)):
        if before is not None and _step(path) > before:
            continue
        problem = _problem(path)
        if problem is None:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            return Checkpoint(path, _step(path), state), skipped
        skipped.append(f"{path} is passed over: {problem}")
    return None, skipped


def whole_checkpoints(root: Path) -> list[int]:
    """Steps of the checkpoints that were written to their end; not compared with their hashes."""
    return [_step(path) for path in _steps(root) if (path / "manifest.json").is_file()]


def require_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """As `newest_checkpoint`; no checkpoint yet is fine, but none that is whole is not.

    Raises:
        CheckpointError: there are checkpoints and all are damaged.
    """
    checkpoint, skipped = newest_checkpoint(root)
    if checkpoint is None and skipped:
        raise CheckpointError("no checkpoint of the run is whole: " + "; ".join(skipped))
    return checkpoint, skipped


def prune_checkpoints(root: Path, keep: int = 2, *, also: Collection[int] = (), every: int | None = None) -> None:
    """Remove old checkpoints, and what dead processes left of interrupted saves.

    Args:
        root: the run's folder of checkpoints.
        keep: the newest so many stay;
        also: these steps too;
        every: and the first one in each stretch of so many steps.
    """
    steps = _steps(root)
    kept = {*steps[-keep:], *(path for path in steps if _step(path) in also)}
    if every is not None:
        first = {_step(path) // every: path for path in reversed(steps) if _step(path) >= every}
        kept.update(first.values())
    for path in steps:
        if path not in kept:
            _remove(path)
    for path in root.glob(f".{_PREFIX}*.tmp-*"):
        owner = path.name.rpartition("-")[2]
        if not owner.isdigit() or int(owner) == os.getpid() or not is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def discard_after(root: Path, step: int) -> None:
    """Remove the checkpoints of later steps: the run went back, and will come by those steps anew."""
    for path in _steps(root):
        if _step(path) > step:
            _remove(path)


def _remove(path: Path) -> None:
    (path / "manifest.json").unlink(missing_ok=True)  # first: a half-removed one must not look whole
    shutil.rmtree(path, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix(_PREFIX))


def _steps(root: Path) -> list[Path]:
    return sorted(path for path in root.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit())


def _problem(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted; None: it can."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if manifest["version"] != VERSION:
            return f"its format is version {manifest['version']}, this program reads {VERSION}"
        if path.name != f"{_PREFIX}{manifest['step']:08d}":
            return f"its manifest.json belongs to step {manifest['step']}"
        if "state.json" not in manifest["files"]:
            return "its manifest.json names no state.json"
        for name, expected in manifest["files"].items():
            file = path / name
            if not _FILE_NAME.fullmatch(name):
                return f"its manifest.json names {name!r}, which is no file of a checkpoint"
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["size"] or sha256(file) != expected["sha256"]:
                return f"{name} is damaged"
    except FileNotFoundError:
        return "it has no manifest.json"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest.json cannot be read ({error})"
    return None


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot sync a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if os.name != "nt":  # Windows refuses to sync what is open for reading
            raise
    finally:
        os.close(descriptor)
