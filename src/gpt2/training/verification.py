"""Proof, on this machine, that a run which was killed and resumed gives the bits of one that never was.

Three processes of their own train the same steps: one to the end; one that is killed (SIGKILL) on the way; one that
resumes it. Every loss, every gradient norm and every byte of the last checkpoints are compared.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt2.checkpoint.run_folder import RunFolder
from gpt2.checkpoint.store import newest_checkpoint, whole_checkpoints
from gpt2.errors import GPT2Error, UserError
from gpt2.files import sha256
from gpt2.report import read_metrics
from gpt2.settings import TrainSettings, read_toml
from gpt2.training.trainer import StepResult, Trainer

# The whole run takes about this long, in seconds; but so many steps at least and at most.
_SECONDS, _FEWEST, _MOST = 12.0, 6, 60
_HOLD = "GPT2_VERIFY_HOLD_AT"


@dataclass(frozen=True)
class Verdict:
    """What the comparison gave."""

    steps: int
    resumed_at: int
    """Step of the checkpoint that the resumed run went on from."""
    killed_at: int
    """Step at which the run was killed."""
    first_difference: int | None
    """The first step whose loss or gradient norm differs; None: none does."""
    files: dict[str, tuple[str, str]]
    """Of the last checkpoint: name -> SHA-256 in the whole run and in the resumed one."""
    machine: str

    @property
    def exact(self) -> bool:
        """Whether everything is equal."""
        return self.first_difference is None and all(a == b for a, b in self.files.values())

    def lines(self) -> list[str]:
        """For people to read."""
        same = self.steps if self.first_difference is None else self.first_difference - 1
        rows = [
            f"one run of {self.steps} steps; one killed at step {self.killed_at} and resumed from its checkpoint of "
            f"step {self.resumed_at}",
            f"losses and gradient norms: {same} of {self.steps} equal in every bit",
        ]
        for name, (whole, resumed) in self.files.items():
            words = "equal" if whole == resumed else f"DIFFERENT, {resumed[:16]} after resuming"
            rows.append(f"{name:<24} sha256 {whole[:16]}  {words}")
        verdict = "resuming is exact" if self.exact else "RESUMING IS NOT EXACT"
        return [*rows, f"{verdict} on {self.machine}"]


def verify_resume(model: str | Path, steps: int | None = None, say: Callable[[str], None] = print) -> Verdict:
    """Train a few steps of a run's settings twice, once with a kill in between, and compare; nothing of it is kept.

    Args:
        model: the folder of a run.
        steps: how many; None: as many as take about ten seconds.
        say: takes a sentence before each part.

    Raises:
        CheckpointError: there is no run in the folder.
        UserError: its text is gone, or it has too few steps.
        GPT2Error: one of the processes failed.
    """
    folder = RunFolder(model)
    folder.require()
    steps = steps or _affordable_steps(folder)
    if steps < _FEWEST:
        raise UserError(f"{steps} steps are too few to be killed in between; give --steps {_FEWEST} or more")
    with tempfile.TemporaryDirectory(prefix="gpt2-verify-") as name:
        place = Path(name)
        whole, broken = place / "whole", place / "broken"
        save_every = max(2, steps // 3)
        hold = min(steps - 1, save_every + max(1, save_every // 2))
        for out in (whole, broken):
            settings = _shortened(folder, steps, save_every, out)
            out.with_suffix(".toml").write_text(settings.to_toml(), encoding="utf-8")
        say(f"{steps} steps without a break ...")
        _run(whole.with_suffix(".toml"), place / "whole.txt")
        say(f"the same, killed at step {hold} ...")
        _run_and_kill(broken, place / "broken.txt", hold)
        say("resumed ...")
        _run(broken, place / "resumed.txt")
        return _compare(place, hold, steps, _shortened(folder, steps, save_every, whole))


def _affordable_steps(folder: RunFolder) -> int:
    """From the speed that the run itself had."""
    records = [record for record in read_metrics(folder.metrics) if "tokens_per_second" in record]
    if len(records) < 2 or not records[-1]["step"]:
        return _FEWEST
    tokens_per_step = records[-1]["tokens"] / records[-1]["step"]
    return int(min(_MOST, max(_FEWEST, _SECONDS * records[-1]["tokens_per_second"] / tokens_per_step)))


def _shortened(folder: RunFolder, steps: int, save_every: int, out: Path) -> TrainSettings:
    """The run's own settings, with its tokenizer, for a few steps."""
    stored = TrainSettings.make(**read_toml(folder.config))
    tokenizer = None if stored.run.from_model else str((folder.path / "tokenizer.json").absolute())
    return stored.changed(minutes=None, epochs=None, steps=steps, save_every=save_every, keep_every=None, evals=1,
                          patience=None, out=str(out), tokenizer=tokenizer)  # fmt: skip


def _start(what: Path, record: Path, hold: int | None = None) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop(_HOLD, None)
    if hold is not None:
        environment[_HOLD] = str(hold)
    return subprocess.Popen(
        [sys.executable, "-m", "gpt2.training.verification", str(what), str(record)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def _run(what: Path, record: Path) -> None:
    process = _start(what, record)
    _, errors = process.communicate()
    if process.returncode:
        raise GPT2Error(f"a run of the comparison failed: {errors.strip() or process.returncode}")


def _run_and_kill(folder: Path, record: Path, hold: int) -> None:
    """Start, wait until step `hold` is done and a checkpoint is whole, and kill."""
    process = _start(folder.with_suffix(".toml"), record, hold)
    try:
        while not (_lines(record) >= hold and whole_checkpoints(RunFolder(folder).checkpoints)):
            if process.poll() is not None:
                _, errors = process.communicate()
                raise GPT2Error(f"a run of the comparison failed: {errors.strip() or process.returncode}")
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()


def _lines(record: Path) -> int:
    return len(record.read_text(encoding="utf-8").splitlines()) if record.exists() else 0


def _compare(place: Path, hold: int, steps: int, settings: TrainSettings) -> Verdict:
    whole, broken, resumed = (
        dict(json.loads(line) for line in (place / f"{name}.txt").read_text(encoding="utf-8").splitlines())
        for name in ("whole", "broken", "resumed")
    )
    wrong = [step for step in whole if any(part.get(step, whole[step]) != whole[step] for part in (broken, resumed))]
    last = [newest_checkpoint(RunFolder(place / name).checkpoints)[0] for name in ("whole", "broken")]
    if last[0] is None or last[1] is None or last[0].step != steps or max(resumed) != steps:
        raise GPT2Error("a run of the comparison ended early")
    names = sorted(path.name for path in last[0].path.glob("*.safetensors"))
    files = {name: (sha256(last[0].path / name), sha256(last[1].path / name)) for name in names}
    import torch

    run = settings.run
    machine = f"this machine: {run.device}, {run.dtype}, {run.threads} threads, {run.kernels} kernels, PyTorch"
    return Verdict(steps, min(resumed) - 1, hold, min(wrong, default=None), files, f"{machine} {torch.__version__}")


class _Recorder:
    """A hook that writes each step's loss and gradient norm down to the last bit, and may wait to be killed."""

    def __init__(self, path: Path, hold: int | None) -> None:
        self._file, self._hold = path.open("w", encoding="utf-8"), hold

    def __call__(self, trainer: Trainer, result: StepResult) -> None:
        bits = f"{result.loss.hex()} {result.grad_norm.hex()}"
        self._file.write(json.dumps([trainer.state.step, bits]) + "\n")
        self._file.flush()
        while trainer.state.step == self._hold:
            time.sleep(1)


def _child(what: Path, record: Path) -> None:
    """Train: the settings of a TOML file, or the rest of the run in a folder."""
    from gpt2.training.run import assemble

    settings = TrainSettings.make(resume=str(what)) if what.is_dir() else TrainSettings.make(**read_toml(what))
    session = assemble(settings, progress=False)
    assert session is not None
    hold = os.environ.get(_HOLD)
    session.fit([_Recorder(record, int(hold) if hold else None)])


if __name__ == "__main__":
    with contextlib.suppress(AttributeError, ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to obey
    try:
        _child(Path(sys.argv[1]), Path(sys.argv[2]))
    except GPT2Error as error:
        sys.exit(str(error))
