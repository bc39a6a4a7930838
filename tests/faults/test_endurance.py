"""Faults F13, F17, F21, F25 and the cost of saving: long runs, slow disks, the same numbers everywhere."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2.data.loader import BatchLoader
from gpt2.training.hooks import Validation
from gpt2.training.trainer import StepResult, Trainer
from tests.faults.harness import FULL, PATIENCE, TINY, needs_fork, needs_strace, start

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


def watched(report: str, steps: int) -> None:
    """Train and note, every hundred steps, the resident memory and the open files."""
    from gpt2 import train

    rows: list[tuple[int, int, int]] = []
    original = Validation.__call__

    def look(self: Validation, trainer: Trainer, result: StepResult) -> None:
        original(self, trainer, result)
        if trainer.state.step % 100 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            rows.append((trainer.state.step, pages * resource.getpagesize(), len(os.listdir("/proc/self/fd"))))  # noqa: PTH208

    Validation.__call__ = look  # type: ignore[method-assign]
    shape = {"d_model": 16, "num_layers": 1, "num_heads": 1, "context_length": 16, "batch_size": 2}
    shape |= {"micro_batch_tokens": 32, "evals": 10}  # the first validation belongs to the warm-up
    train(out=f"{report}-run", steps=steps, save_every=500, progress=False, **{**TINY, **shape})
    Path(report).write_text(json.dumps(rows))


@needs_fork
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not FULL, reason="5,000 steps: make faults")
def test_memory_and_files_do_not_grow(tmp_path: Path) -> None:
    """F21, bar 7: under 1 KB a step after the warm-up, and no more files than before."""
    process = start(watched, str(tmp_path / "report"), 5000)
    process.join(PATIENCE)
    assert process.exitcode == 0
    rows = np.array(json.loads((tmp_path / "report").read_text()))
    rows = rows[rows[:, 0] >= 1000]
    slope = np.polyfit(rows[:, 0], rows[:, 1], 1)[0]
    print(
        f"memory: {slope:.0f} bytes a step, {rows[-1, 1] / 1e6:.0f} MB; open files {sorted(set(rows[:, 2].tolist()))}"
    )
    assert slope < 1000
    assert rows[-1, 2] <= rows[0, 2] + 1  # one more while a checkpoint is being written


def noted(folder: str, steps: int) -> None:
    """Train and note each step's loss, in bits."""
    from gpt2 import train

    losses: list[str] = []
    original = Validation.__call__

    def note(self: Validation, trainer: Trainer, result: StepResult) -> None:
        original(self, trainer, result)
        losses.append(result.loss.hex())

    Validation.__call__ = note  # type: ignore[method-assign]
    train(out=folder, steps=steps, progress=False, **TINY)
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
import sys, time
from tests.faults import test_endurance
test_endurance.train_on_a_slow_disk(sys.argv[1])
"""


def train_on_a_slow_disk(folder: str) -> None:
    """Each sync takes two seconds; tells the longest step and how long training waited for saves."""
    from gpt2 import train
    from gpt2.training.saving import Saving

    torch.set_num_threads(1)
    last, longest, stalled = time.perf_counter(), [0.0], [0.0]
    original = Saving.__call__

    def clock(self: Saving, trainer: Trainer, result: StepResult) -> None:
        nonlocal last
        original(self, trainer, result)
        now = time.perf_counter()
        longest.append(now - last)
        last = now
        stalled[0] = self.stalled

    Saving.__call__ = clock  # type: ignore[method-assign]
    train(out=folder, steps=400, save_every=50, progress=False, **{**TINY, "evals": 1})
    Path(folder, "slow.json").write_text(json.dumps({"steps": sorted(longest[20:]), "stalled": stalled[0]}))


@needs_strace
@pytest.mark.skipif(not FULL, reason="a disk of several seconds per sync: make faults")
def test_a_slow_disk_does_not_hold_up_training(tmp_path: Path) -> None:
    """F17: while the thread waits for the disk, steps go on; only the last save is waited for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    inject = ["-e", "trace=fsync", "-e", "inject=fsync:delay_enter=2000000"]
    command = ["strace", "-f", "-qq", "-o", str(tmp_path / "log"), "--seccomp-bpf", *inject, sys.executable, "-c", SLOW]
    subprocess.run([*command, str(tmp_path / "run")], check=True, env=environment)
    told = json.loads((tmp_path / "run/slow.json").read_text())
    checkpoints = tmp_path / "run/training/checkpoints"
    print(f"median step {1e3 * np.median(told['steps']):.1f} ms, longest {1e3 * told['steps'][-1]:.0f} ms, "
          f"stalled {1e3 * told['stalled']:.0f} ms in all")  # fmt: skip
    assert told["stalled"] < 2.0, "a single sync takes as long"
    assert (checkpoints / "step-00000400/manifest.json").exists()
