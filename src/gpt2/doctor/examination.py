"""What `gpt2 doctor` finds out: the machine, the versions, the measured peaks, and whether it computes rightly."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gpt2.device import matmul_speed, resolve_device, synchronize
from gpt2.doctor.self_check import Check, self_check
from gpt2.files import cores, human_bytes

_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "matplotlib", "tyro", "tqdm")
_COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30, "mps": 1 << 28}  # far beyond any cache


def examine_machine(device: str = "auto") -> dict[str, Any]:
    """Everything about this machine that training depends on, as JSON values; takes a few seconds.

    Args:
        device: the device to measure and to compare with the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    chosen = resolve_device(device)
    checks = list(_checks(chosen))
    return {
        "machine": _machine(),
        "versions": _versions(),
        "device": _device(chosen),
        "peaks": _peaks(chosen),
        "checks": [{**vars(check), "passed": check.passed, "summary": str(check)} for check in checks],
        "passed": all(check.passed for check in checks if check.problem is None),
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people to read."""
    rows: list[str] = []
    for group in ("machine", "versions", "device", "peaks"):
        rows += [f"{group}", *(f"  {key:<24} {value}" for key, value in report[group].items())]
    rows += ["compared with the CPU in float32, one forward and one backward pass"]
    rows += [f"  {'ok' if check['passed'] else 'NO':<3} {check['summary']}" for check in report["checks"]]
    wrong = [check for check in report["checks"] if not check["passed"] and check["problem"] is None]
    verdict = "this machine computes what it should"
    if wrong:
        verdict = "THIS MACHINE COMPUTES WRONGLY: train with --kernels reference, --dtype float32 or --device cpu"
    return [*rows, verdict]


def memory_bandwidth(device: torch.device, seconds: float = 0.4) -> float:
    """Bytes per second, read and written together, of a copy within the device's memory."""
    source = torch.ones(_COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    synchronize(device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * source.numel() * 4 / best


def _checks(device: torch.device) -> Iterator[Check]:
    for dtype in (torch.float32, torch.bfloat16):
        for kernels in ("fused", "reference"):
            yield self_check(device, dtype, kernels)


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": _processor(),
        "processors usable": cores(),
        "threads of PyTorch": torch.get_num_threads(),
        "memory": human_bytes(memory) if memory else "not known",
        "disk free here": human_bytes(shutil.disk_usage(Path.cwd()).free),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0], "gpt2-from-scratch": _version("gpt2-from-scratch")}
    return found | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"model": properties.name, "memory": human_bytes(properties.total_memory)}
        facts |= {"compute capability": f"{properties.major}.{properties.minor}", "CUDA": torch.version.cuda}
    elif device.type == "cpu":
        facts["vector instructions"] = torch.backends.cpu.get_cpu_capability()
    return facts


def _peaks(device: torch.device) -> dict[str, str]:
    types = [torch.float32, torch.bfloat16] + ([torch.float16] if device.type != "cpu" else [])
    speeds = {dtype: matmul_speed(device, dtype, 0.5) for dtype in types}
    peaks = {
        f"matrix product {str(dtype).removeprefix('torch.')}": f"{speed / 1e9:,.0f} GFLOP/s" if speed else "cannot"
        for dtype, speed in speeds.items()
    }
    return peaks | {"memory": f"{memory_bandwidth(device) / 1e9:,.1f} GB/s copied (read and written)"}
