"""What a checkpoint holds of a run, and how it comes back."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt2.checkpoint.run_folder import RunFolder
from gpt2.checkpoint.store import Checkpoint, discard_after, newest_checkpoint, open_checkpoint, require_checkpoint
from gpt2.errors import CheckpointError
from gpt2.manifest import changed
from gpt2.model.weight_files import WEIGHTS
from gpt2.training.averaging import WeightAverage
from gpt2.training.saving import Contents
from gpt2.training.trainer import Trainer


class RunState:
    """Weights, their average, optimizer, and where the run stands: taken to checkpoints and back.

    Args:
        folder: the run.
        trainer: whose state.
        average: of its weights.
        fingerprints: of what a resumed run must find unchanged, by name.
    """

    def __init__(
        self, folder: RunFolder, trainer: Trainer, average: WeightAverage, fingerprints: Mapping[str, str]
    ) -> None:
        self.folder, self.trainer, self.average, self.fingerprints = folder, trainer, average, dict(fingerprints)
        self.parallel, self.processes = trainer.parallel, trainer.parallel.processes

    def contents(self, **beside: Any) -> Contents:
        """Tensors by file, and JSON values: the trainer's, and those `beside`."""
        tensors = {
            "model": dict(self.parallel.parameters),
            "average": self.average.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
        }
        return tensors, {**self.trainer.state_dict(), "fingerprints": self.fingerprints, **beside}

    def restore(self, note: Callable[[str], None]) -> Checkpoint | None:
        """Go on from the newest good checkpoint, and name those that are passed over; None: there is none yet.

        Raises:
            CheckpointError: all are damaged, or the data or the tokenizer changed.
        """
        checkpoint, skipped = self._found(lambda: require_checkpoint(self.folder.checkpoints))
        for sentence in skipped:
            note(sentence)
        if checkpoint is None:
            note("no checkpoint yet: the run begins from the start")
            return None
        for what, now in self.fingerprints.items():
            then = checkpoint.state["fingerprints"][what]
            if now != then:
                raise CheckpointError(
                    f"the {what} changed since the run was saved: its fingerprint was {then[:16]}, "
                    f"now it is {now[:16]}; restore the old text, or start anew from its weights with "
                    f"--from {self.folder.path}"
                )
        self._load(checkpoint)
        validation = checkpoint.state["validation"]
        lost = validation["best_step"] is not None and self.processes.from_main("lost", self._lost_weights())
        if lost:
            note(f"{lost}: the best weights of the run are lost, those to come take their place")
            validation.update(best_loss=None, best_step=None)
        return checkpoint

    def go_back(self, before: int) -> Checkpoint | None:
        """To the newest good checkpoint of step `before` or earlier; later ones are removed. None: there is none."""
        checkpoint, _ = self._found(lambda: newest_checkpoint(self.folder.checkpoints, before))
        if checkpoint is not None:
            self._load(checkpoint)
            self.processes.exchange("loaded", None)
            if self.processes.is_main:
                discard_after(self.folder.checkpoints, checkpoint.step)
        return checkpoint

    def _lost_weights(self) -> str | None:
        """Why the model folder no longer has the best weights; None: it has."""
        if not (self.folder.path / WEIGHTS).is_file():
            return f"{self.folder.path / WEIGHTS} is gone"
        return changed(self.folder.path, WEIGHTS)

    def _load(self, checkpoint: Checkpoint) -> None:
        rows = self.parallel.rows
        self.parallel.load(checkpoint.tensors("model", rows))
        self.average.load_state_dict(checkpoint.tensors("average", rows))
        self.trainer.optimizer.load_state_dict(checkpoint.tensors("optimizer", rows))
        self.trainer.load_state_dict(checkpoint.state)

    def _found(self, look: Callable[[], tuple[Checkpoint | None, list[str]]]) -> tuple[Checkpoint | None, list[str]]:
        """What rank 0 finds; the others take the same."""
        checkpoint, skipped = look() if self.processes.is_main else (None, [])
        path = self.processes.from_main("checkpoint", checkpoint and str(checkpoint.path))
        return checkpoint or (open_checkpoint(Path(path)) if path else None), skipped
