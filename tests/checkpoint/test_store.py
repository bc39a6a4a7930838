"""Checkpoints: whole or not there, and never believed when damaged."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt2.checkpoint.sharded import read_tensors
from gpt2.checkpoint.store import (
    discard_after,
    newest_checkpoint,
    prune_checkpoints,
    require_checkpoint,
    save_checkpoint,
)
from gpt2.errors import CheckpointError, UserError

TENSORS = {"model": {"w": torch.arange(300.0)}, "optimizer": {"m": torch.ones(7, 3)}}


def save(root: Path, step: int) -> Path:
    return save_checkpoint(root, step, TENSORS, {"step": step, "name": "tëst"})


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 3)
    save(tmp_path, 12)
    checkpoint, skipped = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state, skipped) == (12, {"step": 12, "name": "tëst"}, [])
    assert torch.equal(checkpoint.tensors("model")["w"], TENSORS["model"]["w"])
    assert torch.equal(checkpoint.tensors("optimizer")["m"], TENSORS["optimizer"]["m"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nowhere") == (None, [])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete", "grow", "zero"])
def test_damage_is_noticed_and_the_one_before_wins(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    content = bytearray(file.read_bytes())
    draw = random.Random(name + damage)
    if damage == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif damage == "truncate":
        content = content[: draw.randrange(1, len(content))]
    elif damage == "empty":
        content = bytearray()
    elif damage == "grow":
        content += b"\0" if name != "manifest.json" else b"x"
    elif damage == "zero":
        at = draw.randrange(len(content) - 16)
        content[at : at + 16] = bytes(16) if bytes(content[at : at + 16]) != bytes(16) else b"\1" * 16
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(content)
    checkpoint, skipped = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert len(skipped) == 1
    assert "step-00000002" in skipped[0]


def test_files_of_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    first = save(tmp_path, 1)
    other = {**TENSORS, "optimizer": {"m": torch.zeros(7, 3)}}
    second = save_checkpoint(tmp_path, 2, other, {})
    (second / "optimizer.safetensors").write_bytes((first / "optimizer.safetensors").read_bytes())
    checkpoint, skipped = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert "optimizer.safetensors is damaged" in skipped[0]


def test_only_damaged_ones_is_an_error(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint of the run is whole: .*no manifest\.json"):
        require_checkpoint(tmp_path)


def steps(root: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted(root.glob("step-*"))]


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_newest_are_kept_and_the_leftovers_of_the_dead_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    (tmp_path / f".step-00000009.tmp-{dead_pid()}").mkdir()
    (tmp_path / f".step-00000010.tmp-{os.getppid()}").mkdir()  # a process that lives may still be writing
    prune_checkpoints(tmp_path)
    assert steps(tmp_path) == [3, 4]
    assert [path.name for path in tmp_path.glob(".step-*")] == [f".step-00000010.tmp-{os.getppid()}"]


def test_the_best_and_the_first_of_each_stretch_are_kept(tmp_path: Path) -> None:
    for step in range(30, 330, 30):
        save(tmp_path, step)
        prune_checkpoints(tmp_path, also=(60,), every=100)
    assert steps(tmp_path) == [60, 120, 210, 270, 300]
    assert newest_checkpoint(tmp_path)[1] == []


def test_a_deletion_that_fails_or_was_cut_off_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    with monkeypatch.context() as patch:  # the power goes off in the middle of a removal
        patch.setattr(shutil, "rmtree", lambda path: (path / "model.safetensors").unlink())
        prune_checkpoints(tmp_path)
    assert steps(tmp_path) == [1, 2, 3]
    assert require_checkpoint(tmp_path)[0].step == 3  # pyright: ignore
    assert newest_checkpoint(tmp_path, before=1) == (
        None,
        [f"{tmp_path}/step-00000001 is passed over: it has no manifest.json"],
    )
    prune_checkpoints(tmp_path)
    assert steps(tmp_path) == [2, 3]


def test_only_earlier_ones_if_that_is_asked_for(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    assert newest_checkpoint(tmp_path, before=3)[0].step == 3  # pyright: ignore
    discard_after(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/b", "..", "C:x", "\\\\host\\x", ""])
def test_a_manifest_cannot_name_what_lies_elsewhere(tmp_path: Path, name: str) -> None:
    manifest = save(tmp_path, 1) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = content["files"]["state.json"]
    manifest.write_text(json.dumps(content))
    assert "no file of a checkpoint" in newest_checkpoint(tmp_path)[1][0]


@pytest.mark.parametrize("version", [0, 99])
def test_other_format_is_named_and_what_a_newer_program_added_is_left_alone(tmp_path: Path, version: int) -> None:
    manifest = save(tmp_path, 1) / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "version": version}))
    assert f"its format is version {version}, this program reads 1" in newest_checkpoint(tmp_path)[1][0]
    manifest.write_text(json.dumps({**content, "parent": "none"}))
    assert newest_checkpoint(tmp_path)[1] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a file size limit, which Windows lacks")
def test_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the kernel refuses the write in the same way."""
    import resource
    import signal

    save(tmp_path, 1)
    big = {"model": {"w": torch.zeros(500_000)}}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(UserError, match="cannot write the checkpoint"):
            save_checkpoint(tmp_path, 2, big, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    checkpoint, skipped = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, skipped) == (1, [])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_no_room_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no room on the disk for checkpoint 1"):
        save_checkpoint(tmp_path, 1, {"model": {"w": torch.empty(2**50, device="meta")}}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/../b.safetensors", "C:\\x", "\\\\h\\x", ".."]
)
def test_an_index_cannot_name_what_lies_elsewhere(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "checkpoints", 1)
    shutil.copy(folder / "model.safetensors", tmp_path / "checkpoints/secret.safetensors")
    index = {"version": 1, "tensors": {"w": {"rows": 300, "files": [[name, 0, 300]]}}}
    (folder / "model.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is no file of this folder"):
        read_tensors(folder, "model")
