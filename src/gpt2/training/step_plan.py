"""How far a run has come, and how long it will take: the one place where time becomes steps."""

from typing import Any


class StepPlan:
    """Progress from 0 to 1, a fixed amount per step between two plannings.

    With a number of steps, the amount is one over it, for good. With a time budget, the amount follows
    from the measured speed and is fixed anew at each validation, just before a checkpoint stores it:
    a resumed run replays the stored plan.

    Args:
        steps: optimizer steps of the whole run; None: as many as fit into `seconds`.
        seconds: time budget of the whole run, validations and samples included.
    """

    def __init__(self, steps: int | None = None, seconds: float | None = None) -> None:
        if (steps is None) == (seconds is None):
            raise ValueError("a run has either a number of steps or a time budget")
        self.steps, self.seconds = steps, seconds
        self._anchor_step, self._anchor_progress = 0, 0.0
        self._rate = 1.0 / steps if steps is not None else None

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the run done before `step`, `elapsed` seconds into it."""
        if self._rate is None:
            assert self.seconds is not None
            return min(1.0, elapsed / self.seconds)  # the first steps, before the speed is known
        progress = self._anchor_progress + (step - self._anchor_step) * self._rate
        return 1.0 if progress > 1.0 - 1e-9 else progress

    def replan(self, step: int, elapsed: float, seconds_per_step: float) -> None:
        """Fix how many more steps fit into the time budget; does nothing for a number of steps."""
        if self.seconds is None:
            return
        progress = self.progress(step, elapsed)
        remaining = max(1, int((self.seconds - elapsed) / seconds_per_step))
        self._anchor_step, self._anchor_progress = step, progress
        self._rate = (1.0 - progress) / remaining

    @property
    def is_calibrated(self) -> bool:
        """Whether the amount per step is fixed."""
        return self._rate is not None

    def total_steps(self) -> int | None:
        """Steps of the whole run as now planned; None: not known yet."""
        if self._rate is None:
            return None
        return (
            self._anchor_step + round((1.0 - self._anchor_progress) / self._rate) if self._rate else self._anchor_step
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to replay the plan."""
        return {"step": self._anchor_step, "progress": self._anchor_progress, "rate": self._rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._anchor_step, self._anchor_progress, self._rate = state["step"], state["progress"], state["rate"]
