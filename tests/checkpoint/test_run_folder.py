"""A run folder is one trainer's, and what a killed one left half written goes."""

from pathlib import Path

import pytest

from gpt2.checkpoint.run_folder import RunFolder
from gpt2.errors import UserError


def test_the_halves_that_a_killed_run_left_are_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.snapshots.mkdir(parents=True)
    whole = [folder.path / "model.safetensors", folder.metrics, folder.snapshots / "step-00000009.safetensors"]
    halves = [path.with_name(f".{path.name}.tmp-a1b2c3") for path in whole]
    for path in whole + halves:
        path.write_bytes(b"x")
    with folder.held(print):
        assert not any(path.exists() for path in halves)
        assert all(path.exists() for path in [*whole, folder.lock])
    assert not folder.lock.exists()


def test_who_is_refused_removes_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.held(print):
        half = folder.training / ".metrics.jsonl.tmp-a1b2c3"
        half.touch()  # the holder's, at work
        with pytest.raises(UserError, match="another training"), RunFolder(folder.path).held(print):
            pass
        assert half.exists()
