"""The tensors of a model folder: safetensors or PyTorch's .bin, in one file or in shards.

The files come from strangers: nothing in them is run, and a shard is a name in the folder, never a path.
"""

import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt2.errors import CheckpointError

WEIGHTS = "model.safetensors"
TORCH_WEIGHTS = "pytorch_model.bin"

_SHARD = re.compile(r"[A-Za-z0-9._-]+\.(safetensors|bin)")
_MAX_JSON_BYTES = 32 << 20


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a folder under the names they have there; safetensors come first, if there are both.

    Raises:
        CheckpointError: there are none, or a file is missing, damaged, or holds more than tensors.
    """
    folder = Path(folder)
    for name in (WEIGHTS, TORCH_WEIGHTS):
        if (folder / name).is_file():
            return read_tensors(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder / f"{name}.index.json")
    raise CheckpointError(
        f"{folder} has no {WEIGHTS}, no {TORCH_WEIGHTS} and no index of shards; is the model complete?"
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by its ending.

    Raises:
        CheckpointError: as `read_weights`.
    """
    if path.suffix != ".safetensors":
        return require_tensors(read_torch_file(path), path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); copy it again, or take an earlier checkpoint of the run"
        ) from error


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numbers, strings and containers of them; anything else is refused.

    Raises:
        CheckpointError: damaged, or it holds objects that would run code.
    """
    _refuse_compressed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, OSError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} is damaged, or holds more than tensors ({reason})") from error


def _refuse_compressed(path: Path) -> None:
    """`torch.save` stores bytes as they are; a compressed part may be a thousand times its size in memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # an old file without a zip, or a damaged one: the loader says so
    if (
        any(p.compress_type != zipfile.ZIP_STORED for p in parts)
        or sum(p.file_size for p in parts) > path.stat().st_size
    ):
        raise CheckpointError(
            f"{path} has compressed parts, which torch.save never writes; it is not what it claims to be"
        )


def require_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """`content` if it is a state dict.

    Raises:
        CheckpointError: it is not.
    """
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(f"{path} does not hold a state dict of tensors")
    strange = next((n for n, t in content.items() if t.layout != torch.strided or t.device.type != "cpu"), None)
    if strange is not None:
        raise CheckpointError(f"{strange} in {path} is a sparse or empty tensor, which no GPT-2 has")
    # Views may repeat their memory: the tied head doubles the embedding's, and nothing more is honest.
    claimed, stored = sum(tensor.nbytes for tensor in content.values()), path.stat().st_size
    if claimed > 2 * stored:
        raise CheckpointError(f"{path} has {stored:,} bytes, but its tensors claim {claimed:,}; it is not whole")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object.

    Raises:
        CheckpointError: it is unreadable, too large, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is over {_MAX_JSON_BYTES >> 20} MiB; no configuration is that large")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def _read_shards(index: Path) -> dict[str, Tensor]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map, which says in which file each tensor is")
    tensors: dict[str, Tensor] = {}
    for name in sorted({str(value) for value in table.values()}):
        if not _SHARD.fullmatch(name):
            raise CheckpointError(f"{index} names the file {name!r}; a shard is a .safetensors or .bin file beside it")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent} lacks {name}, which {index.name} lists; is the model complete?")
        shard = read_tensors(index.parent / name)
        twice = sorted(tensors.keys() & shard.keys())
        if twice:
            raise CheckpointError(f"{twice[0]} stands in two shards of {index.parent}")
        tensors |= shard
    return tensors
