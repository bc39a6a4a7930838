"""Sweeps: many short runs over a space of settings, kept by Optuna in a SQLite file.

Any number of processes may work on one sweep: each takes a waiting trial under a lock. A trial whose process has died
is taken up again and goes on from its last checkpoint.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.data.cache import exclusive
from gpt2.errors import CheckpointError, DivergedError, MissingExtraError, StoppedError, UserError
from gpt2.experiments.member import train_member
from gpt2.experiments.space import Range, Space

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    folder: str
    params: dict[str, Any]
    state: str
    """"complete", "failed", "running" or "waiting"."""
    bits_per_byte: float | None
    error: str | None


class Sweep:
    """A sweep in a folder: `study.db`, and a run folder for each trial.

    Args:
        space: what is tried.
        folder: where; if a sweep is there, it goes on.

    Raises:
        MissingExtraError: Optuna is not installed.
        CheckpointError: the folder holds another sweep.
    """

    def __init__(self, space: Space, folder: str | Path) -> None:
        try:
            import optuna
        except ImportError as error:
            raise MissingExtraError(
                "sweeps need Optuna; install it with: pip install 'gpt2-from-scratch[sweep]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.folder, self._optuna = space, Path(folder), optuna
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            # No stochastic sampler for grid and random: their points wait in the study from the start.
            sampler = optuna.samplers.TPESampler(seed=space.seed) if space.sampler == "tpe" else None
            self.study = optuna.create_study(
                storage=f"sqlite:///{self.folder / 'study.db'}",
                study_name="sweep",
                load_if_exists=True,
                sampler=sampler,
            )
            self._check_same()
            self._take_up_orphans()
            self._enqueue()

    def work(self, say: Say) -> None:
        """Train waiting trials until there are none.

        Raises:
            StoppedError: a signal came; the trial waits again and will go on from its checkpoint.
        """
        while (trial := self._claim()) is not None:
            began = time.perf_counter()
            name = trial.user_attrs["folder"]
            try:
                score = self._train(self.folder / name, trial.params)
            except (UserError, DivergedError) as error:
                trial.set_user_attr("error", str(error))
                self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                say(f"{name}  failed: {error}")
            except (StoppedError, KeyboardInterrupt):
                self._put_back(trial)
                raise
            else:
                self.study.tell(trial, score)
                seconds = time.perf_counter() - began
                say(f"{name}  {score:.4f} bits per byte  {describe(trial.params)}  ({seconds:.0f} s)")

    def trials(self) -> list[Trial]:
        """Every trial, the best first; one that was put back counts once."""
        states = {"COMPLETE": "complete", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
        found = {}
        for trial in self.study.get_trials(deepcopy=False):
            attributes = trial.user_attrs
            if "folder" in attributes:
                params = trial.params or trial.system_attrs.get("fixed_params", {})
                found[attributes["folder"]] = Trial(
                    attributes["folder"], dict(params), states.get(trial.state.name, "failed"),
                    trial.value if trial.state.name == "COMPLETE" else None, attributes.get("error"),
                )  # fmt: skip
        return sorted(found.values(), key=lambda t: (t.bits_per_byte is None, t.bits_per_byte or 0.0, t.folder))

    def _train(self, folder: Path, params: dict[str, Any]) -> float:
        trained = train_member(folder, lambda: self.space.settings({**params, "out": str(folder)}), "gpt2 sweep")
        return trained.score.bits_per_byte

    def _claim(self) -> Any:
        """The next trial, marked as this process's; None: there is none left."""
        with self._alone():
            states = self._optuna.trial.TrialState
            waiting = self.study.get_trials(deepcopy=False, states=(states.WAITING,))
            if not waiting and (self.space.sampler != "tpe" or self._count() >= (self.space.trials or 0)):
                return None
            trial = self.study.ask()
            for name, values in self.space.search.items():
                _suggest(trial, name, values)
            if "folder" not in trial.user_attrs:
                trial.set_user_attr("folder", f"trial-{self._count():04d}")
            trial.set_user_attr("process", [socket.gethostname(), os.getpid()])
            return trial

    def _count(self) -> int:
        """Trials that are done or under way; one that was put back counts once."""
        return len({trial.user_attrs.get("folder") for trial in self.study.get_trials(deepcopy=False)} - {None})

    def _enqueue(self) -> None:
        """Let every point of a grid or of a random search wait, unless it does already."""
        known = {trial.user_attrs.get("folder") for trial in self.study.get_trials(deepcopy=False)}
        for number, point in enumerate(self.space.points()):
            name = f"trial-{number:04d}"
            if name not in known:
                self.study.enqueue_trial(point, user_attrs={"folder": name})

    def _take_up_orphans(self) -> None:
        """Let trials wait again whose process on this machine is gone."""
        for trial in self.study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,)):
            host, process = trial.user_attrs.get("process", (None, 0))
            if host == socket.gethostname() and not _is_alive(process):
                self._put_back(trial)

    def _put_back(self, trial: Any) -> None:
        self.study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        self.study.enqueue_trial(trial.params, user_attrs={"folder": trial.user_attrs["folder"]})

    def _check_same(self) -> None:
        """Refuse a folder whose trials were made for other settings."""
        made_for = repr(
            (self.space.sampler, sorted(self.space.base.items()), sorted(self.space.search.items(), key=str))
        )
        before = self.study.user_attrs.get("space")
        if before is None:
            self.study.set_user_attr("space", made_for)
        elif before != made_for:
            raise CheckpointError(
                f"{self.folder} holds a sweep over other settings; give this one another --out, "
                f"or make the file as it was (more trials are fine)"
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process of the sweep looks for work."""
        while True:
            with exclusive(self.folder / "lock") as alone:
                if alone:
                    yield
                    return
            time.sleep(0.05)


def describe(params: dict[str, Any]) -> str:
    """As "lr 0.02, num_layers 4"."""
    return ", ".join(
        f"{name} {f'{value:.4g}' if isinstance(value, float) else value}" for name, value in params.items()
    )


def _suggest(trial: Any, name: str, values: list[Any] | Range) -> None:
    if isinstance(values, list):
        trial.suggest_categorical(name, values)
    elif values.is_whole:
        trial.suggest_int(name, int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    else:
        trial.suggest_float(name, values.low, values.high, log=values.log, step=values.step)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there a signal 0 would end it: other processes' trials are left to them
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
