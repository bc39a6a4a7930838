"""What is asked of a running training from outside: by signals, and by files in its folder."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from gpt2.training.distributed import Processes
from gpt2.training.trainer import StepResult, Trainer

STOP, SAVE = "STOP", "SAVE"
_SECONDS_BETWEEN_LOOKS = 0.5


class Requests:
    """Stop or save after the current step.

    Ctrl-C, SIGTERM and a file `STOP` in the run folder end the run; SIGUSR1 and a file `SAVE` ask for a checkpoint.
    The files serve where no signal reaches, such as another node; they are removed when they are obeyed. A second
    Ctrl-C or SIGTERM ends the run at once, with nothing more saved.

    Of several processes each obeys what any of them was asked, after the same step. They let later signals pass, for
    torchrun and Slurm may both hand on the same one; to end at once, torchrun has its own way.

    Args:
        folder: the run's folder.
        processes: those who train; rank 0 looks for the files.
    """

    def __init__(self, folder: Path, processes: Processes | None = None) -> None:
        self.folder, self.processes = folder, processes or Processes()
        self.received: int | None = None
        """The signal that ends the run; a file counts as SIGTERM."""
        self.save = False
        """Whether a checkpoint is asked for; whoever makes it sets this back."""
        self._previous: dict[int, Any] = {}
        self._looked = 0.0

    def __enter__(self) -> "Requests":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            handlers: dict[int, Any] = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop}
            if hasattr(signal, "SIGUSR1"):
                handlers[signal.SIGUSR1] = self._save
            self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __call__(self, trainer: Trainer, result: StepResult) -> None:
        """Look for files; stop the trainer if that was asked for."""
        if self.processes.is_main:
            self.look()
        rows = self.processes.gather(self.received or 0, self.save)
        self.received, self.save = int(max(row[0] for row in rows)) or None, any(row[1] for row in rows)
        if self.received is not None:
            trainer.stop_reason = f"{signal.Signals(self.received).name} received"

    def look(self) -> None:
        """Obey the files, at most twice a second: a look may be slow on a network's file system."""
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        if self._take(self.folder / STOP):
            self.received = signal.SIGTERM
        self.save |= self._take(self.folder / SAVE)

    def _take(self, path: Path) -> bool:
        try:
            path.unlink()
        except OSError:
            return False
        return True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            return
        if self.processes.size > 1:
            return
        if number == signal.SIGTERM:
            os._exit(128 + number)  # at once: not even the interpreter's own clearing up
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
        raise KeyboardInterrupt

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save = True
