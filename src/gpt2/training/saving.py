"""Checkpoints while training: when one is due, its contents are copied, and a thread writes them."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt2.checkpoint.background import Background, copied
from gpt2.checkpoint.store import prune_checkpoints, save_checkpoint
from gpt2.errors import UserError
from gpt2.training.distributed import Processes
from gpt2.training.guard import Guard
from gpt2.training.parallel import Alone
from gpt2.training.requests import Requests
from gpt2.training.trainer import StepResult, Trainer

Contents = tuple[Mapping[str, Mapping[str, Tensor]], Mapping[str, Any]]
"""Tensors by file and name, and JSON values."""

_SLOW_SECONDS = 60.0


class Saving:
    """A hook that saves at the end of a step; training goes on while a thread writes.

    Nothing is saved while the loss is in trouble, and none while the save before is still being written: it is then
    made as soon as that is over.

    Args:
        root: the run's folder of checkpoints.
        contents: gives what a checkpoint holds, as it is now.
        guard: knows whether the run is sound.
        requests: may ask for a checkpoint.
        say: prints a line.
        save_every: steps between checkpoints; None: only when `due` is set, as each validation does.
        keep_every: see `prune_checkpoints`.
        best_step: gives the step of the best validation, whose checkpoint is kept.
        parallel: of several processes rank 0 saves, or where each has rows of its own, all at the same step.
    """

    def __init__(
        self,
        root: Path,
        contents: Callable[[], Contents],
        guard: Guard,
        requests: Requests,
        say: Callable[[str], None],
        *,
        save_every: int | None = None,
        keep_every: int | None = None,
        best_step: Callable[[], int | None] = lambda: None,
        parallel: Alone | None = None,
    ) -> None:
        processes, self.share = (parallel.processes, parallel.share) if parallel else (Processes(), None)
        self.processes, self.takes_part = processes, processes.is_main or self.share is not None
        self.root, self.contents, self.guard, self.requests, self.say = root, contents, guard, requests, say
        self.save_every, self.keep_every, self.best_step = save_every, keep_every, best_step
        self.due = False
        """Whether a checkpoint is to be made at the next chance."""
        self.stalled = 0.0
        """Seconds that training waited for the saves of this session."""
        self.background = Background()
        self._warned = False

    def __call__(self, trainer: Trainer, result: StepResult) -> None:
        """Save if that is due and may be done now."""
        self._try(self.background.poll)
        if self.requests.save or (self.save_every is not None and trainer.state.step % self.save_every == 0):
            self.due, self.requests.save = True, False
        if self.due and self.takes_part and not self.guard.in_trouble and not self._writing():
            self._try(lambda: self._start(trainer))

    def ask(self) -> None:
        """Make a checkpoint at the next chance."""
        self.due = True

    def finish(self, trainer: Trainer) -> None:
        """Save what is there, and wait until it is on the disk.

        Raises:
            UserError: it cannot be written.
        """
        self._try(self.background.wait)  # an earlier step; what counts now is the last
        if self.takes_part:
            self._start(trainer)
            self.background.wait()

    def _try(self, job: Callable[[], None]) -> None:
        """A full disk must not end hours of training: room may be made before the next save."""
        try:
            job()
        except UserError as error:
            self.say(f"NOT SAVED, training goes on: {error}")

    def _start(self, trainer: Trainer) -> None:
        began = time.perf_counter()
        tensors, state = self.contents()
        held, step, best = copied(tensors), trainer.state.step, self.best_step()
        self.background.submit(lambda: self._write(step, held, state, best))
        self.due, self._warned = False, False
        self.stalled += time.perf_counter() - began

    def _write(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], best: int | None
    ) -> None:
        save_checkpoint(self.root, step, tensors, state, self.share)
        if self.processes.is_main:
            for sentence in prune_checkpoints(self.root, also=() if best is None else (best,), every=self.keep_every):
                self.say(f"{sentence}; it takes room, training goes on")

    def _writing(self) -> bool:
        if self.background.seconds > _SLOW_SECONDS and not self._warned:
            self._warned = True
            self.say(f"the disk is slow: the last checkpoint has been written for {self.background.seconds:.0f} s")
        busy = self.background.busy
        return busy if self.share is None else any(row[0] for row in self.processes.gather(busy))
