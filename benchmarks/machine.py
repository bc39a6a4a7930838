"""Which machine and which versions a figure belongs to."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

_PACKAGES = ("torch", "transformers", "litgpt", "tokenizers", "tiktoken", "gigatoken", "numpy")


def describe() -> dict[str, str]:
    """Processor, memory, system, versions."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "processor": f"{_processor()}, {torch.get_num_threads()} threads of {os.cpu_count()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _version(name))),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = dict(line.split(":", 1) for line in information.read_text(encoding="utf-8").splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        if "model name" in fields:
            return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
