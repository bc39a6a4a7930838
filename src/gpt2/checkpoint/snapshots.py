"""Snapshots: the weights alone, in half precision, at some moments of a run, to watch it learn afterwards.

    training/snapshots/step-00001200.safetensors

They are no checkpoints: nothing can be resumed from them, and a lost one is no harm.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from gpt2.errors import CheckpointError
from gpt2.files import atomic_write
from gpt2.model import GPT2

_PREFIX = "step-"


@dataclass(frozen=True)
class Snapshot:
    """Weights at one moment of a run."""

    path: Path
    """A safetensors file."""
    step: int
    tokens: int | None
    """Seen until then; None: not recorded."""

    def load_into(self, model: GPT2) -> None:
        """Put the weights into a model of the run's shape, in the model's own type.

        Raises:
            CheckpointError: the file is damaged or does not fit the model.
        """
        try:
            state = safetensors.torch.load_file(self.path)
            model.load_state_dict(state)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"the snapshot {self.path} cannot be used: {error}") from error


def save_snapshot(folder: Path, model: GPT2, step: int, tokens: int) -> Path:
    """Write the model's weights in fp16, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in model.state_dict().items()}
    path = folder / f"{_PREFIX}{step:08d}.safetensors"
    with atomic_write(path, "wb") as file:
        # One key alone: safetensors writes several in an order that changes from run to run.
        file.write(safetensors.torch.save(state, {"tokens": str(tokens)}))
    return path


def list_snapshots(folder: Path, checkpoints: Path | None = None) -> list[Snapshot]:
    """The snapshots of a run, oldest first; if it kept none, the weights of its checkpoints."""
    found = [Snapshot(path, step, _tokens(path)) for path, step in _numbered(folder, ".safetensors")]
    if not found and checkpoints is not None:
        found = [Snapshot(path / "model.safetensors", step, None) for path, step in _numbered(checkpoints, "")]
    return found


def discard_after(folder: Path, step: int) -> None:
    """Remove the snapshots of later steps: the run goes another way from here."""
    for snapshot in list_snapshots(folder):
        if snapshot.step > step:
            snapshot.path.unlink(missing_ok=True)


def _numbered(folder: Path, ending: str) -> list[tuple[Path, int]]:
    names = (
        (path, path.name.removesuffix(ending).removeprefix(_PREFIX)) for path in folder.glob(f"{_PREFIX}*{ending}")
    )
    return sorted(((path, int(number)) for path, number in names if number.isdigit()), key=lambda pair: pair[1])


def _tokens(path: Path) -> int | None:
    """Out of the file's header alone."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            stored = json.loads(file.read(min(size, 10_000_000)))["__metadata__"]["tokens"]
            return int(stored)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
