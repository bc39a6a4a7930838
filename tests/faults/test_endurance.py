"""Faults F13, F17, F21, F25: long runs and late steps, slow disks, the same numbers everywhere."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2.data.loader import BatchLoader
from gpt2.training.hooks import Validation
from gpt2.training.trainer import StepResult, Trainer
from tests.faults.harness import FULL, PATIENCE, TINY, digest, needs_fork, needs_strace, start, train_in

GOLDEN = Path(__file__).with_name("golden_losses.json")


class Stories:
    """Token data of two million documents, of which every read is counted."""

    def __init__(self, documents: int = 2_000_000) -> None:
        self.offsets = np.arange(documents + 1, dtype=np.int64) * 200
        self.read = 0

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        self.read += int(lengths.sum())
        return np.zeros(int(lengths.sum()), np.uint16)


def test_resuming_reads_nothing_of_what_is_behind() -> None:
    """Bar 6: the batch of step ten million is there at once; two batches' worth of ids are read, and one order drawn."""
    source = Stories()
    loader = BatchLoader(source, 4096, 256, seed=1)
    late = loader.batch(10_000_000)
    assert sum(late.lengths) == 4096
    assert source.read <= 2 * 4096 + 1
    assert len(loader._epochs) == 1
    other = BatchLoader(Stories(), 4096, 256, seed=1).batch(10_000_000)
    assert late.lengths == other.lengths


LONG: dict[str, Any] = {
    **TINY, "d_model": 16, "num_layers": 1, "num_heads": 1, "context_length": 16, "batch_size": 2,
    "micro_batch_tokens": 32, "evals": 10, "steps": 5000, "save_every": 500,
}  # fmt: skip


def watched(report: str) -> None:
    """Train and note, every hundred steps, the resident memory and the open files."""
    rows: list[tuple[int, int, int]] = []
    original = Validation.__call__

    def look(self: Validation, trainer: Trainer, result: StepResult) -> None:
        original(self, trainer, result)
        if trainer.state.step % 100 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            rows.append((trainer.state.step, pages * resource.getpagesize(), len(os.listdir("/proc/self/fd"))))  # noqa: PTH208

    Validation.__call__ = look  # type: ignore[method-assign]
    train_in(f"{report}-run", LONG)  # the first validation belongs to the warm-up
    Path(report).write_text(json.dumps(rows))


def resumed(report: str) -> None:
    """Resume; tells what is read between loading the checkpoint and the end of the first step, and what that takes."""
    from gpt2.training.run_state import RunState

    told: dict[str, Any] = {"batches": []}
    restore, pieces, original = RunState.restore, BatchLoader.pieces, Validation.__call__
    began = [0.0, 0.0]

    def loaded(self: RunState, note: Any) -> Any:
        checkpoint = restore(self, note)
        began[:] = time.perf_counter(), time.process_time()
        return checkpoint

    def asked(self: BatchLoader, step: int) -> Any:
        told["batches"].append(step)
        return pieces(self, step)

    def first(self: Validation, trainer: Trainer, result: StepResult) -> None:
        if "seconds" not in told:
            told["seconds"] = time.perf_counter() - began[0], time.process_time() - began[1]
            told["epochs"], told["until"] = len(trainer.loader._epochs), len(told["batches"])
        original(self, trainer, result)

    RunState.restore, BatchLoader.pieces, Validation.__call__ = loaded, asked, first  # type: ignore[method-assign]
    train_in(f"{report}-run", LONG)
    Path(report).write_text(json.dumps(told))


@needs_fork
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not FULL, reason="5,000 steps: make faults")
def test_a_long_run_grows_by_nothing_and_resumes_late_at_once(tmp_path: Path) -> None:
    """F21, bar 7: under 1 KB a step after the warm-up, and no more files than before. Bar 6: at step 4,500 only that
    step's batch is looked up before training goes on; how long that took is printed.
    """
    report = tmp_path / "report"
    process = start(watched, str(report))
    process.join(PATIENCE)
    assert process.exitcode == 0
    rows = np.array(json.loads(report.read_text()))
    rows = rows[rows[:, 0] >= 1000]
    slope = np.polyfit(rows[:, 0], rows[:, 1], 1)[0]
    print(
        f"\nmemory: {slope:.0f} bytes a step, {rows[-1, 1] / 1e6:.0f} MB; open files {sorted(set(rows[:, 2].tolist()))}"
    )
    assert slope < 1000
    assert rows[-1, 2] <= rows[0, 2] + 1  # one more while a checkpoint is being written
    before = digest(tmp_path / "report-run/model.safetensors")
    shutil.rmtree(tmp_path / "report-run/training/checkpoints/step-00005000")
    process = start(resumed, str(report))
    process.join(PATIENCE)
    assert process.exitcode == 0
    told = json.loads(report.read_text())
    first = told["batches"][: told["until"]]
    print(
        f"from loading to the end of the first step: {told['seconds'][0]:.2f} s, {told['seconds'][1]:.2f} of a processor"
    )
    assert set(first) == {0, 4500}, "0 is the example on which compiling would be tried"
    assert told["epochs"] <= 2
    assert digest(tmp_path / "report-run/model.safetensors") == before


def noted(folder: str, steps: int) -> None:
    """Train and note each step's loss, in bits."""
    losses: list[str] = []
    original = Validation.__call__

    def note(self: Validation, trainer: Trainer, result: StepResult) -> None:
        original(self, trainer, result)
        losses.append(result.loss.hex())

    Validation.__call__ = note  # type: ignore[method-assign]
    train_in(folder, {**TINY, "steps": steps})
    Path(folder, "losses.json").write_text(json.dumps(losses))


@needs_fork
def test_losses_are_those_of_the_record_and_the_same_each_time(tmp_path: Path) -> None:
    """F25: 50 steps within 1e-4 of the stored losses on any machine; F13: two at once are equal bit for bit, and so is
    one whose sets and dictionaries are ordered by other hashes.
    """
    code = "import sys; from tests.faults.test_endurance import noted; noted(sys.argv[1], 50)"
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONHASHSEED": "12345"}
    processes = [start(noted, str(tmp_path / name), 50) for name in ("a", "b")]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], check=True, env=environment)
    for process in processes:
        process.join(PATIENCE)
    first, second, third = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("a", "b", "c"))
    assert first == second == third
    found = [float.fromhex(loss) for loss in first]
    assert len(found) == 50
    np.testing.assert_allclose(found, json.loads(GOLDEN.read_text())["losses"], atol=1e-4, rtol=0)


SLOW = """
import sys
from tests.faults import test_endurance
test_endurance.train_on_a_slow_disk(sys.argv[1])
"""


def train_on_a_slow_disk(folder: str) -> None:
    """Each sync takes two seconds; tells how many steps were made while a save was under way, and what was said."""
    from gpt2.training import saving

    torch.set_num_threads(1)
    saving._SLOW_SECONDS = 4.0
    during, saves, said = 0, set[float](), list[str]()
    original = saving.Saving.__call__

    def look(self: saving.Saving, trainer: Trainer, result: StepResult) -> None:
        nonlocal during
        self.say = said.append
        during += self.background.busy
        original(self, trainer, result)
        saves.add(self.background._began)
        if trainer.state.step == 3000:
            told = {"during": during, "saves": len(saves - {0.0}), "said": said, "stalled": self.stalled}
            Path(folder, "slow.json").write_text(json.dumps(told))

    saving.Saving.__call__ = look  # type: ignore[method-assign]
    train_in(folder, {**TINY, "steps": 3000, "save_every": 50, "evals": 1})


@needs_strace
@pytest.mark.skipif(not FULL, reason="a disk of several seconds per sync: make faults")
def test_a_slow_disk_does_not_hold_up_training(tmp_path: Path) -> None:
    """F17: while the thread waits for the disk, steps go on; only the last save is waited for; a warning comes once a
    save (after four seconds here, sixty otherwise).
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    inject = ["-e", "trace=fsync", "-e", "inject=fsync:delay_enter=2000000"]
    command = ["strace", "-f", "-qq", "-o", str(tmp_path / "log"), "--seccomp-bpf", *inject, sys.executable, "-c", SLOW]
    subprocess.run([*command, str(tmp_path / "run")], check=True, env=environment)
    told = json.loads((tmp_path / "run/slow.json").read_text())
    checkpoints = tmp_path / "run/training/checkpoints"
    saves, during = told["saves"], told["during"]
    print(f"\n{during:,} of 3,000 steps were made during {saves} saves; stalled {told['stalled']:.2f} s in all")
    assert during > 10 * saves, "a save takes fourteen seconds, a step milliseconds"
    warned = [line for line in told["said"] if "the disk is slow: the last checkpoint has been written for" in line]
    assert 1 <= len(warned) <= saves
    assert (checkpoints / "step-00003000/manifest.json").exists()
