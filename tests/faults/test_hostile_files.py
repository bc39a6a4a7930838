"""S1 and S3 to S6: model files from strangers. Refused with a clear error; nothing runs, hangs, or eats the memory."""

import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2 import GPT2, GPT2Config, Tokenizer
from gpt2.interop.importing import import_model
from tests.faults.harness import needs_fork
from tests.faults.hostile import Malicious, attempt, nanogpt

pytestmark = [needs_fork, pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    tokenizer = Tokenizer.train(["the cat sat on the mat. " * 20], 280, allow_fewer=True)
    GPT2(GPT2Config(vocab_size=320, context_length=16, d_model=16, num_layers=1, num_heads=2)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
WEIGHTS: dict[str, bytes] = {
    "header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "header of 101 MB": struct.pack("<Q", 101 << 20) + b" " * 1000,
    "header is no JSON": safetensors(b"\xff\xfe{"),
    "offsets beyond the file": safetensors({"w": {**F32, "data_offsets": [0, 1 << 40]}}, bytes(16)),
    "offsets go backwards": safetensors({"w": {**F32, "data_offsets": [16, 0]}}, bytes(16)),
    "tensors overlap": safetensors({"w": F32, "v": {**F32, "data_offsets": [8, 24]}}, bytes(24)),
    "holes in the data": safetensors({"w": F32}, bytes(400)),
    "a million million numbers": safetensors({"w": {**F32, "shape": [10**12]}}, bytes(16)),
    "a shape that overflows": safetensors({"w": {**F32, "shape": [1 << 62, 1 << 62]}}, bytes(16)),
    "negative shape": safetensors({"w": {**F32, "shape": [-4]}}, bytes(16)),
    "unknown type": safetensors({"w": {**F32, "dtype": "F33"}}, bytes(16)),
    "nested without end": safetensors(b'{"a":' * 5000),
    "other names": safetensors({"w": F32}, bytes(16)),
    "a pickle by that name": pickle.dumps({"w": 1}),
    "empty": b"",
}


both_ways = pytest.mark.parametrize("way", ["load", "import"])


def require_refused(path: Path, tmp_path: Path, way: str) -> str:
    """What `load` or `gpt2 import` says to it; an import leaves nothing behind."""
    said = attempt(path, tmp_path, way)
    assert said.startswith("refused: ")
    assert not Path(f"{path}-imported").exists()
    return said


@both_ways
@pytest.mark.parametrize("how", WEIGHTS)
def test_weights(how: str, way: str, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "m")
    (tmp_path / "m/model.safetensors").write_bytes(WEIGHTS[how])
    require_refused(tmp_path / "m", tmp_path, way)


def edited(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda config: json.dumps({**config, **changes})


HARMLESS: dict[str, Callable[[dict[str, Any]], str]] = {  # what they name is never looked for
    "code to import": edited(auto_map={"AutoModelForCausalLM": "evil.Model"}, trust_remote_code=True),
    "internal attention key": edited(_attn_implementation_internal="evil/kernel"),
    "chat template": edited(chat_template="{{ ''.__class__.__mro__ }}"),
}
CONFIGS: dict[str, Callable[[dict[str, Any]], str]] = {
    "negative width": edited(n_embd=-16),
    "a width of 1e18": edited(n_embd=10**18),
    "all at their largest": edited(n_embd=16_384, n_layer=256, n_head=1, vocab_size=10**6, n_positions=10**6),
    "text for a number": edited(n_layer="1"),
    "NaN": edited(n_layer=float("nan")),
    "infinite dropout": edited(resid_pdrop=float("inf")),
    "a list for a number": edited(n_head=[2]),
    "other activation": edited(activation_function="__import__('os').system('true')"),
    "end of text beyond the vocabulary": edited(eos_token_id=10**9),
    "nested without end": lambda config: "[" * 100_000,
    "50 MB": lambda config: json.dumps({**config, "x": "y" * 50_000_000}),
    "no object": lambda config: "[]",
    "a number of a million digits": lambda config: '{"n_layer": ' + "9" * 1_000_000 + "}",
    "lone surrogate": lambda config: json.dumps({**config, "model_type": "\ud800"}),
}


def with_config(make: Callable[[dict[str, Any]], str], good: Path, folder: Path) -> Path:
    shutil.copytree(good, folder)
    (folder / "config.json").write_text(make(json.loads((good / "config.json").read_text())))
    return folder


@both_ways
@pytest.mark.parametrize("how", CONFIGS)
def test_configuration(how: str, way: str, good: Path, tmp_path: Path) -> None:
    require_refused(with_config(CONFIGS[how], good, tmp_path / "m"), tmp_path, way)


@pytest.mark.parametrize("how", HARMLESS)
def test_what_a_configuration_names_is_not_run(how: str, good: Path, tmp_path: Path) -> None:
    """Nor by transformers, with which an import is compared."""
    folder = with_config(HARMLESS[how], good, tmp_path / "m")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    assert attempt(folder, tmp_path) == "loaded"
    assert import_model(str(folder), out=tmp_path / "out").verified is not None
    assert not (tmp_path / "ran").exists()


Change = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
"""From what is in a good tokenizer.json, and its model, to the entries to put there instead."""


def pre_tokenizer(*parts: dict[str, Any]) -> dict[str, Any]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*parts, level]}}


def merged(*merges: Any) -> Change:
    return lambda _, model: {"model": {**model, "merges": list(merges)}}


def named(**ids: int) -> Change:
    return lambda _, model: {"model": {**model, "vocab": {**model["vocab"], **ids}}}


SLOW = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
TOKENIZERS: dict[str, Change | str] = {
    "merge of unknown tokens": merged(["zzz", "yyy"]),
    "merge of one": merged(["a"]),
    "id beyond all": named(new=10**12),
    "negative id": named(new=-1),
    "two tokens with one id": named(new=5),
    "regex that takes for ever": lambda *_: pre_tokenizer(SLOW),
    "other model": lambda _, model: {"model": {"type": "WordPiece", "vocab": model["vocab"]}},
    "50 MB": lambda *_: {"x": "y" * 50_000_000},
    "nested without end": "[" * 100_000,
    "not UTF-8": "\udcff",
    "normalizers in normalizers": lambda *_: {"normalizer": nested("Sequence", "normalizers", 300)},
    "normalizers that are a number": lambda *_: {"normalizer": {"type": "Sequence", "normalizers": 5}},
    "pre-tokenizers that are a number": lambda *_: {"pre_tokenizer": {"type": "Sequence", "pretokenizers": 5}},
    "an added token of 20 MB": lambda _, model: {"added_tokens": [added(len(model["vocab"]), "x" * 20_000_000)]},
    "an added token that is a list": lambda _, model: {
        "added_tokens": [{**added(len(model["vocab"]), "x"), "special": ["yes"]}]},
    "a vocabulary that is a list": lambda _, model: {"model": {**model, "vocab": list(model["vocab"])}},
    "merges that are a number": lambda _, model: {"model": {**model, "merges": 5}},
    "a merge of numbers": merged([1, 2]),
    "a million tokens and no model so large": lambda content, model: named(
        **{f"a{n}": n for n in range(len(model["vocab"]), 999_000)})(content, model),
    "more ids than the model": lambda _, model: {
        "added_tokens": [added(n, f"<{n}>") for n in range(len(model["vocab"]), 500)]},
}  # fmt: skip


def added(number: int, text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, "special": True, **flags}


def nested(kind: str, key: str, depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        value = {"type": kind, key: [value]}
    return value


@pytest.mark.parametrize("way", ["load", "import", "beside nanoGPT"])
@pytest.mark.parametrize("how", TOKENIZERS)
def test_tokenizer(how: str, way: str, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "m")
    change, content = TOKENIZERS[how], json.loads((good / "tokenizer.json").read_text())
    made = change if isinstance(change, str) else json.dumps({**content, **change(content, content["model"])})
    (tmp_path / "m/tokenizer.json").write_bytes(made.encode("utf-8", "surrogateescape"))
    if way == "beside nanoGPT":
        way = str(nanogpt(tmp_path / "ckpt.pt"))
    assert attempt(tmp_path / "m", tmp_path, way).startswith("refused: ")
    assert not (tmp_path / "m-imported").exists()


@pytest.mark.parametrize("how", ["50 MB of merges", "merges of unknown tokens", "merges that are no text", "ids"])
def test_vocabulary_and_merges(how: str, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "m")
    content = json.loads((tmp_path / "m/tokenizer.json").read_text())["model"]
    (tmp_path / "m/tokenizer.json").unlink()
    vocab, merges = content["vocab"], "\n".join(map(" ".join, content["merges"])).encode()
    (tmp_path / "m/vocab.json").write_text(json.dumps({**vocab, "new": 10**12} if how == "ids" else vocab))
    spoilt = {"50 MB of merges": b"a b\n" * 12_500_000, "merges of unknown tokens": b"zzz yyy\n"}
    (tmp_path / "m/merges.txt").write_bytes(spoilt.get(how, b"\xff\xfe" if "no text" in how else merges))
    for way in ("load", "import"):
        require_refused(tmp_path / "m", tmp_path, way)


@both_ways
@pytest.mark.parametrize("name", ["gpt2_model.pt", "pytorch_model.bin", "model.safetensors", "weights.pth"])
def test_pickles_run_nothing(name: str, way: str, good: Path, tmp_path: Path) -> None:
    """S1."""
    shutil.copytree(good, tmp_path / "m")
    (tmp_path / "m/model.safetensors").unlink()
    path = tmp_path / "m" / name
    for write in (torch.save, lambda value, place: place.write_bytes(pickle.dumps(value))):
        write({"w": Malicious(tmp_path / "ran")}, path)
        require_refused(path if path.suffix.startswith(".pt") else path.parent, tmp_path, way)
        assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Less than three megabytes that claim to be a gigabyte and a half of weights."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.pt"
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for name, content in parts.items():
            with target.open(name, "w", force_zip64=True) as file:
                if name.endswith("data/0"):
                    for _ in range(1500):
                        file.write(bytes(1 << 20))
                else:
                    file.write(content.replace(b"K\x04", b"J" + struct.pack("<i", 1500 << 18)))
    assert path.stat().st_size < 3_000_000
    return path.read_bytes()


@both_ways
def test_a_zip_that_blows_up(way: str, good: Path, bomb: bytes, tmp_path: Path) -> None:
    """S6."""
    shutil.copytree(good, tmp_path / "m")
    (tmp_path / "m/bomb.pt").write_bytes(bomb)
    assert "compressed" in require_refused(tmp_path / "m/bomb.pt", tmp_path, way)


@both_ways
@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "..", "a/../../b.safetensors", "C:\\x.bin", "x"]
)
def test_an_index_of_shards_names_only_files_beside_it(name: str, way: str, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "m")
    (tmp_path / "m/model.safetensors").unlink()
    index = {"weight_map": {"transformer.wte.weight": name}}
    (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps(index))
    require_refused(tmp_path / "m", tmp_path, way)


def test_weights_that_are_no_numbers(good: Path, tmp_path: Path) -> None:
    """They load: a model may be inspected for what went wrong; what training and sampling do is theirs to say."""
    shutil.copytree(good, tmp_path / "m")
    path = tmp_path / "m/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32("nan").tobytes()
    path.write_bytes(content)
    os.utime(path)
    assert attempt(tmp_path / "m", tmp_path) == "loaded"
    assert "no finite numbers" in require_refused(tmp_path / "m", tmp_path, "import")
