"""Snapshots: when they are made, what they hold, and that a resumed run leaves the ones of a run never stopped."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2 import GPT2, GPT2Config, load, train
from gpt2.checkpoint.snapshots import list_snapshots, save_snapshot
from gpt2.data import iter_documents
from gpt2.errors import CheckpointError, ConfigError
from gpt2.training.snapshots import snapshot_count, snapshot_shares

TINY: dict[str, Any] = {
    "d_model": 32, "num_layers": 1, "num_heads": 2, "context_length": 32, "vocab_size": 400, "batch_size": 4,
    "progress": False, "dtype": "float32", "evals": 2,
}  # fmt: skip


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "stories.txt"
    stories = [story for _, story in zip(range(60), iter_documents(), strict=False)]
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return path


def test_shares_begin_at_the_start_and_end_at_the_end() -> None:
    shares = snapshot_shares(12)
    assert len(shares) == 12
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    gaps = [b - a for a, b in itertools.pairwise(shares)]
    assert gaps[1:] == sorted(gaps[1:])
    assert snapshot_shares(1) == [0.0]
    assert snapshot_shares(0) == []


def test_large_models_keep_none_unasked() -> None:
    assert (
        snapshot_count(None, GPT2Config(vocab_size=2048, context_length=256, d_model=128, num_layers=4, num_heads=4))
        == 12
    )
    assert snapshot_count(None, GPT2Config()) == 0
    assert snapshot_count(5, GPT2Config()) == 5
    with pytest.raises(ConfigError, match="snapshots must be 0 or more"):
        train(["x.txt"], snapshots=-1)


def test_a_run_keeps_them_and_a_resumed_one_the_same(text: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    train([text], out=whole, steps=30, snapshots=5, **TINY)
    kept = list_snapshots(whole / "training/snapshots")
    assert [snapshot.step for snapshot in kept] == [0, 7, 11, 18, 30]
    assert [snapshot.tokens for snapshot in kept] == [step * 4 * 32 for step in (0, 7, 11, 18, 30)]
    model, _ = load(whole)
    untrained = GPT2(model.config, generator=torch.Generator().manual_seed(0))
    kept[0].load_into(model)
    for (name, a), (_, b) in zip(model.named_parameters(), untrained.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=name)

    resumed = tmp_path / "resumed"
    train([text], out=resumed, steps=30, snapshots=5, save_every=10, **TINY)
    for step in (20, 30):  # as if stopped after step 10
        for path in (resumed / "training/checkpoints").glob(f"step-{step:08d}"):
            shutil.rmtree(path)
    stale = save_snapshot(resumed / "training/snapshots", untrained, 29, 1)
    train(resume=str(resumed), progress=False)
    assert not stale.exists()
    for snapshot in kept:
        other = resumed / "training/snapshots" / snapshot.path.name
        assert other.read_bytes() == snapshot.path.read_bytes(), snapshot.step


def test_a_damaged_snapshot_is_refused_by_name(tmp_path: Path, tiny_model: GPT2) -> None:
    path = save_snapshot(tmp_path, tiny_model, 3, 12)
    (snapshot,) = list_snapshots(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="step-00000003"):
        snapshot.load_into(tiny_model)
    save_snapshot(
        tmp_path, GPT2(GPT2Config(vocab_size=10, context_length=8, d_model=8, num_layers=1, num_heads=1)), 3, 12
    )
    with pytest.raises(CheckpointError, match="cannot be used"):
        snapshot.load_into(tiny_model)
