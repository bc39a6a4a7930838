"""A hook that keeps small copies of the weights over the run, close together at its beginning."""

from collections.abc import Callable

from gpt2.checkpoint.run_folder import RunFolder
from gpt2.checkpoint.snapshots import discard_after, save_snapshot
from gpt2.config import GPT2Config
from gpt2.errors import UserError
from gpt2.model import GPT2
from gpt2.model.flops import count_parameters
from gpt2.training.averaging import WeightAverage
from gpt2.training.trainer import StepResult, Trainer

_USUAL = 12
_LARGEST = 100e6  # bytes of all together, for the usual number to be kept unasked
_CLOSER = 0.6  # each share of the run is this much of the next one: most happens early


def snapshot_count(wanted: int | None, config: GPT2Config) -> int:
    """How many snapshots a run keeps: what is wanted, else 12 if they take up to 100 MB together."""
    if wanted is not None:
        return wanted
    return _USUAL if 2 * _USUAL * count_parameters(config) <= _LARGEST else 0


def snapshot_shares(count: int) -> list[float]:
    """Shares of the run at which snapshots are made: 0, then ever further apart, up to 1."""
    return [0.0, *(_CLOSER**power for power in range(count - 2, -1, -1))][:count] if count else []


class Snapshots:
    """Saves the weights (their average, once there is one) whenever the next share of the run is reached.

    Args:
        folder: the run.
        model: whose weights.
        average: of its weights.
        count: how many over the run; None: see `snapshot_count`.
        say: prints a line.
    """

    def __init__(
        self, folder: RunFolder, model: GPT2, average: WeightAverage, count: int | None, say: Callable[[str], None]
    ) -> None:
        self.folder, self.model, self.average, self.say = folder.snapshots, model, average, say
        self.shares = snapshot_shares(snapshot_count(count, model.config))
        self._done, self._last = 0, -1

    def begin(self, trainer: Trainer) -> None:
        """Before the first step of a session: save the untrained weights, or go on where the run stands."""
        self._go_to(trainer)
        if trainer.state.step == 0:
            self._done = 0
            self._save_if_due(trainer)

    def __call__(self, trainer: Trainer, result: StepResult) -> None:
        """Save if a share of the run has been reached; the guard may have taken the run back."""
        if trainer.state.step <= self._last:
            self._go_to(trainer)
        self._save_if_due(trainer)

    def _go_to(self, trainer: Trainer) -> None:
        if trainer.parallel.processes.is_main:
            discard_after(self.folder, trainer.state.step)
        self._done = sum(share <= trainer.progress + 1e-9 for share in self.shares)

    def _save_if_due(self, trainer: Trainer) -> None:
        reached = sum(share <= trainer.progress + 1e-9 for share in self.shares)
        self._last = trainer.state.step
        if reached <= self._done:
            return
        self._done = reached
        with self.average.applied(), trainer.parallel.whole():
            if trainer.parallel.processes.is_main:
                try:
                    save_snapshot(self.folder, self.model, trainer.state.step, trainer.state.tokens)
                except UserError as error:  # a lost snapshot is no reason to end a run
                    self.say(f"no snapshot of step {trainer.state.step:,}, training goes on: {error}")
