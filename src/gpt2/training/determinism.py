"""The same run gives the same bits."""

import contextlib
from contextlib import AbstractContextManager

import torch

from gpt2 import native
from gpt2.checkpoint.store import Checkpoint
from gpt2.device import Machine
from gpt2.errors import CheckpointError


class Deterministic:
    """Deterministic algorithms while training: the same run gives the same bits.

    Args:
        compiled: torch.compile is told too. Telling it loads it, which takes as long as hundreds of small steps.
    """

    def __init__(self, compiled: bool = False) -> None:
        self.compiled = compiled

    def __enter__(self) -> None:
        self.before = torch.are_deterministic_algorithms_enabled()
        # On CUDA some of them are slow or missing; there the run is as exact as PyTorch's defaults.
        self._set(not torch.cuda.is_available())
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore

    def __exit__(self, *_: object) -> None:
        self._set(self.before)

    def _set(self, on: bool) -> None:
        if self.compiled:
            torch.use_deterministic_algorithms(on)
        else:
            torch.set_deterministic_debug_mode("error" if on else "default")


def uses_native(machine: Machine, kernels: str) -> bool:
    """Whether training there runs operations compiled from C++: fused kernels, on a CPU, where they could be built."""
    return kernels == "fused" and machine.device.type == "cpu" and native.library()[0] is not None


def same_operations(machine: Machine, kernels: str, checkpoint: Checkpoint | None) -> AbstractContextManager[None]:
    """Within this, a resumed run has the operations that it had before: others differ in the last bits.

    Raises:
        CheckpointError: it had compiled ones, and there are none here.
    """
    now = uses_native(machine, kernels)
    before = now if checkpoint is None else checkpoint.state.get("native", False)
    if before == now:
        return contextlib.nullcontext()
    if before:
        raise CheckpointError(
            f"the run was trained with compiled operations, and here there are none: {native.library()[1]}. Others "
            f"would not give the same bits. Resume it where it was trained, or begin anew from its weights with --from"
        )
    return native.refused("the run was begun without compiled operations, and goes on without them")
