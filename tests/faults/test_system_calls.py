"""Faults F1, F1b, F1c, F5, F6, F23: a system call kills the process or fails, wherever that may be."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt2.checkpoint.store import newest_checkpoint, save_checkpoint
from gpt2.data import iter_documents, prepare_corpus, survey
from gpt2.tokenizer import Tokenizer
from tests.faults.harness import FULL, digest, needs_strace
from tests.faults.victim import CALLS, WHEN

pytestmark = needs_strace
ACTIONS = ["signal=KILL", "error=ENOSPC", "error=EIO", "error=EACCES"] if FULL else ["signal=KILL", "error=ENOSPC"]


def under_strace(kind: str, place: Path, action: str, log: Path) -> tuple[dict[str, int], int]:
    """Run victim.py; how each child ended, and how many faults were met."""
    injections = [part for call in CALLS[kind] for part in ("-e", f"inject={call}:{action}:when={WHEN}")]
    command = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(CALLS[kind])}", *injections]
    script = Path(__file__).with_name("victim.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*command, sys.executable, str(script), kind, str(place)], env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    ends = dict(line.split() for line in (place / "ends").read_text().splitlines())
    met = len(re.findall(r"\(INJECTED\)|killed by SIGKILL", log.read_text()))
    return {name: int(end) for name, end in ends.items()}, met


@pytest.mark.parametrize("action", ACTIONS)
def test_a_checkpoint_is_old_or_new_and_never_between(action: str, tmp_path: Path) -> None:
    faults = [f"{call}-{number}" for call, count in CALLS["save"].items() for number in range(1, count + 1)]
    old = {"model": {"w": torch.ones(100)}, "optimizer": {"m": torch.ones(50)}}
    for fault in faults:
        save_checkpoint(tmp_path / "place" / fault / "checkpoints", 1, old, {"generation": 1})
    ends, met = under_strace("save", tmp_path / "place", action, tmp_path / "log")
    assert met >= len(faults) - 1, "the faults were met"
    assert set(ends) == set(faults)
    for fault, end in ends.items():
        checkpoint, skipped = newest_checkpoint(tmp_path / "place" / fault / "checkpoints")
        assert checkpoint is not None, fault
        values = {float(v) for name in ("model", "optimizer") for t in checkpoint.tensors(name).values() for v in t}
        assert values == {float(checkpoint.step)}, f"{fault}: generations are mixed"
        assert checkpoint.state == {"generation": checkpoint.step}
        assert skipped == [], f"{fault}: nothing half written may look like a checkpoint"
        if end == 0:
            assert checkpoint.step == 2, f"{fault}: no success without a checkpoint"
        elif action != "signal=KILL":
            assert end == 2, (fault, (tmp_path / "place" / fault / "error").read_text())
            assert "checkpoint" in (tmp_path / "place" / fault / "error").read_text()
            assert not list((tmp_path / "place" / fault / "checkpoints").glob(".step-*")), f"{fault} left something"
        else:
            assert end == -9
    assert sum(end != 0 for end in ends.values()) >= len(faults) - 4


def test_what_the_manifest_promises_is_on_the_disk_before_it_counts(tmp_path: Path) -> None:
    """F1c: every file synced, then the manifest, then the folder, then the rename, then the folder above."""
    (tmp_path / "place" / "fsync-0").mkdir(parents=True)  # waits for its 0th fsync, so that none fails
    log, script = tmp_path / "log", Path(__file__).with_name("victim.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = ["strace", "-f", "-qq", "-y", "-o", str(log), "-e", "trace=fsync,fdatasync,rename,renameat,renameat2"]
    subprocess.run(
        [*command, sys.executable, str(script), "save", str(tmp_path / "place")], check=True, env=environment
    )
    lines = [line for line in log.read_text().splitlines() if "/checkpoints" in line]
    synced = [Path(match[1]).name for line in lines if (match := re.search(r"f(?:data)?sync\(\d+<([^>]+)>", line))]
    manifest = synced.index("manifest.json")
    assert sorted(synced[:manifest]) == ["model.safetensors", "optimizer.safetensors", "state.json"], "each once"
    assert synced[manifest + 1].startswith(".step-00000002.tmp-")
    assert synced[manifest + 2 :] == ["checkpoints"]
    (rename,) = [
        n
        for n, line in enumerate(lines)
        if "rename" in line and line.rstrip().endswith("= 0") and 'step-00000002")' in line
    ]
    syncs = [n for n, line in enumerate(lines) if "sync(" in line]
    assert syncs[manifest + 1] < rename < syncs[manifest + 2]


@pytest.mark.parametrize("action", ACTIONS[:2])
def test_preparing_is_continued_from_any_fault_to_the_same_bytes(action: str, tmp_path: Path) -> None:
    """F23."""
    place = tmp_path / "place"
    place.mkdir()
    stories = [story for _, story in zip(range(60), iter_documents(), strict=False)]
    (place / "text.txt").write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    tokenizer = Tokenizer.train(stories, 400)
    tokenizer.save(place / "tokenizer.json")
    every = 1 if FULL else 4
    faults = [f"{call}-{n}" for call, count in CALLS["prepare"].items() for n in range(1, count + 1, every)]
    for fault in faults:
        (place / fault).mkdir()
    ends, met = under_strace("prepare", place, action, tmp_path / "log")
    assert met >= len(faults) // 2
    corpus = survey([place / "text.txt"], cache=place / "surveys", progress=False)

    def shards(cache: Path, workers: int) -> dict[str, str]:
        prepared = prepare_corpus(corpus, tokenizer, cache=cache, shard_ids=2500, workers=workers, progress=False)
        files = sorted(path for path in prepared.train.folder.parent.rglob("*") if path.is_file())
        return {str(path.relative_to(cache)): digest(path) for path in files}

    clean = shards(tmp_path / "clean", 1)
    assert len(clean) > 8, "several shards"
    for fault, end in ends.items():
        if action == "signal=KILL":
            assert end in (0, -9), fault
        else:
            assert end in (0, 2), (fault, (place / fault / "error").read_text())
        assert shards(place / fault, 1) == clean, fault
        assert not list((place / fault / "shards").glob("*.partial*"))
        shutil.rmtree(place / fault)


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    stories = [story for _, story in zip(range(60), iter_documents(), strict=False)]
    (tmp_path / "text.txt").write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    tokenizer = Tokenizer.train(stories, 400)
    corpus = survey([tmp_path / "text.txt"], cache=tmp_path / "surveys", progress=False)
    found = []
    for workers in (1, 2, 4):
        cache = tmp_path / str(workers)
        prepare_corpus(corpus, tokenizer, cache=cache, shard_ids=2500, workers=workers, progress=False)
        files = sorted(p for p in cache.rglob("*") if p.is_file() and p.suffix in (".ids", ".npy", ".json"))
        found.append({p.name + p.parent.name: digest(p) for p in files if "shards" in p.parts})
    assert found[0] == found[1] == found[2]
