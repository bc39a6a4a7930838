"""Run by torchrun in the tests beside this file: several small trainings in one launch, real ones.

    worker.py JOBS.json      a list of {"out": ..., settings ..., and some of the following}
        "stop": [rank, step]      that process gets SIGTERM while it works on that step
        "stop_all": step          torchrun gets SIGTERM then, as from a scheduler
        "die": [rank, step]       that process gets SIGKILL then, the first time that it is started
        "nan": [rank, step]       the loss of that process is no number then
        "copy": NAME              resume a copy of that run beside it, as OUT
        "slow": true              and from then on each sync takes five seconds
        "whole": true             finish the run as `gpt2 train` does, instead of only training

Each process writes what it saw to OUT/../NAME.RANK.json: its share of each batch, its steps, how it ended.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from gpt2.checkpoint import store
from gpt2.data.loader import Batch, BatchLoader
from gpt2.errors import GPT2Error
from gpt2.settings import TrainSettings
from gpt2.training.distributed import joined
from gpt2.training.loss import LanguageModelLoss
from gpt2.training.run import assemble

RANK = int(os.environ["RANK"])


def main() -> None:
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    for job in jobs:
        saw = run(job)
        out = Path(job.get("out") or job["resume"])
        (out.parent / f"{out.name}.{RANK}.json").write_text(json.dumps(saw))


def run(job: dict[str, Any]) -> dict[str, Any]:
    special = {key: job.pop(key, None) for key in ("stop", "stop_all", "slow", "die", "nan", "whole", "copy")}
    if special["copy"] and RANK == 0:
        shutil.copytree(Path(job["resume"]).parent / special["copy"], job["resume"])
    special["out"] = job.get("out")
    saw: dict[str, Any] = {"batches": {}, "step": None, "ended": "done"}
    watch(special, saw)
    try:
        with joined() as processes:
            session = assemble(TrainSettings.make(**job), progress=False, processes=processes)
            assert session is not None
            try:
                if special["whole"]:
                    session.go()
                else:
                    session.fit()
            finally:
                saw["step"] = session.trainer.state.step
                saw["skipped"] = session.trainer.state.skipped
    except GPT2Error as error:
        saw["ended"] = f"{error.exit_code}"
    return saw


def watch(special: dict[str, Any], saw: dict[str, Any]) -> None:
    """Write down each batch, and do to this process what the job says."""
    now = {"step": -1, "stopped": False}

    def batch(self: BatchLoader, step: int, part: int = 0, parts: int = 1) -> Batch:
        given = original_batch(self, step, part, parts)
        pairs = zip(given.ids[0].tolist(), given.targets[0].tolist(), strict=True)
        if parts > 1:  # one part is the example for torch.compile
            saw["batches"].setdefault(str(step), []).extend(pairs)
        if special["stop"] == [RANK, step]:
            os.kill(os.getpid(), signal.SIGTERM)
        if special["die"] == [RANK, step] and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        if special["stop_all"] is not None and step >= special["stop_all"]:
            if RANK == 0 and not now["stopped"]:
                if special["slow"]:
                    slow_disk(Path(special["out"]))
                os.kill(os.getppid(), signal.SIGTERM)
            now["stopped"] = True
            time.sleep(0.1)  # the signal takes its way through torchrun
        now["step"] = step
        return given

    def forward(self: LanguageModelLoss, given: Batch) -> Any:
        total, count = original_forward(self, given)
        return (total * torch.nan if special["nan"] == [RANK, now["step"]] else total), count

    BatchLoader.batch, LanguageModelLoss.forward = batch, forward  # pyright: ignore


def slow_disk(out: Path) -> None:
    """From the moment that the first checkpoint is whole."""
    while not list(out.glob("training/checkpoints/step-*/manifest.json")):
        time.sleep(0.01)
    store.sync = lambda path: time.sleep(5)


original_batch, original_forward = BatchLoader.batch, LanguageModelLoss.forward

if __name__ == "__main__":
    main()
