"""Real launches of torchrun with gloo, each used by several tests: starting processes is what costs."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import PATIENCE
from tests.stories import write_stories

pytestmark = pytest.mark.skipif(os.name == "nt", reason="torchrun's signals are POSIX")

WORKER = Path(__file__).with_name("worker.py")
TINY: dict[str, Any] = {
    "d_model": 32, "num_layers": 2, "num_heads": 2, "context_length": 64, "vocab_size": 400, "batch_size": 6,
    "dtype": "float32", "device": "cpu", "threads": 1, "evals": 1, "snapshots": 0, "steps": 8,
}  # fmt: skip
OFTEN: dict[str, Any] = {"evals": 2, "snapshots": 4, "save_every": 3}
"""Weights are brought together again and again, which changes nothing."""

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stories.txt, sixty of the bundled stories, in it; the cache lies there too."""
    path = tmp_path_factory.mktemp("distributed")
    write_stories(path / "stories.txt", 60)
    return path


@pytest.fixture(scope="session")
def launch(home: Path) -> Launch:
    """Runs torchrun: (processes, what to run ..., nodes=1, restarts=0); the nodes are all this machine."""

    def run(processes: int, *what: str, nodes: int = 1, restarts: int = 0) -> subprocess.CompletedProcess[str]:
        settings = {"GPT2_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        where = ["--standalone"]
        if nodes > 1:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
            where = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=test"]
        command = [
            sys.executable, "-m", "torch.distributed.run", *where, f"--nproc-per-node={processes // nodes}",
            f"--max-restarts={restarts}", *what,
        ]  # fmt: skip
        if processes == 1:  # alone, without torchrun
            command, settings = [sys.executable, *what], settings | {"RANK": "0"}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running = [subprocess.Popen(command, env=os.environ | settings, **pipes) for _ in range(nodes)]
        done = [process.communicate(timeout=PATIENCE) for process in running]
        codes = [process.returncode for process in running]
        return subprocess.CompletedProcess(command, max(codes), *map("".join, zip(*done, strict=True)))

    return run


@pytest.fixture(scope="session")
def train_jobs(home: Path, launch: Launch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs trainings of `worker.py` one after another: (processes, {name: settings}); each into home/name."""

    def run(processes: int, jobs: dict[str, dict[str, Any]], **options: int) -> subprocess.CompletedProcess[str]:
        new = {**TINY, "text": [str(home / "stories.txt")]}
        listed = [
            {"resume": str(home / name), **job} if "copy" in job else {**new, "out": str(home / name), **job}
            for name, job in jobs.items()
        ]
        path = home / f"jobs-{'-'.join(jobs)[:60]}.json"
        path.write_text(json.dumps(listed))
        return launch(processes, str(WORKER), str(path), **options)

    return run


@pytest.fixture(scope="session")
def two(home: Path, train_jobs: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """Runs of two processes, by name, in a folder."""
    alone = train_jobs(1, {"one-stopped": {"stop": [0, 4]}})
    assert alone.returncode == 0, alone.stderr
    stopped = train_jobs(2, {
        "killed": {"die": [1, 7], "save_every": 3, "whole": True},
        "scheduled": {"stop_all": 4, "steps": 40, "save_every": 100},
    }, restarts=1)  # fmt: skip
    assert stopped.returncode == 1, stopped.stderr  # so torchrun ends, whatever its processes say
    muon = {"save_every": 3}
    result = train_jobs(2, {
        "ddp": OFTEN, "ddp-again": muon, "ddp-adamw": {"optimizer": "adamw"},
        "fsdp": {"parallel": "fsdp"} | OFTEN, "fsdp-again": {"parallel": "fsdp"} | muon,
        "fsdp-adamw": {"parallel": "fsdp", "optimizer": "adamw"},
        "ddp-nan": {"nan": [1, 3]}, "fsdp-nan": {"nan": [1, 3], "parallel": "fsdp"},
        "ddp-stopped": {"stop": [1, 4]}, "fsdp-stopped": {"stop": [1, 4], "parallel": "fsdp"},
        "dropout": {"dropout": 0.2}, "dropout-stopped": {"dropout": 0.2, "stop": [0, 4]},
        "dropout-by-two": {"copy": "dropout-stopped"},
        "minutes": {"minutes": 0.02, "steps": None},
        "ddp-by-two": {"copy": "ddp-stopped"}, "fsdp-by-two": {"copy": "fsdp-stopped"},
        "one-by-two-ddp": {"copy": "one-stopped"}, "one-by-two-fsdp": {"copy": "one-stopped", "parallel": "fsdp"},
        "scheduled-on": {"copy": "scheduled"}, "scheduled-whole": {"steps": 40, "save_every": 100},
    })  # fmt: skip
    assert result.returncode == 0, result.stderr
    return home


@pytest.fixture(scope="session")
def four(two: Path, train_jobs: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """Runs of four processes on what they take for two machines."""
    result = train_jobs(4, {
        "ddp-4": {}, "ddp-4-again": {}, "ddp-adamw-4": {"optimizer": "adamw"},
        "fsdp-4": {"parallel": "fsdp"}, "fsdp-4-again": {"parallel": "fsdp"},
        "fsdp-adamw-4": {"parallel": "fsdp", "optimizer": "adamw"},
        "hsdp-4": {"parallel": "hsdp", "whole": True} | OFTEN,
        "ddp-by-four": {"copy": "ddp-stopped", "parallel": "fsdp"},
        "fsdp-by-four": {"copy": "fsdp-stopped", "parallel": "ddp"},
    }, nodes=2)  # fmt: skip
    assert result.returncode == 0, result.stderr
    return two
