"""One trainer per run folder."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt2.checkpoint.lock import RunLock
from gpt2.errors import UserError
from tests.faults.harness import PATIENCE, kill, start, wait_for


def hold(path: str) -> None:
    """What another process does."""
    with RunLock(Path(path), print):
        time.sleep(PATIENCE)


def take_often(path: str, mark: str) -> None:
    """Hold it forty times; making `mark` fails if another is inside."""
    got = 0
    while got < 40:
        with contextlib.suppress(UserError), RunLock(Path(path), lambda line: None):
            Path(mark).mkdir()
            Path(mark).rmdir()
            got += 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "training" / "lock"


@pytest.fixture
def holder(path: Path) -> Iterator[Any]:
    """Another process that holds the lock."""
    process = start(hold, str(path))
    wait_for(lambda: path.exists() and path.read_text(), process)
    yield process
    kill(process)


def test_the_second_is_refused_and_told_who_the_first_is(path: Path, holder: Any) -> None:
    with pytest.raises(UserError, match=f"another training works in .*run: process {holder.pid} on"):
        RunLock(path, print).__enter__()
    assert json.loads(path.read_text())["host"] == platform.node()


def test_the_lock_of_a_killed_process_is_taken_over_and_that_is_said(path: Path, holder: Any) -> None:
    said: list[str] = []
    kill(holder)
    with RunLock(path, said.append):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert said == [f"lock: taken over from process {holder.pid} on {platform.node()}, since "
                    + said[0].partition("since ")[2]]  # fmt: skip
    assert "has ended without a word" in said[0]


def test_it_leaves_nothing_and_may_be_held_again(path: Path) -> None:
    for _ in range(2):
        with RunLock(path, pytest.fail), pytest.raises(UserError, match=f"process {os.getpid()}"):
            RunLock(path, pytest.fail).__enter__()
        assert not path.exists()


def test_one_at_a_time_when_many_want_it(path: Path, tmp_path: Path) -> None:
    """Files that are removed and made anew are where such locks go wrong."""
    processes = [start(take_often, str(path), str(tmp_path / "inside")) for _ in range(3)]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        RunLock(tmp_path / "file" / "training" / "lock", print).__enter__()
