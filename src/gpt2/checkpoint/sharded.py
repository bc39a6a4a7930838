"""Checkpoints that many processes write together, each its own rows of the tensors; and reading any rows back.

    step-00001200/  NAME-00001-of-00004.safetensors ...  NAME.index.json  state.json  manifest.json

The folder, the manifest and the way it appears, whole or not at all, are those of `store`. The index says, for each
tensor, which rows of it stand in which file, so that any number of processes can read the rows it needs, and
one process the whole. It is JSON: PyTorch's own distributed format keeps its index in a pickle.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt2.errors import CheckpointError
from gpt2.files import sha256, sync

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""What a file of a checkpoint may be called: no folders, for a manifest or an index may come from a stranger."""

Rows = Callable[[str], tuple[int, int, int] | None]
"""Tensor name -> the rows that are here, (first, end, of how many); None: the whole tensor."""


@dataclass(frozen=True)
class Share:
    """What one process has to do with a checkpoint of several.

    Args:
        place: rank of this process; 0 makes the folder and the manifest, and writes what all have alike.
        places: how many write, the first ones; the others hold the same as they.
        rows: of each tensor.
        exchange: (topic, JSON value) -> the values of all processes by rank, waiting for them however long it takes.
    """

    place: int
    places: int
    rows: Rows
    exchange: Callable[[str, Any], list[Any]]


def write_share(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], share: Share) -> dict[str, Any]:
    """Write this process's files; gives what the index and the manifest need to know of them, as JSON values."""
    files, index = {}, {}
    if share.place < share.places:
        for name, group in tensors.items():
            ranges = {key: share.rows(key) for key in group}
            mine = {key: value for key, value in group.items() if ranges[key] or share.place == 0}
            path = folder / f"{name}-{share.place + 1:05d}-of-{share.places:05d}.safetensors"
            save_file({key: value.detach().cpu().contiguous() for key, value in mine.items()}, path)
            sync(path)
            files[path.name] = {"sha256": sha256(path), "size": path.stat().st_size}
            index[name] = {key: [path.name, *(ranges[key] or (0, None, None))] for key in mine}
    return {"files": files, "index": index}


def write_index(folder: Path, shares: list[dict[str, Any]]) -> None:
    """Write `NAME.index.json` for each group, from what every `write_share` gave."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for share in shares:
        for name, entries in share["index"].items():
            for key, (file, first, end, total) in entries.items():
                entry = groups.setdefault(name, {}).setdefault(key, {"rows": total, "files": []})
                entry["files"].append([file, first, end])
    for name, tensors in groups.items():
        text = json.dumps({"version": 1, "tensors": tensors}, indent=1)
        (folder / f"{name}.index.json").write_text(text, encoding="utf-8")


def read_tensors(folder: Path, name: str, rows: Rows = lambda key: None) -> dict[str, Tensor]:
    """The tensors saved as `name`, by one process or several, or only some rows of them.

    Args:
        folder: a checkpoint whose files have been compared with its manifest.
        name: of the group.
        rows: which rows of each tensor are wanted.

    Raises:
        CheckpointError: rows are missing, or a file cannot be read.
    """
    try:
        with _Files(folder) as files:
            if not (folder / f"{name}.index.json").exists():
                whole = f"{name}.safetensors"
                return {key: files.read(whole, key, rows(key)) for key in files.keys_of(whole)}
            index = json.loads((folder / f"{name}.index.json").read_text(encoding="utf-8"))
            return {key: _assemble(files, key, entry, rows(key)) for key, entry in index["tensors"].items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name} of {folder} cannot be read: {error}") from error


def _assemble(files: "_Files", key: str, entry: Mapping[str, Any], wanted: tuple[int, int, int] | None) -> Tensor:
    if entry["rows"] is None:
        return files.read(entry["files"][0][0], key, None)
    first, end, _ = wanted or (0, entry["rows"], None)
    pieces, reached = [], first
    for file, begin, stop in sorted(entry["files"], key=lambda item: item[1:]):
        if begin <= reached < stop and reached < end:
            pieces.append(files.read(file, key, (reached - begin, min(stop, end) - begin, stop - begin)))
            reached = min(stop, end)
    if reached < end:
        raise ValueError(f"rows {reached} to {end} of {key} are in no file")
    if not pieces:  # a process that has none of so few rows
        return files.read(entry["files"][0][0], key, (0, 0, 0))
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


class _Files:
    """Safetensors files of a folder, opened when needed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._open, self._stack = folder, {}, contextlib.ExitStack()

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def keys_of(self, file: str) -> Iterator[str]:
        return iter(self._get(file).keys())

    def read(self, file: str, key: str, rows: tuple[int, int, int] | None) -> Tensor:
        if rows is None:
            return self._get(file).get_tensor(key)
        return self._get(file).get_slice(key)[rows[0] : rows[1]]

    def _get(self, file: str) -> Any:
        if file not in self._open:
            if not FILE_NAME.fullmatch(file):
                raise ValueError(f"{file!r} is no file of this folder")
            self._open[file] = self._stack.enter_context(safe_open(self._folder / file, framework="pt"))
        return self._open[file]
