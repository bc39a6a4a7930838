"""TransformerLens in an environment of its own, since it brings many packages: `make interop` installs it.

`GPT2_HEAVY_PYTHON` names that environment's Python; without it `.interop/heavy` of this checkout is tried.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Missing

_ROOT = Path(__file__).resolve().parents[2]


class TransformerLens:
    """A process that does jobs on a model: what they are stands in transformer_lens_worker.py."""

    def __init__(self, folder: Path, inputs: dict[str, Any]) -> None:
        python = Path(os.environ.get("GPT2_HEAVY_PYTHON") or _ROOT / ".interop/heavy/bin/python")
        if not python.exists():
            raise Missing("make interop, or GPT2_HEAVY_PYTHON names a Python that has transformer_lens")
        script = Path(__file__).with_name("transformer_lens_worker.py")
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [str(python), "-P", str(script), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            bufsize=1, env={**os.environ, **offline},
        )  # fmt: skip
        self._ask({**inputs, "threads": torch.get_num_threads()})

    def answer(self, job: str) -> list[float]:
        """What the job finds, as numbers to compare."""
        return self._ask({"job": job, "rounds": 1})["answer"]

    def seconds(self, job: str, rounds: int) -> float:
        """The mean over so many rounds."""
        return self._ask({"job": job, "rounds": rounds})["seconds"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise Missing(f"transformer_lens ended with status {self._process.wait()}")
