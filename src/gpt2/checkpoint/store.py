"""Checkpoints that are whole or not there: temporary folder, hashes, sync, manifest last, rename.

    checkpoints/step-00001200/  NAME.safetensors ...  state.json  manifest.json

A flipped bit or a truncated file loads silently in safetensors, so every file is compared with the
sha256 of its manifest; the newest checkpoint that is whole wins, and each one skipped is named.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gpt2.checkpoint.sharded import FILE_NAME, Rows, Share, read_tensors, write_index, write_share
from gpt2.errors import CheckpointError, UserError
from gpt2.files import is_alive, require_free_space, sha256, sync

VERSION = 1
_PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been compared with their hashes."""

    path: Path
    step: int
    state: dict[str, Any]
    """Everything that is not a tensor."""

    def tensors(self, name: str, rows: Rows = lambda entry: None) -> dict[str, Tensor]:
        """The tensors saved as `name`, by however many processes; `rows` says which rows of each are wanted."""
        return read_tensors(self.path, name, rows)


def save_checkpoint(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    share: Share | None = None,
) -> Path:
    """Write a checkpoint; it appears under its name only when complete.

    Args:
        root: the run's folder of checkpoints.
        step: optimizer steps done.
        tensors: file name (without ending) -> tensors, or this process's rows of them.
        state: JSON values.
        share: what this process does of it, when each of several calls this; None: all.

    Raises:
        UserError: the disk is full or not writable; checkpoints already there are as they were.
    """
    if share is not None:
        return _save_together(root, step, tensors, state, share)
    final = root / f"{_PREFIX}{step:08d}"
    work = _begin(final, step, _size(tensors))
    if work is None:
        return final
    with _cleared(work, final):
        for name, group in tensors.items():
            save_file(
                {key: value.detach().cpu().contiguous() for key, value in group.items()}, work / f"{name}.safetensors"
            )
        _commit(work, final, step, state)
    return final


def _save_together(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], share: Share
) -> Path:
    """Rank 0 makes the folder, all write into it, rank 0 completes it; what fails anywhere fails everywhere."""
    final, work, told = root / f"{_PREFIX}{step:08d}", None, {}
    if share.place == 0:
        try:
            work = _begin(final, step, share.places * _size(tensors))
            told = {"work": work and work.name}
        except UserError as error:
            told = {"error": str(error)}
    told = share.exchange("checkpoint-begun", told)[0]
    if told.get("work") is not None:
        try:
            mine = write_share(root / told["work"], tensors, share)
        except (OSError, SafetensorError) as error:
            mine = {"error": f"cannot write the checkpoint {final}: {error}"}
        shares = share.exchange("checkpoint-written", mine)
        told = next((item for item in shares if "error" in item), {})
        if work is not None:
            try:
                with _cleared(work, final):
                    if not told:
                        write_index(work, shares)
                        _commit(work, final, step, state, {k: v for item in shares for k, v in item["files"].items()})
            except UserError as error:
                told = {"error": str(error)}
        told = share.exchange("checkpoint-done", told)[0]
    if "error" in told:
        raise UserError(told["error"])
    return final


def _begin(final: Path, step: int, size: int) -> Path | None:
    """A folder to fill with `size` bytes; None: this checkpoint is there already."""
    require_free_space(final.parent, int(1.05 * size) + 1_000_000, f"checkpoint {step}")
    if final.exists() and _problem(final) is None:
        return None
    work = final.parent / f".{final.name}.tmp-{os.getpid()}"
    try:
        if final.exists():
            shutil.rmtree(final)
        work.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write the checkpoint {final}: {error}") from error
    return work


@contextlib.contextmanager
def _cleared(work: Path, final: Path) -> Iterator[None]:
    """Whatever happens in the block, nothing stays under the temporary name."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the checkpoint {final}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _commit(
    work: Path, final: Path, step: int, state: Mapping[str, Any], known: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Sync and hash what is not `known` to be on the disk, then manifest, then name."""
    files = dict(known or {})
    (work / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for file in work.iterdir():
        if file.name not in files:
            sync(file)
            files[file.name] = {"sha256": sha256(file), "size": file.stat().st_size}
    manifest = {"version": VERSION, "step": step, "files": dict(sorted(files.items()))}
    (work / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    sync(work / "manifest.json")
    sync(work)
    work.rename(final)
    sync(final.parent)


def _size(tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
    return sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, which is taken to be whole."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(path, _step(path), state)


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
            return open_checkpoint(path), skipped
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


def prune_checkpoints(root: Path, keep: int = 2, *, also: Collection[int] = (), every: int | None = None) -> list[str]:
    """Remove old checkpoints, and what dead processes left of interrupted saves; tells what cannot be removed.

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
    for path in root.glob(f".{_PREFIX}*.tmp-*"):
        owner = path.name.rpartition("-")[2]
        if not owner.isdigit() or int(owner) == os.getpid() or not is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)
    return _remove(path for path in steps if path not in kept)


def discard_after(root: Path, step: int) -> None:
    """Remove the checkpoints of later steps: the run went back, and will come by those steps anew.

    Raises:
        UserError: one cannot be removed, and would be taken for what the run is about to save.
    """
    if stay := _remove(path for path in _steps(root) if _step(path) > step):
        raise UserError("; ".join(stay))


def _remove(paths: Iterable[Path]) -> list[str]:
    """A sentence for each that stays."""
    stay = []
    for path in paths:
        try:
            (path / "manifest.json").unlink(missing_ok=True)  # first: a half-removed one must not look whole
            shutil.rmtree(path)
        except OSError as error:
            stay.append(f"cannot remove the checkpoint {path}: {error.strerror or error}")
    return stay


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
            if not FILE_NAME.fullmatch(name):
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
