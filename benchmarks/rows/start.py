"""Start-up, and the memory of a training step: each round in a process of its own."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks import shapes
from benchmarks.measure import Entry, Row, Running
from benchmarks.shapes import Shape


def rows() -> list[Row]:
    """Start-up, and memory at both shapes."""
    return [startup(), *(memory(shape) for shape in shapes.SHAPES.values())]


def startup() -> Row:
    """Seconds of a process that imports."""
    codes = {
        "import torch; from gpt2 import GPT2, Tokenizer, load": True,
        "import torch": False,
        "import torch; from transformers import GPT2LMHeadModel": False,
    }
    return Row(
        "start", "Start-up of a Python process", "s",
        [Entry(f"python -c {code!r}", partial(_timed, code), ours) for code, ours in codes.items()],
        lambda answers: "that each ends without an error", more_is_better=False,
        settings="the whole process, starting Python included; `import torch` alone is what nobody can go below",
    )  # fmt: skip


def memory(shape: Shape) -> Row:
    """Most memory of a process that makes three training steps, less what importing takes."""
    entries = [
        Entry(f"{name} bf16", partial(_peak, shape.name, name), name.startswith("gpt2"))
        for name in ("gpt2-from-scratch", "nanoGPT style", "transformers")
    ]
    return Row(
        f"memory-{shape.name}", f"Memory of a training step, {shape.name}", "MB", entries,
        lambda answers: "by the throughput row: the same entries", more_is_better=False,
        settings="peak resident memory of the process after three steps, less its memory before the model is made; "
        f"{shape.tokens:,} tokens per step, weights, gradients and AdamW's state included",
    )  # fmt: skip


def _timed(code: str) -> Running:
    import time

    def measure() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    measure()
    return Running(None, measure)


def _peak(shape_name: str, name: str) -> Running:
    def measure() -> float:
        command = [sys.executable, "-m", "benchmarks.rows.start", shape_name, name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(json.loads(done.stdout.splitlines()[-1]))

    return Running(None, measure)


def _measure_peak(shape_name: str, name: str) -> float:
    import torch

    from benchmarks.rows import training

    shape = shapes.SHAPES[shape_name]
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
    before = _resident_peak()
    make = {
        "gpt2-from-scratch": lambda: training.ours(shape, torch.bfloat16),
        "nanoGPT style": lambda: training.nanogpt(shape, torch.bfloat16, False),
        "transformers": lambda: training.transformers(shape, torch.bfloat16),
    }[name]
    make().measure()
    return (_resident_peak() - before) / 1e6


def _resident_peak() -> int:
    """Bytes. On Linux not by getrusage: a process that begins as another's fork inherits that one's peak there."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    print(json.dumps(_measure_peak(sys.argv[1], sys.argv[2])))
