"""Faults F5, F6, F15: a disk that is full, a folder that may not be written, an old checkpoint that cannot be removed."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt2.checkpoint.store import newest_checkpoint
from gpt2.cli import main
from tests.faults.harness import PATIENCE, kill, start, steps_saved
from tests.stories import write_stories

pytestmark = pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="permissions as Linux has them")

SIZES = ["--d-model", "32", "--num-layers", "1", "--num-heads", "2", "--vocab-size", "300", "--context-length", "32",
         "--batch-size", "4", "--dtype", "float32", "--compile", "off", "--snapshots", "0"]  # fmt: skip
FOREVER = [*SIZES, "--steps", "10000000", "--evals", "1", "--save-every", "20"]


def bound_by_permissions() -> None:
    """Root may write anywhere, unless it gives that up."""
    if os.geteuid() == 0:
        import ctypes

        override, read_search = 1 << 1, 1 << 2
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of the interface, this process
        held = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, each in two words
        assert ctypes.CDLL(None).capget(header, held) == 0
        held[0] &= ~(override | read_search)
        held[1] &= ~(override | read_search)
        assert ctypes.CDLL(None).capset(header, held) == 0


def command(said: str, arguments: list[str]) -> None:
    """`gpt2` in this process, bound by permissions; what it says goes to a pipe."""
    pipe = os.open(said, os.O_WRONLY)
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    bound_by_permissions()
    os._exit(main(arguments))


class Training:
    """`gpt2 train` in a process of its own."""

    def __init__(self, pipe: Path, arguments: list[str]) -> None:
        os.mkfifo(pipe)
        self.process = start(command, str(pipe), arguments)
        self.said = pipe.open(encoding="utf-8")

    @property
    def status(self) -> int | None:
        """None while it runs."""
        return self.process.exitcode

    def hear(self, words: str) -> str:
        """Read what it says until those words come; gives all of it."""
        said = ""
        for line in self.said:
            said += line
            if words in line:
                return said
        return pytest.fail(f"it never said {words!r}, but: {said}")

    def end(self, number: int = 0) -> str:
        """Send a signal, if any, and wait; gives the rest of what it said."""
        if number:
            os.kill(self.process.pid, number)
        said = self.said.read()
        self.process.join(PATIENCE)
        return said


Train = Callable[..., Training]


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Train]:
    """Starts `gpt2 train` on 40 stories: (out, *options); what it says can be read line by line."""
    text, running = write_stories(tmp_path / "stories.txt", 40), []

    def run(out: Path, *options: str, resume: bool = False) -> Training:
        what = ["--resume", str(out)] if resume else [str(text), "--out", str(out), *options]
        running.append(Training(tmp_path / f"said-{len(running)}", ["train", *what]))
        return running[-1]

    yield run
    for process in running:
        kill(process.process)
        process.said.close()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0 if hasattr(os, "geteuid") else True, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_during_training(train: Train, tmp_path: Path) -> None:
    """F5, on a real disk of 3 MB: training goes on and says so; the last save fails, so it ends with status 2."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        process = train(disk / "run", *FOREVER)
        while not steps_saved(disk / "run"):
            assert process.status is None
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        process.hear("NOT SAVED, training goes on: no room on the disk")
        said = process.end(signal.SIGINT)
        assert process.status == 2, said
        assert "Traceback" not in said
        assert newest_checkpoint(disk / "run/training/checkpoints")[0] is not None
        assert not list((disk / "run/training/checkpoints").glob(".step-*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_may_not_be_written_is_refused_before_the_first_step(train: Train, tmp_path: Path) -> None:
    """F6: a new run, and one that is to be resumed."""
    (tmp_path / "closed").mkdir()
    with read_only(tmp_path / "closed"):
        process = train(tmp_path / "closed/run", *SIZES, "--steps", "5")
        said = process.end()
        assert process.status == 2, said
        assert f"gpt2: error: cannot write to {tmp_path}/closed/run" in said
        assert not any(words in said for words in ("Traceback", "validation loss"))
    process = train(tmp_path / "run", *FOREVER)
    while not steps_saved(tmp_path / "run"):
        assert process.status is None
    said = process.end(signal.SIGINT)
    assert process.status == 130, said
    before = (tmp_path / "run/training/metrics.jsonl").read_bytes()
    for folder in ("", "training", "training/checkpoints"):
        with read_only(tmp_path / "run" / folder):
            process = train(tmp_path / "run", resume=True)
            said = process.end()
            assert process.status == 2, (folder, said)
            assert f"gpt2: error: cannot write to {tmp_path / 'run' / folder}: Permission denied" in said
            assert "Traceback" not in said
    assert (tmp_path / "run/training/metrics.jsonl").read_bytes() == before


def test_a_folder_that_may_no_longer_be_written_costs_only_the_saves_until_it_may(train: Train, tmp_path: Path) -> None:
    """F6: no success is told that was none, and the next save after the folder is open again succeeds."""
    checkpoints = tmp_path / "run/training/checkpoints"
    process = train(tmp_path / "run", *FOREVER)
    while not steps_saved(tmp_path / "run"):
        assert process.status is None, process.hear("never")
    with read_only(checkpoints):
        process.hear("NOT SAVED, training goes on: cannot write the checkpoint")
        before = steps_saved(tmp_path / "run")
    while steps_saved(tmp_path / "run") == before:
        assert process.status is None
    with read_only(checkpoints):
        process.hear("NOT SAVED")
        said = process.end(signal.SIGTERM)
    assert process.status == 2, said
    assert "gpt2: error: cannot write the checkpoint" in said
    assert "everything is saved" not in said
    assert newest_checkpoint(checkpoints)[0] is not None
    assert newest_checkpoint(checkpoints)[1] == []


def test_an_old_checkpoint_that_cannot_be_removed_ends_nothing(train: Train, tmp_path: Path) -> None:
    """F15: it is said at each save."""
    checkpoints = tmp_path / "run/training/checkpoints"
    process = train(tmp_path / "run", *FOREVER)
    while len(steps_saved(tmp_path / "run")) < 2:
        assert process.status is None
    process.end(signal.SIGINT)
    assert process.status == 130
    oldest = checkpoints / f"step-{steps_saved(tmp_path / 'run')[0]:08d}"
    with read_only(oldest):
        process = train(tmp_path / "run", resume=True)
        for _ in range(2):
            process.hear(f"cannot remove the checkpoint {oldest}: Permission denied; it takes room")
        assert "everything is saved" in process.end(signal.SIGTERM)
    assert process.status == 143
    assert oldest.exists()
    assert newest_checkpoint(checkpoints)[1] == []
