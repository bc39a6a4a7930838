"""One trainer per run folder."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.checkpoint.lock import RunLock
from gpt2.errors import UserError
from tests.faults.harness import PATIENCE

HOLD = """
import sys, time
from pathlib import Path
from gpt2.checkpoint.lock import RunLock
with RunLock(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "training" / "lock"


def hold(path: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_and_told_who_the_first_is(path: Path) -> None:
    with hold(path) as process:
        try:
            with pytest.raises(UserError, match=f"another training works in .*run: process {process.pid} on"):
                RunLock(path, print).__enter__()
            assert json.loads(path.read_text())["host"] == platform.node()
        finally:
            process.kill()


def test_the_lock_of_a_killed_process_is_taken_over_and_that_is_said(path: Path) -> None:
    said: list[str] = []
    with hold(path) as process:
        process.kill()
    with RunLock(path, said.append):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert said == [f"lock: taken over from process {process.pid} on {platform.node()}, since "
                    + said[0].partition("since ")[2]]  # fmt: skip
    assert "has ended without a word" in said[0]


def test_it_leaves_nothing_and_may_be_held_again(path: Path) -> None:
    for _ in range(2):
        with RunLock(path, pytest.fail), pytest.raises(UserError, match=f"process {os.getpid()}"):
            RunLock(path, pytest.fail).__enter__()
        assert not path.exists()


def test_one_at_a_time_when_many_want_it(path: Path, tmp_path: Path) -> None:
    """Files that are removed and made anew are where such locks go wrong."""
    code = """
import sys, time
from pathlib import Path
from gpt2.checkpoint.lock import RunLock
from gpt2.errors import UserError
from tests.faults.harness import PATIENCE
path, mark, got = Path(sys.argv[1]), Path(sys.argv[2]), 0
end = time.monotonic() + 600
while got < 40 and time.monotonic() < end:
    try:
        with RunLock(path, lambda s: None):
            mark.mkdir()  # fails if another is inside
            mark.rmdir()
            got += 1
    except UserError:
        pass
sys.exit(got != 40)
"""
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "inside")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        RunLock(tmp_path / "file" / "training" / "lock", print).__enter__()
