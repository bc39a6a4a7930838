"""Before a run: does the device compute what it should? If not, another way that does, or no run."""

import dataclasses

import torch

from gpt2.device import Machine, matmul_speed
from gpt2.doctor import Check, self_check
from gpt2.errors import ConfigError
from gpt2.model.ops import Kernels


def trusted(machine: Machine, kernels: str | Kernels, *, choose_dtype: bool, fall_back: bool) -> tuple[Machine, str]:
    """The machine and kernels to train with, after a comparison with the CPU in float32; takes about 0.1 s.

    Args:
        machine: what was chosen.
        kernels: what was chosen.
        choose_dtype: whether another number type may be taken.
        fall_back: whether anything may be changed; a resumed run must go on as it was.

    Returns:
        The machine with one more reason, and the name of the kernels.

    Raises:
        ConfigError: the device computes wrongly, whichever way.
    """
    name = kernels if isinstance(kernels, str) else kernels.name
    wanted = self_check(machine.device, machine.dtype, kernels)
    if wanted.passed:
        return dataclasses.replace(machine, reasons=[*machine.reasons, f"checked: {wanted}"]), name
    failed: list[Check] = [wanted]
    ways = [(machine.dtype, "reference")]
    if choose_dtype and machine.dtype != torch.float32:
        ways += [(torch.float32, kernels), (torch.float32, "reference")]
    for dtype, other in ways if fall_back else []:
        check = self_check(machine.device, dtype, other)
        if check.passed:
            flops = machine.flops if dtype == machine.dtype else matmul_speed(machine.device, dtype)
            reason = f"WARNING: {'; '.join(map(str, failed))}. Taken instead: {check}"
            instead = dataclasses.replace(machine, dtype=dtype, flops=flops, reasons=[*machine.reasons, reason])
            return instead, check.kernels
        failed.append(check)
    raise ConfigError(
        f"this device computes wrongly, so nothing would be learnt: {'; '.join(map(str, failed))}. "
        f"Train with --device cpu, or --dtype float32; gpt2 doctor tells more"
    )
