"""Faults F3, F4, F12: damaged bytes are never loaded without a word. Over 300 damages, each drawn from a seed."""

import contextlib
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2 import GPT2, GPT2Config, load
from gpt2.checkpoint.store import newest_checkpoint, save_checkpoint
from gpt2.data import iter_documents
from gpt2.data.shard_writer import EncodedPieces, write_shards
from gpt2.data.shards import TokenShards
from gpt2.errors import DataError, UserError
from gpt2.manifest import write_manifest
from gpt2.tokenizer import Tokenizer
from tests.faults.harness import FULL

SEEDS = 300 if FULL else 35
KINDS = ("flip", "flip", "flip", "zero", "truncate", "empty", "grow", "swap", "delete")


def damage(path: Path, draw: random.Random) -> str:
    """Harm a file; says how. The bytes are different afterwards, or gone."""
    kind, before = draw.choice(KINDS), path.read_bytes()
    content = bytearray(before)
    if kind == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "zero":
        start = draw.randrange(len(content))
        content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    elif kind == "truncate":
        content = content[: draw.randrange(len(content))]
    elif kind == "empty":
        content = bytearray()
    elif kind == "grow":
        content += draw.randbytes(draw.randrange(1, 9))
    elif kind == "swap":  # two stretches change places
        half, size = len(content) // 2, draw.randrange(1, max(2, len(content) // 3))
        content[:size], content[half : half + size] = content[half : half + size], content[:size]
    if kind == "delete":
        path.unlink()
    elif bytes(content) == before:
        return damage(path, draw)
    else:
        path.write_bytes(content)
    return kind


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    draw = torch.Generator().manual_seed(0)
    for step in (1, 2):
        tensors = {name: {"w": torch.randn(40, 50, generator=draw)} for name in ("model", "average", "optimizer")}
        save_checkpoint(root, step, tensors, {"trainer": {"step": step, "tokens": 64 * step}, "note": "é"})
    return root


FILES = ["model.safetensors", "average.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
def test_no_damaged_checkpoint_is_loaded(name: str, checkpoints: Path, tmp_path: Path) -> None:
    for seed in range(SEEDS):
        root = tmp_path / str(seed)
        shutil.copytree(checkpoints, root)
        kind = damage(root / "step-00000002" / name, random.Random(f"{name} {seed}"))
        checkpoint, skipped = newest_checkpoint(root)
        assert checkpoint is not None
        assert checkpoint.step == 1, f"{kind} of {name} with seed {seed} was loaded"
        assert "step-00000002 is passed over" in skipped[0]
        assert name in skipped[0] or name == "manifest.json"
        shutil.rmtree(root)


@pytest.mark.parametrize("name", FILES[:4])
def test_a_file_of_another_checkpoint_is_noticed(name: str, checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, tmp_path / "c")
    shutil.copy(tmp_path / "c/step-00000001" / name, tmp_path / "c/step-00000002" / name)
    checkpoint, skipped = newest_checkpoint(tmp_path / "c")
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert f"{name} is damaged" in skipped[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    tokenizer = Tokenizer.train(["the cat sat on the mat. " * 20], 280, allow_fewer=True)
    config = GPT2Config(vocab_size=320, context_length=16, d_model=16, num_layers=1, num_heads=2, eos_token_id=0)
    GPT2(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder, model_max_length=16)
    write_manifest(folder)
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_no_damaged_model_of_a_finished_run_is_loaded(name: str, finished: Path, tmp_path: Path) -> None:
    for seed in range(SEEDS):
        folder = tmp_path / str(seed)
        shutil.copytree(finished, folder)
        kind = damage(folder / name, random.Random(f"{name} {seed}"))
        with pytest.raises(UserError, match=name):
            pytest.fail(f"{kind} of {name} with seed {seed} was loaded: {load(folder)}")
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_changes_of_what_people_edit_are_told(name: str, finished: Path, tmp_path: Path) -> None:
    for seed in range(SEEDS):
        folder = tmp_path / str(seed)
        shutil.copytree(finished, folder)
        if damage(folder / name, random.Random(f"{name} {seed}")) != "delete":
            with pytest.warns(UserWarning, match=rf"{name} is not what the run wrote"), contextlib.suppress(UserError):
                load(folder)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "train"
    texts = [text for _, text in zip(range(40), iter_documents(), strict=False)]
    tokenizer = Tokenizer.train(texts, 400)

    def pieces(skip: int):
        for text in texts[skip:]:
            ids = np.array(tokenizer.encode(text), "<u2")
            yield EncodedPieces(ids, *(np.array([value]) for value in (len(ids), len(text.encode()), True)))

    write_shards(folder, tokenizer, pieces, shard_ids=4000)
    assert len(list(folder.glob("*.ids"))) >= 2
    return folder


@pytest.mark.parametrize("name", ["00000.ids", "00001.ids", "00000.npy", "00001.npy", "index.json"])
def test_no_damaged_shard_is_loaded(name: str, shards: Path, tmp_path: Path) -> None:
    for seed in range(2 * SEEDS if name == "index.json" else SEEDS):
        folder = tmp_path / str(seed)
        shutil.copytree(shards, folder)
        kind = damage(folder / name, random.Random(f"{name} {seed}"))
        with pytest.raises(DataError, match=r".*" if name == "index.json" else name):
            pytest.fail(f"{kind} of {name} with seed {seed} was loaded: {TokenShards.open(folder)}")
        shutil.rmtree(folder)
