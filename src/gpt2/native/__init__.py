"""The C++ files beside this one as a library: compiled once per machine with the compiler that is there, then kept.

Nothing needs it: whoever calls it has a way without. Loaded by ctypes, so it is tied to no version of Python or torch.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from gpt2.files import cache_folder

_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno")
_SECONDS = 120

_Pointer, _Int, _Float, _Double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_double

# Of each function its result's type, then its arguments'.
_FUNCTIONS = {
    "gpt2_step": (None, _Pointer, _Pointer),
    "gpt2_burst": (None, _Pointer, _Pointer, _Int, _Int),
    "gpt2_sample": (_Int, _Pointer, _Pointer, _Int, _Float, _Int, _Double, _Float, _Double),
    "gpt2_sample_rows": (None, _Pointer, _Int, _Pointer, _Int, _Int, _Pointer, _Pointer),
    "gpt2_attention": (None, _Pointer),
    "gpt2_gelu": (None, _Pointer, _Pointer, _Pointer, _Int, _Int, _Int),
    "gpt2_cross_entropy": (None, _Pointer, _Pointer, _Pointer, _Int, _Int, _Int, _Int, _Int),
}

LANES = 16
"""A multiple of the numbers in one vector of the C++ code, on any processor; sizes are rounded up to it."""

Library = ctypes.CDLL


_refusals: list[str] = []
_one_at_a_time = threading.Lock()


def library() -> tuple[ctypes.CDLL | None, str]:
    """(the library, "") or (None, why there is none). The first call on a machine compiles, some five seconds.

    `CXX` names another compiler; `GPT2_NATIVE=0` forbids it, another `GPT2_NATIVE` is the folder where it is kept
    instead of `native` in the cache.
    """
    if _refusals:
        return None, _refusals[-1]
    with _one_at_a_time:  # threads that ask together would each compile
        return _found()


@contextlib.contextmanager
def refused(reason: str) -> Iterator[None]:
    """Within this there is no library: a run that was trained without it goes on without it."""
    _refusals.append(reason)
    try:
        yield
    finally:
        _refusals.remove(reason)


@functools.cache
def _found() -> tuple[ctypes.CDLL | None, str]:
    if sys.byteorder != "little":
        return None, "the processor is big-endian"
    if os.environ.get("GPT2_NATIVE") == "0":
        return None, "GPT2_NATIVE=0"
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++"))), None)
    if compiler is None:
        return None, "there is no C++ compiler"
    try:
        return _load(_built(compiler)), ""
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{compiler} cannot build it here ({_first_line(error)})"


def _built(compiler: str) -> Path:
    files = {file.name: file.read_bytes() for file in resources.files(__name__).iterdir() if file.is_file()}
    sources = {name: files[name] for name in sorted(files) if name.endswith((".cpp", ".h"))}
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=_SECONDS).stdout
    machine = f"{_FLAGS} {platform.machine()} {_instructions()}".encode()
    key = hashlib.sha256(b"\0".join([*sources.values(), version, machine])).hexdigest()[:24]
    library = Path(os.environ.get("GPT2_NATIVE") or cache_folder() / "native") / f"{key}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            logging.getLogger(__name__).warning("compiling fast operations for this processor, once: some seconds")
            for name, content in sources.items():
                Path(folder, name).write_bytes(content)
            # Whole or not there at all, also when two processes build at once.
            _compile(compiler, Path(folder)).replace(library)
    return library


def _compile(compiler: str, folder: Path) -> Path:
    made = folder / "native.so"
    sources = [str(path) for path in sorted(folder.glob("*.cpp"))]
    for threads in (["-fopenmp"], []):  # Apple's compiler has no OpenMP: one thread then
        command = [compiler, *_FLAGS, *threads, "-o", str(made), *sources]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
        if done.returncode == 0:
            return made
    raise OSError(done.stderr)


def _instructions() -> str:
    """What -march=native depends on: a cache may be shared by machines."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.processor()
    lines = information.read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, *arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "error" in line] or str(error).splitlines()
    return lines[0][:160] if lines else type(error).__name__
