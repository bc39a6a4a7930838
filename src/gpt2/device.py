"""The machine: which device, which number type, how fast. Decided by looking and measuring, not by tables."""

import ctypes
import functools
import os
import statistics
import sys
import time
from dataclasses import dataclass, field

import torch

from gpt2 import native
from gpt2.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Machine:
    """What a run computes on, each choice with its reason."""

    device: torch.device
    dtype: torch.dtype
    """Type of the activations."""
    threads: int
    flops: float
    """Matrix-product speed measured in `dtype`, in floating-point operations per second."""
    reasons: list[str] = field(default_factory=list)
    """One sentence per choice."""
    processes: int = 1
    """Processes that train together, each on such a device."""


def resolve_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto": CUDA, else Apple's GPU, else the CPU.

    Raises:
        ConfigError: no such device here; the message says what there is.
    """
    present = ["cpu"]
    if torch.cuda.is_available():
        present = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *present]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if name == "auto":
        return torch.device(present[0])
    if name not in present:
        raise ConfigError(f"no device {name!r} on this machine; there is {', '.join(present)}")
    return torch.device(name)


def examine(device: str = "auto", dtype: str = "auto", threads: int | None = None) -> Machine:
    """Choose device, threads and number type; takes about half a second.

    Args:
        device: "auto" or a device's name.
        dtype: "float32", "bfloat16", or "auto": bfloat16 if its matrix products are measured to be at
            least a quarter faster here.
        threads: of the CPU; None: PyTorch's own choice, or one if that is measured to be faster.
            PyTorch then uses so many in this process.
    """
    chosen = resolve_device(device)
    why = "asked for" if device != "auto" else _device_reason(chosen)
    reasons = [f"device {chosen}: {why}"]
    if chosen.type == "cpu":
        keep_freed_memory()
        reasons += [_set_threads(threads), _operations()]
    if dtype != "auto":
        flops = _peak(chosen, _DTYPES[dtype], torch.get_num_threads())
        reasons.append(f"{dtype}: asked for")
        return Machine(chosen, _DTYPES[dtype], torch.get_num_threads(), flops, reasons)
    full, half = (_peak(chosen, kind, torch.get_num_threads()) for kind in (torch.float32, torch.bfloat16))
    pays = half >= 1.25 * full
    speeds = {"bfloat16": _rounded(half / 1e9), "float32": _rounded(full / 1e9)}
    first, second = ("bfloat16", "float32") if pays else ("float32", "bfloat16")
    reasons.append(f"{first}: matrix products run at {speeds[first]} GFLOP/s here, in {second} at {speeds[second]}")
    best = torch.bfloat16 if pays else torch.float32
    return Machine(chosen, best, torch.get_num_threads(), half if pays else full, reasons)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1g}"


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, for its next tensors; gives whether that could be set.

    The GNU C library returns large blocks to the system as soon as they are freed, and every step of training
    then waits for the same pages to be cleared and mapped again: 12 % of the time of a 4 x 128 model on one
    Zen 4 core. Elsewhere (macOS, Windows, musl) nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # malloc.h's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
    return bool(set_option(mmap_threshold, 2**30)) and bool(set_option(trim_threshold, 2**31 - 1))


def _set_threads(threads: int | None) -> str:
    """Set the number of threads and give the reason.

    Threads wait for each other at every operation: when other programs are busy, two can be several
    times slower than one.
    """
    if threads is not None:
        torch.set_num_threads(threads)
        return f"{_count(threads)}: asked for"
    own = torch.get_num_threads()
    if own == 1:
        return "1 thread: PyTorch's own choice for this machine"
    together = _seconds_of_small_work()
    torch.set_num_threads(1)
    alone = _seconds_of_small_work()
    if alone < 0.95 * together:
        return f"1 thread: measured {together / alone:.1f} times as fast as {own}; the machine is busy with other work"
    torch.set_num_threads(own)
    return f"{_count(own)}: measured {alone / together:.1f} times as fast as one"


def _operations() -> str:
    library, obstacle = native.library()
    if library is None:
        return f"attention, GELU and the loss by PyTorch, which takes longer: {obstacle}"
    return "attention, GELU and the loss by operations compiled here"


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _seconds_of_small_work() -> float:
    """Time of operations of the size that a small model's training has, the median of several."""
    x, up, down = torch.randn(2048, 128), torch.randn(128, 512), torch.randn(512, 128)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(4):
            x = torch.tanh((x @ up) * 0.01) @ down
            x = (x - x.mean(-1, keepdim=True)) / x.std()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def matmul_speed(device: torch.device, dtype: torch.dtype, seconds: float = 0.12) -> float:
    """Floating-point operations per second of a matrix product of the size that small models use.

    Returns 0 where the device cannot compute in this type.
    """
    size = 512 if device.type == "cpu" else 4096
    try:
        a, b = (torch.randn(4 * size, size, device=device).to(dtype) for _ in range(2))
        b = b[:size]
        few = a[: size // 8]  # a processor that emulates the type would take seconds for all rows
        torch.mm(few, b)
        took = _seconds_of_product(few, b)
        if took * len(a) / len(few) > 4 * seconds:
            return 2 * few.numel() * size / took
        torch.mm(a, b)
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            best = min(best, _seconds_of_product(a, b))
    except (RuntimeError, TypeError):
        return 0.0
    return 2 * a.numel() * size / best


@functools.cache
def _peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """`matmul_speed`, measured once in a process: one that trains many models does not wait for each."""
    del threads  # PyTorch's own number, which the speed depends on
    return matmul_speed(device, dtype)


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor) -> float:
    synchronize(a.device)
    start = time.perf_counter()
    torch.mm(a, b)
    synchronize(a.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def free_memory(device: torch.device) -> int | None:
    """Bytes free on the device, or in main memory for the CPU; None: not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _device_reason(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple's GPU" if device.type == "mps" else "no GPU that PyTorch can use was found"
