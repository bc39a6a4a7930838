"""What happens beside the training steps: the progress bar, metrics, validation, samples."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from gpt2.checkpoint.run_folder import RunFolder
from gpt2.errors import UserError
from gpt2.evaluation.bits_per_byte import Score
from gpt2.files import atomic_write
from gpt2.model import GPT2
from gpt2.report import read_metrics
from gpt2.training.averaging import WeightAverage
from gpt2.training.step_plan import StepPlan
from gpt2.training.trainer import StepResult, Trainer, TrainerState

_SECONDS_BETWEEN_RECORDS = 1.0
_STEPS_TO_CALIBRATE = 4


class Metrics:
    """Writes metrics.jsonl: a line per record, appended and flushed, so that a crash loses nothing.

    Args:
        path: the file.
        from_step: records after this step are removed first; those of a resumed run come again.
    """

    def __init__(self, path: Path, from_step: int = 0) -> None:
        self.path = path
        self._file = self._open(from_step)

    def _open(self, step: int) -> IO[str]:
        if self.path.is_file() or not self.path.exists():  # the null device of other ranks must not be replaced
            kept = [record for record in read_metrics(self.path) if record["step"] <= step] if step else []
            with atomic_write(self.path) as file:
                file.writelines(json.dumps(record) + "\n" for record in kept)
        return self.path.open("a", encoding="utf-8")

    def forget(self, step: int) -> None:
        """Remove the records after `step`: the run went back to it."""
        self._file.close()
        self._file = self._open(step)

    def write(self, **record: Any) -> None:
        """Append one record."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Progress:
    """Progress bar and training records: the loss is the mean over all steps since the last record."""

    def __init__(self, metrics: Metrics, show: bool) -> None:
        from tqdm import tqdm

        self.metrics, self._show = metrics, show
        self.bar = tqdm(
            total=100.0,
            disable=None if show else True,
            bar_format="{desc} {percentage:3.0f}%|{bar:24}| {postfix}",
            desc="training",
        )
        self._losses: list[float] = []
        self._since, self._tokens, self._first = time.perf_counter(), 0, True
        self._unwritten: Callable[[], tuple[float, float]] | None = None  # a record of the last step, if none is there

    def __call__(self, trainer: Trainer, result: StepResult) -> None:
        """Count the step; once a second, write a record and move the bar."""
        if math.isfinite(result.loss):  # one that is not would hide all others
            self._losses.append(result.loss)
        self._tokens += result.tokens
        now = time.perf_counter()
        self._unwritten = partial(self._record, replace(trainer.state), result, now)
        done = trainer.progress >= 1.0
        if now - self._since >= _SECONDS_BETWEEN_RECORDS or done or self._first:
            loss, speed = self._unwritten()
            self.bar.update(100.0 * trainer.progress - self.bar.n)
            self.bar.set_postfix_str(_postfix(trainer, loss, speed))

    def _record(self, state: TrainerState, result: StepResult, now: float) -> tuple[float, float]:
        """Write a record of everything since the last one; gives the mean loss and the tokens per second."""
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        speed = self._tokens / max(now - self._since, 1e-9)
        extra = {"loss": loss} if self._losses else {}
        if math.isfinite(result.grad_norm):
            extra["grad_norm"] = result.grad_norm
        if state.skipped:
            extra["skipped"] = state.skipped
        self.metrics.write(
            step=state.step, tokens=state.tokens, seconds=round(state.seconds, 3), **extra,
            lr_factor=round(result.factor, 6), tokens_per_second=round(speed),
        )  # fmt: skip
        self._losses, self._tokens, self._since, self._first, self._unwritten = [], 0, now, False, None
        return loss, speed

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._show:
            self.bar.write(line)

    def close(self) -> None:
        """Record the last step, whatever ended the run, and leave the bar as it stands."""
        if self._unwritten is not None:
            self._unwritten()
        self.bar.close()


class Validation:
    """At regular shares of the run: plan anew, validate, write a sample, keep the best weights.

    Args:
        folder: the run.
        model: the model; its averaged weights are validated, at the end its last ones too, and saved when they are
            the best so far.
        average: the average of its weights.
        validate: gives the score of the model now.
        sample: gives a sample of its text.
        metrics: for the records.
        say: prints a line without harming the progress bar.
        evals: how many, spread evenly; the last is at the end.
        patience: validations without a better one before the run stops.
        after: called after each.
    """

    def __init__(
        self,
        folder: RunFolder,
        model: GPT2,
        average: WeightAverage,
        validate: Callable[[], Score],
        sample: Callable[[], str],
        metrics: Metrics,
        say: Callable[[str], None],
        *,
        evals: int,
        patience: int | None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.model, self.average, self.validate, self.sample = folder, model, average, validate, sample
        self.metrics, self.say, self.evals = metrics, say, evals
        self.patience, self.after = patience, after
        self.state: dict[str, Any] = {"done": 0, "best_loss": None, "best_step": None, "worse": 0, "averaged": True}
        self._anchor = (0, 0.0)

    def __call__(self, trainer: Trainer, result: StepResult) -> None:
        """Do what is due after this step."""
        step, plan = trainer.state.step, trainer.plan
        self.average.update(trainer.progress)
        if not plan.is_calibrated and step >= _STEPS_TO_CALIBRATE:
            self._replan(trainer, plan)
        elif not plan.is_calibrated and step == 1:
            self._anchor = (step, trainer.elapsed)  # the first step warms up and does not count
        if trainer.progress >= (self.state["done"] + 1) / self.evals - 1e-9:
            self.state["done"] = int(trainer.progress * self.evals + 1e-9)
            self._validate(trainer)
            self._replan(trainer, plan)
            self.after()

    def go_back(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """The run went back to where its validations stood at `state`; the best one stays the best."""
        self.state = {**state, "best_loss": self.state["best_loss"], "best_step": self.state["best_step"]}
        self._anchor = (trainer.state.step, trainer.elapsed)

    def _replan(self, trainer: Trainer, plan: StepPlan) -> None:
        step, elapsed = trainer.state.step, trainer.elapsed
        if step > self._anchor[0]:
            plan.replan(step, elapsed, (elapsed - self._anchor[1]) / (step - self._anchor[0]))
            self._anchor = (step, elapsed)
            plan.load_state_dict(trainer.parallel.processes.from_main("plan", plan.state_dict()))

    def _validate(self, trainer: Trainer) -> None:
        """Judge the averaged weights; at the end of the run the last ones too, which short runs may leave better."""
        self.state["averaged"], of_last = True, None
        if self.state["done"] == self.evals:
            with trainer.parallel.whole():
                of_last = self.validate()
        with self.weights(), trainer.parallel.whole():
            score = self.validate()
            if of_last is None or score.loss <= of_last.loss:
                return self._take_in(trainer, score)
        self.state["averaged"] = False
        with self.weights(), trainer.parallel.whole():
            self._take_in(trainer, of_last)

    def weights(self) -> contextlib.AbstractContextManager[None]:
        """Within this, the model has the weights that were found the better ones, or could be: the average."""
        return self.average.applied() if self.state.get("averaged", True) else contextlib.nullcontext()

    def _take_in(self, trainer: Trainer, score: Score) -> None:
        """What follows from the score that the weights have as they are now."""
        state = self.state
        self.metrics.write(
            step=trainer.state.step, tokens=trainer.state.tokens, seconds=round(trainer.elapsed, 3),
            valid_loss=score.loss, valid_bits_per_byte=score.bits_per_byte,
        )  # fmt: skip
        better = state["best_loss"] is None or score.loss < state["best_loss"]
        if better:
            state.update(best_loss=score.loss, best_step=trainer.state.step, worse=0)
        else:
            state["worse"] += 1
        if self.patience is not None and state["worse"] >= self.patience:
            trainer.stop_reason = f"no better validation in {self.patience} (--patience)"
        if trainer.parallel.processes.is_main:
            self._record(trainer, score, better)

    def _record(self, trainer: Trainer, score: Score, better: bool) -> None:
        """Keep the weights if they are the best, and show what they write."""
        if better:
            try:
                self.model.save_pretrained(self.folder.path)
            except UserError as error:  # a full disk must not end hours of training
                self.say(f"NOT SAVED, training goes on: {error}")
        text = self.sample()
        with self.folder.samples.open("a", encoding="utf-8") as file:
            file.write(f"## Step {trainer.state.step:,}, bits per byte {score.bits_per_byte:.4f}\n\n{text.strip()}\n\n")
        first = " ".join(text.split())
        self.say(
            f"step {trainer.state.step:>6,}  validation loss {score.loss:.3f}  bits per byte {score.bits_per_byte:.3f}"
            f"{'' if better else ' (not better)'}  | {first[:70]}{'...' if len(first) > 70 else ''}"
        )


def _postfix(trainer: Trainer, loss: float, speed: float) -> str:
    progress, elapsed = trainer.progress, trainer.elapsed
    left = elapsed * (1.0 / progress - 1.0) if progress > 0 else 0.0
    total = trainer.plan.total_steps()
    steps = f"{trainer.state.step:,}" + (f"/{total:,}" if total else "")
    return f"step {steps}, loss {loss:.3f}, {speed:,.0f} tokens/s, {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
