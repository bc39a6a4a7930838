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
        """The signal that ends the run, on which all processes agree; a file counts as SIGTERM."""
        self.save = False
        """Whether all processes are to make a checkpoint; whoever makes it sets this back."""
        # What this process alone was asked, at any moment. Agreeing only reads the first, or a signal could be lost.
        self._stop_asked, self._save_asked = 0, False
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
        if self.processes.size == 1:
            self.received = self._stop_asked or None  # after the last step, too

    def __call__(self, trainer: Trainer, result: StepResult) -> None:
        """Look for files; stop the trainer if that was asked for."""
        if self.processes.is_main:
            self.look()
        if save := self._save_asked:
            self._save_asked = False
        rows = self.processes.gather(self._stop_asked, save)
        self.save |= any(row[1] for row in rows)
        if number := int(max(row[0] for row in rows)):
            self.received = number
            trainer.stop_reason = f"{signal.Signals(number).name} received"

    def look(self) -> None:
        """Obey the files, at most twice a second: a look may be slow on a network's file system."""
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        if self._take(self.folder / STOP):
            self._stop_asked = signal.SIGTERM
        if self._take(self.folder / SAVE):
            self._save_asked = True

    def _take(self, path: Path) -> bool:
        try:
            path.unlink()
        except OSError:
            return False
        return True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self._stop_asked:
            self._stop_asked = number
            return
        if self.processes.size > 1:
            return
        if number == signal.SIGTERM:
            os._exit(128 + number)  # at once: not even the interpreter's own clearing up
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
        raise KeyboardInterrupt

    def _save(self, number: int, frame: FrameType | None) -> None:
        self._save_asked = True
