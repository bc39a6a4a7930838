"""Divergence: losses that are no numbers, or that jump up and stay there; and what is done about it.

A single bad step is left out (not finite) or noted (a spike) and the run goes on. Trouble that lasts is met with
one of three actions: go back and pass over the batches that led there (as PaLM was trained: Chowdhery et al., 2022,
section 5.1), go back and halve the learning rate, or stop.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from gpt2.errors import DivergedError
from gpt2.training.trainer import StepResult, Trainer

# Updates left out as not finite, among so many steps, before something is done.
_BUDGET, _AMONG = 10, 1000
# Losses that say what is usual, how many are needed to judge, and what is far from them: in robust standard
# deviations (1.4826 times the median distance from the median), which are at least 1 % of the loss.
_WINDOW, _ENOUGH, _FAR = 64, 32, 6.0
# Spikes in a row that are no accident.
_SUSTAINED = 20
_ATTEMPTS = 3
_LOWER = 0.5

GoBack = Callable[[int], int | None]
"""Restores the newest good checkpoint before a step; gives its step, or None: there is none."""
Report = Callable[[dict[str, Any], str], None]
"""Takes a record for the metrics and a sentence for people."""


@dataclass
class GuardState:
    """What the guard remembers; JSON values. A loss that is not finite or far off never enters `losses`."""

    losses: list[float] = field(default_factory=list)
    nonfinite: list[int] = field(default_factory=list)
    """Steps, the recent ones, whose update was left out."""
    streak: int = 0
    """Spikes in a row up to now."""
    since: int | None = None
    """Steps done when the present trouble began; None: there is none."""
    spikes: int = 0
    """Times that the loss jumped."""
    events: list[str] = field(default_factory=list)
    """What was done, in sentences."""


class Guard:
    """A hook that watches the loss and the gradient.

    Args:
        action: "restore" (go back, pass over the batches in between), "lower-rate" (go back, halve the learning
            rate) or "stop".
        go_back: see `GoBack`.
        report: see `Report`.
    """

    def __init__(self, action: str, go_back: GoBack, report: Report) -> None:
        self.action, self.go_back, self.report = action, go_back, report
        self.state = GuardState()
        self.gave_up = False
        """Whether the run was ended: its newest state is not worth saving."""

    @property
    def in_trouble(self) -> bool:
        """Whether the last step was bad: no moment for a checkpoint."""
        return self.state.since is not None

    def __call__(self, trainer: Trainer, result: StepResult) -> None:
        """Judge the step that is done.

        Raises:
            DivergedError: the run is given up.
        """
        state, step = self.state, trainer.state.step
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            state.since = step - 1 if state.since is None else state.since
            state.nonfinite = [s for s in state.nonfinite if s > step - _AMONG] + [step]
            if len(state.nonfinite) >= _BUDGET:
                where = f", first in {result.culprit}" if result.culprit else ""
                self._act(trainer, f"{_BUDGET} of the last {min(step, _AMONG):,} updates were not finite (loss "
                          f"{result.loss:.4g}, gradient's norm {result.grad_norm:.4g}{where})")  # fmt: skip
        elif (usual := self._usual()) is not None and result.loss > usual[0] + _FAR * usual[1]:
            if not state.streak:
                state.spikes += 1
                record = {"event": "spike", "step": step, "tokens": trainer.state.tokens, "spike_loss": result.loss}
                self.report(record, "")
            state.streak += 1
            state.since = step - 1 if state.since is None else state.since
            if state.streak >= _SUSTAINED:
                self._act(trainer, f"the loss jumped from {usual[0]:.3f} to {result.loss:.3f} and stayed there "
                          f"for {_SUSTAINED} steps")  # fmt: skip
        else:
            state.streak, state.since = 0, None
            state.losses = [*state.losses[1 - _WINDOW :], result.loss]

    def _usual(self) -> tuple[float, float] | None:
        """Median and robust standard deviation of recent good losses; None: too few to tell."""
        losses = self.state.losses
        if len(losses) < _ENOUGH:
            return None
        middle = statistics.median(losses)
        spread = 1.4826 * statistics.median(abs(loss - middle) for loss in losses)
        return middle, max(spread, 0.01 * abs(middle), 1e-6)

    def _act(self, trainer: Trainer, reason: str) -> None:
        at, since, before, events = trainer.state.step, self.state.since or 0, trainer.state, self.state.events
        if self.action == "stop":
            raise self._give_up(at, reason, "--on-divergence restore would go back to the last good checkpoint")
        if len(events) >= _ATTEMPTS:
            raise self._give_up(at, reason, f"it was already met {_ATTEMPTS} times by going back")
        step = self.go_back(since)
        if step is None:
            raise self._give_up(at, reason, "there is no checkpoint to go back to yet")
        now = trainer.state
        now.seconds, now.skipped = before.seconds, before.skipped
        now.passed_over, now.rate = before.passed_over, before.rate
        if self.action == "restore":
            now.passed_over += at - step
            done = f"went back to step {step:,} and passed over the {at - step:,} batches since"
        else:
            now.rate *= _LOWER
            done = f"went back to step {step:,} with {now.rate:g} times the learning rate"
        sentence = f"at step {at:,}, {reason}: {done}"
        self.state.events = [*events, sentence]
        self.state.nonfinite, self.state.streak, self.state.since = [], 0, None
        record = {"event": "divergence", "step": step, "tokens": now.tokens, "at": at, "what": sentence}
        self.report(record, f"DIVERGED {sentence}")

    def _give_up(self, at: int, reason: str, why: str) -> DivergedError:
        self.gave_up = True
        return DivergedError(
            f"the run diverged: at step {at:,}, {reason}; {why}. The last good weights are kept. "
            f"Try a lower --lr, or --dtype float32"
        )

    def state_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.state = GuardState(**state)
