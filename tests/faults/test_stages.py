"""Faults F1 and F8: killed at each stage of a save, stopped at steps of every kind; the end has the same bits."""

import os
import signal
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gpt2.checkpoint.store import newest_checkpoint
from gpt2.data import iter_documents
from tests.faults.harness import FULL, PATIENCE, TINY, hashes, needs_fork, start, steps_saved, train_in

pytestmark = needs_fork
STAGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
"""What a save does to the file system, as Python tells those who listen."""


def killed_in_a_save(folder: str, options: dict[str, Any], save: int, stage: int) -> None:
    """Train, and die by SIGKILL before the thread that saves does the `stage`-th thing of its `save`-th save."""
    folders, stages = set[str](), count(1)

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in STAGES or threading.current_thread().name != "checkpoint writer":
            return
        if event == "os.mkdir" and ".tmp-" in str(arguments[0]):
            folders.add(str(arguments[0]))  # the first save makes its folder twice: its parent was missing
        if len(folders) == save and next(stages) == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(listen)
    train_in(folder, options)


@pytest.mark.parametrize("save", [2, 3] if FULL else [3])
def test_killed_at_each_stage_of_a_save_the_run_ends_with_the_same_bits(
    save: int, tmp_path: Path, options: dict[str, object], reference: dict[str, str]
) -> None:
    """F1. The third save also removes the first one's checkpoint, and is killed in that."""
    stages = []
    for stage in count(1, 1 if FULL else 7):
        folder = tmp_path / f"run{stage}"
        process = start(killed_in_a_save, str(folder), options, save, stage)
        process.join(PATIENCE)
        if process.exitcode == 0:  # a save has no more stages
            break
        assert process.exitcode == -signal.SIGKILL
        stages.append(stage)
        checkpoint, _ = newest_checkpoint(folder / "training/checkpoints")
        assert checkpoint is not None, "the save before is whole"
        assert len(list((folder / "training/checkpoints").glob(".step-*"))) <= 1
        process = start(train_in, str(folder), options)
        process.join(PATIENCE)
        assert process.exitcode == 0
        assert hashes(folder) == reference, f"killed at stage {stage} of save {save}"
        assert not list(folder.rglob(".*.tmp-*")), "what the dead left is cleared away"
    print(f"\nsave {save}: {len(stages)} kills, the last at stage {stages[-1]}")
    assert stages[-1] >= 15, "a save makes a folder, four files and a manifest, syncs and hashes them, and renames"


def stopped(folder: str, options: dict[str, Any], step: int) -> None:
    """Train, and get a SIGTERM during that step."""
    from gpt2.data.loader import BatchLoader

    original = BatchLoader.batch

    def batch(self: BatchLoader, number: int, part: int = 0, parts: int = 1) -> Any:
        if number == step - 1 and part == 1:  # between two parts of the batch
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, number, part, parts)

    BatchLoader.batch = batch  # type: ignore[method-assign]
    train_in(folder, options)


@pytest.mark.parametrize("kind", ["dropout", "bfloat16", pytest.param("compiled", marks=pytest.mark.skipif(
    not FULL, reason="compiles three times: make faults"))])  # fmt: skip
def test_stopped_at_any_kind_of_step_the_rest_is_the_same(kind: str, tmp_path: Path) -> None:
    """F8: after the first step, before, at and after an epoch's end, before the last step and after it."""
    text = tmp_path / "stories.txt"
    count = 6 if kind == "bfloat16" else 12  # slow, where the processor does not compute it
    text.write_text("\n<|endoftext|>\n".join(story for _, story in zip(range(count), iter_documents(), strict=False)))
    special = {"dropout": {"dropout": 0.2}, "bfloat16": {"dtype": "bfloat16"}, "compiled": {"compile": "on"}}[kind]
    options = {**TINY, "text": [str(text)], "epochs": 2, "save_every": 1000, **special}
    process = start(train_in, str(tmp_path / "whole"), options)
    process.join(PATIENCE)
    assert process.exitcode == 0
    wanted, last = hashes(tmp_path / "whole"), steps_saved(tmp_path / "whole")[-1]
    steps = {1, last // 2 - 1, last // 2, last // 2 + 1, last - 1, last} if FULL else {1, last // 2, last}
    for step in sorted(steps if kind != "compiled" else {last // 2}):
        folder = tmp_path / f"stopped-{step}"
        process = start(stopped, str(folder), options, step)
        process.join(PATIENCE)
        assert process.exitcode == 143
        assert steps_saved(folder) == [step], "asked in the middle of a step, it saves at the end of it"
        process = start(train_in, str(folder), options)
        process.join(PATIENCE)
        assert process.exitcode == 0
        assert hashes(folder) == wanted, f"stopped after step {step} of {last}"
