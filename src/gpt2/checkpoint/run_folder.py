"""Where everything of a run lies. One run is one Hugging Face GPT-2 folder with a `training/` inside."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2.checkpoint.lock import RunLock
from gpt2.errors import CheckpointError, UserError, nearest


class RunFolder:
    """The paths of a run.

    Args:
        path: the model folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.training = self.path / "training"
        self.checkpoints = self.training / "checkpoints"
        self.snapshots = self.training / "snapshots"
        self.config = self.training / "config.toml"
        self.metrics = self.training / "metrics.jsonl"
        self.samples = self.training / "samples.md"
        self.curve = self.training / "loss.svg"
        self.lock = self.training / "lock"
        self.launch = self.training / "launch"
        self.stopped = self.training / "stopped.json"
        self.environment = self.training / "environment.json"
        self.evaluation = self.training / "evaluation.json"
        self.report = self.training / "report.html"
        self.card = self.path / "README.md"

    @property
    def holds_a_run(self) -> bool:
        """Whether a model or a run is there already."""
        return any(self.path.glob("*.safetensors")) or self.config.exists() or self.checkpoints.exists()

    def refuse_if_taken(self, overwrite: bool) -> None:
        """Check, before any work, that a new run may go here.

        Raises:
            UserError: another run is there and `overwrite` is off.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; give --out a folder")
        if self.holds_a_run and not overwrite:
            raise UserError(
                f"{self.path} already holds a run; continue it with --resume {self.path}, "
                f"replace it with --overwrite, or choose another --out"
            )

    def claim(self, overwrite: bool) -> None:
        """Make the folder ready for a new run; what an overwritten one left is removed.

        Raises:
            UserError: another run is there and `overwrite` is off, or the folder cannot be written.
        """
        self.refuse_if_taken(overwrite)
        try:
            self.training.mkdir(parents=True, exist_ok=True)
            for path in self.training.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                elif path != self.lock:
                    path.unlink()
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror or error}") from error

    @contextmanager
    def held(self, note: Callable[[str], None]) -> Iterator[None]:
        """Lock the folder for one trainer, and remove the files that a killed one left half written.

        Raises:
            UserError: another trainer is at work here, or one of the folders takes no files: better now than at the
                first save.
        """
        with RunLock(self.lock, note):
            for folder in (self.path, self.training, self.snapshots, self.checkpoints):
                if folder.is_dir():
                    _clear(folder)
            yield

    def require(self) -> None:
        """Check that there is a run to continue.

        Raises:
            CheckpointError: there is none; the message names what is near.
        """
        if not self.config.is_file():
            parent = self.path.parent
            near = nearest(self.path.name, [p.name for p in parent.iterdir()]) if parent.is_dir() else ""
            raise CheckpointError(f"no run to resume at {self.path}: it has no training/config.toml.{near}")


def _clear(folder: Path) -> None:
    try:
        for path in folder.glob(".*.tmp-*"):
            if path.is_file():
                path.unlink()
        with tempfile.TemporaryFile(dir=folder):  # can be written
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
