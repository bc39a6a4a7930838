"""What the fault tests share: a tiny training in a real process that can be killed, and system calls that fail.

Processes come from a fork server that has loaded the package already: starting one takes milliseconds instead of
seconds, and each is as real, and as killable, as one from the command line.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FULL = os.environ.get("GPT2_FAULTS") == "full"
"""Whether `make faults` runs: every round and every fault, not a sample."""

TINY: dict[str, Any] = {
    "d_model": 32, "num_layers": 2, "num_heads": 2, "context_length": 32, "vocab_size": 300, "batch_size": 4,
    "micro_batch_tokens": 64, "dropout": 0.1, "dtype": "float32", "threads": 1, "device": "cpu", "evals": 2,
}  # fmt: skip

PATIENCE = 900
"""Seconds after which a process counts as hung; a busy machine may take long."""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None
    or subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True).returncode != 0,
    reason="strace is missing, or may not trace here (apt-get install strace)",
)

_SERVER = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
if hasattr(os, "fork"):
    _SERVER.set_forkserver_preload(["gpt2.training.run", "gpt2.interop.importing", "tests.faults.harness"])


def start(work: Callable[..., None], *arguments: Any) -> Any:
    """Run a function of a test module in a process of its own."""
    process = _SERVER.Process(target=_body, args=(work, *arguments))
    process.start()
    return process


def _body(work: Callable[..., None], *arguments: Any) -> None:
    import torch

    from gpt2.errors import GPT2Error

    torch.set_num_threads(1)
    try:
        work(*arguments)
    except GPT2Error as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)


def train_in(folder: str, options: dict[str, Any], said: str | None = None, examined: bool = False) -> None:
    """Train, or resume what is there; what is said on the way goes to a file.

    The examination of a finished run takes far longer than training these tiny models. Unless it is asked for, it is
    left out: weights and checkpoints are on the disk before it.
    """
    if said is not None:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    from gpt2 import train
    from gpt2.training import session

    if not examined:
        session.finish = lambda *given: None  # type: ignore[assignment]
    progress = said is not None
    if Path(folder, "training", "config.toml").exists():
        train(resume=folder, progress=progress)
    else:
        train(out=folder, progress=progress, **options)


def wait_for(condition: Callable[[], Any], process: Any, seconds: float = PATIENCE) -> Any:
    """Wait until `condition` holds; fails if the process ends before, or nothing happens at all."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process.is_alive(), f"it ended before its time, with status {process.exitcode}"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)
    return value


def kill(process: Any, number: int | None = None) -> int:
    """Send a signal, SIGKILL where none is named, and wait for the end; the exit status."""
    if number is None:
        process.kill()
    else:
        os.kill(process.pid, number)
    process.join(PATIENCE)
    assert process.exitcode is not None
    return process.exitcode


def steps_saved(folder: Path) -> list[int]:
    """Steps of the checkpoints that look complete."""
    found = (folder / "training" / "checkpoints").glob("step-*/manifest.json")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the model and of the tensors of the newest checkpoint."""
    newest = folder / "training" / "checkpoints" / f"step-{steps_saved(folder)[-1]:08d}"
    files = [folder / "model.safetensors", *sorted(newest.glob("*.safetensors"))]
    return {f"{path.parent.name}/{path.name}".removeprefix(f"{folder.name}/"): digest(path) for path in files}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def records(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run."""
    lines = (folder / "training" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
