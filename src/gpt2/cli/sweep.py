"""`gpt2 sweep`: many short runs over a space of settings."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from gpt2.experiments.sweep import Trial


@dataclass(frozen=True)
class Sweep:
    """Train with many settings and tell which are best. Stop it and call it again: it goes on.

    docs/evaluation.md shows the TOML file. Several processes may work on one sweep: --workers, or the same command
    again in other terminals.
    """

    space: Positional[str]
    """A TOML file: sampler, trials, [base] settings of every trial, [search] what to try."""
    out: str | None = None
    """Folder of the sweep; none: sweeps/ and the name of the file."""
    workers: int = 1
    """Processes that train at once; the cores are divided among them."""
    list_only: bool = False
    """Train nothing: only show what there is."""
    json: bool = False
    """Print the trials as one JSON array at the end."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 sweep`."""
    options = tyro.cli(Sweep, args=argv, prog="gpt2 sweep")
    from gpt2.errors import ConfigError, StoppedError
    from gpt2.experiments import sweep
    from gpt2.experiments.pictures import draw_sweep
    from gpt2.experiments.space import Space

    if options.workers < 1:
        raise ConfigError(f"workers must be 1 or more, got {options.workers}")
    folder = Path(options.out or f"sweeps/{Path(options.space).stem}")
    study = sweep.Sweep(Space.read(options.space), folder)
    if not options.list_only:
        helpers = [_helper(options, folder) for _ in range(options.workers - 1)]
        _share_cores(options.workers)
        try:
            study.work(lambda line: print(line, file=sys.stderr, flush=True))
        except StoppedError as error:
            if error.signal_number == signal.SIGTERM:  # sent to this process alone, as Ctrl-C is not
                for helper in helpers:
                    helper.terminate()
            raise
        finally:
            for helper in helpers:
                helper.wait()
    trials = study.trials()
    draw_sweep(trials, folder / "sweep.svg")
    _write_table(trials, folder / "trials.csv")
    if options.json:
        print(json.dumps([vars(trial) for trial in trials]))
    else:
        print("\n".join(_lines(trials, folder)))
    return 0


def _helper(options: Sweep, folder: Path) -> "subprocess.Popen[bytes]":
    """Another process on the same sweep."""
    command = [sys.executable, "-m", "gpt2", "sweep", options.space, "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(_threads_each(options.workers))}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def _share_cores(workers: int) -> None:
    if workers > 1:
        import torch

        torch.set_num_threads(_threads_each(workers))


def _threads_each(workers: int) -> int:
    from gpt2.files import cores

    return max(1, cores() // workers)


def _lines(trials: "list[Trial]", folder: Path) -> list[str]:
    from gpt2.experiments.sweep import describe

    lines = [f"{'trial':<12} {'bits per byte':>13}  settings"]
    for trial in trials:
        value = f"{trial.bits_per_byte:.4f}" if trial.bits_per_byte is not None else trial.state
        lines.append(
            f"{trial.folder:<12} {value:>13}  {describe(trial.params)}{f'  ({trial.error})' if trial.error else ''}"
        )
    return [*lines, "", f"{folder / 'sweep.svg'}, {folder / 'trials.csv'}; each trial is a run folder in {folder}"]


def _write_table(trials: "list[Trial]", target: Path) -> None:
    from gpt2.files import atomic_write

    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    with atomic_write(target) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", "bits_per_byte", *names, "error"])
        for trial in trials:
            values = [trial.params.get(name, "") for name in names]
            writer.writerow([trial.folder, trial.state, trial.bits_per_byte, *values, trial.error or ""])
