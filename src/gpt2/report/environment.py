"""Under what circumstances a run was made."""

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpt2.device import Machine
from gpt2.files import write_json


def write_environment(target: Path, plan: Sequence[str], machine: Machine) -> None:
    """Write the plan and the machine of a run as JSON.

    Args:
        target: environment.json.
        plan: its lines.
        machine: that it runs on.
    """
    write_json(
        target,
        {
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "plan": [line.strip() for line in plan],
            "machine": {
                "processor": _processor(),
                "cores": os.cpu_count(),
                "system": platform.platform(),
                "device": str(machine.device),
                "dtype": str(machine.dtype).removeprefix("torch."),
                "threads": machine.threads,
            },
            "versions": {
                "python": platform.python_version(),
                **_versions("gpt2-from-scratch", "torch", "tokenizers", "numpy"),
            },
        },
    )


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from its sources
            continue
    return found


def _processor() -> str:
    """The processor's name; Linux hides it in a file, elsewhere the platform module has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
