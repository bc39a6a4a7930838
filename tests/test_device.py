"""The machine is examined, not assumed."""

import subprocess
import sys

import pytest
import torch

from gpt2.device import examine, free_memory, matmul_speed, resolve_device
from gpt2.errors import ConfigError


def test_auto_is_a_device_that_computes() -> None:
    device = resolve_device("auto")
    assert (torch.ones(2, device=device) + 1).sum().item() == 4


def test_missing_device_names_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"no device 'tpu' on this machine; there is .*cpu"):
        resolve_device("tpu")


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_examination_gives_choices_with_reasons(dtype: str) -> None:
    machine = examine("cpu", dtype)
    assert machine.flops > 1e8
    assert dtype == "auto" or machine.dtype == getattr(torch, dtype)
    assert any("asked for" in reason for reason in machine.reasons)
    assert any(" thread" in reason for reason in machine.reasons)


def test_threads_are_chosen_by_measuring_and_may_be_given() -> None:
    before = torch.get_num_threads()
    try:
        assert examine("cpu", "float32", threads=1).threads == 1
        assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        machine = examine("cpu", "float32")
        assert machine.threads == torch.get_num_threads()
        assert machine.threads in (1, 2)
        assert any("times as fast as" in reason for reason in machine.reasons)
    finally:
        torch.set_num_threads(before)


def test_speed_of_a_type_that_the_device_lacks_is_zero() -> None:
    assert matmul_speed(torch.device("cpu"), torch.uint16, 0.01) == 0


def test_free_memory_is_plausible() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or 10**7 < free < 10**14


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's allocator")
def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    """Making and dropping a large tensor again and again soon finds its pages there, and does not fault them in each time."""
    script = (
        "import resource, sys, torch\n"
        "from gpt2.device import keep_freed_memory\n"
        "assert sys.argv[1] == 'no' or keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.ones(2**24)\n"
        "before = faults()\n"
        "for _ in range(20): torch.ones(2**24)\n"  # 64 MiB: 16,384 pages each
        "print(faults() - before)"
    )
    run = [sys.executable, "-c", script]
    kept, given_back = (int(subprocess.check_output([*run, choice], text=True)) for choice in ("yes", "no"))
    assert kept < given_back / 2
