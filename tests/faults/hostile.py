"""Reading files from strangers within limits of time and memory, and a checkpoint of nanoGPT to spoil."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from gpt2 import GPT2, GPT2Config
from tests.faults.harness import PATIENCE, start

SECONDS, BYTES = 5, 1_000_000_000


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def read(path: str, way: str) -> None:
    """`load` the model at a path, or `gpt2 import` it, or import something good with the tokenizer there."""
    from gpt2 import load
    from gpt2.interop.importing import import_model

    if way == "load":
        load(path)
    elif way == "import":
        import_model(path, out=f"{path}-imported")
    else:
        import_model(way, out=f"{path}-imported", tokenizer=path)


def read_and_tell(path: str, way: str, report: str) -> None:
    """Read a model within limits of time and memory; tells what came of it."""
    import resource

    import gpt2.interop.importing  # noqa: F401 - its own start is no part of what is measured
    from gpt2.errors import GPT2Error

    most = int(time.process_time()) + 1 + SECONDS  # the limit counts from the start of the process
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    before, began, said = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), "loaded"
    try:
        read(path, way)
    except GPT2Error as error:
        said = f"refused: {error}"
    used = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    Path(report).write_text(json.dumps([said, time.process_time() - began, used]))


def attempt(path: Path, tmp_path: Path, way: str = "load") -> str:
    process = start(read_and_tell, str(path), way, str(tmp_path / "report"))
    process.join(PATIENCE)
    assert process.exitcode == 0, f"status {process.exitcode}: it crashed, hung, or raised what is no error of ours"
    said, seconds, used = json.loads((tmp_path / "report").read_text())
    assert seconds < SECONDS
    assert used < BYTES, f"{used:,} bytes"
    return said


def nanogpt(path: Path, **changes: Any) -> Path:
    """A checkpoint as nanoGPT's training script saves it."""
    model = GPT2(GPT2Config(vocab_size=320, context_length=16, d_model=16, num_layers=1, num_heads=2))
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {n: p.detach().T.clone() if n.endswith(linear) else p.detach() for n, p in model.named_parameters()}
    arguments = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 320, "bias": True}
    content = {"model": state, "model_args": arguments, "iter_num": 1, "config": {}}
    for place, change in changes.items():
        content[place] = {**content[place], **change} if isinstance(change, dict) else change
    torch.save(content, path)
    return path
