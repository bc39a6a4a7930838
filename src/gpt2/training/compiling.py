"""torch.compile, where it is wanted and works."""

import dataclasses
import getpass
import os
import tempfile

import torch

from gpt2.data.loader import Batch
from gpt2.device import Machine
from gpt2.errors import ConfigError, UserError
from gpt2.training.loss import LanguageModelLoss
from gpt2.training.parallel import Alone


def compile_if(choice: str, loss: LanguageModelLoss, machine: Machine, example: Batch, parallel: Alone) -> str:
    """Compile the model in place if that is wanted; gives the reason for what was done.

    Args:
        choice: "on", "off", or "auto": only on CUDA. On CPUs it was measured not to pay: 4 x 128, bfloat16, two
            cores, 0.66 s per step compiled against 0.58 s eager.
        loss: holds the model.
        machine: what it runs on.
        example: a batch for the first, compiling pass; nothing is learnt from it.
        parallel: what trains the loss; several processes compile all or none.

    Raises:
        UserError: "on", and it fails here.
    """
    if choice == "off":
        return "compile off: asked for"
    if parallel.shards > 1:
        if choice == "on":
            raise ConfigError("--compile on does not go with --parallel fsdp or hsdp yet; leave one of them out")
        return "compile off: not tried with divided weights yet"
    if choice == "auto" and machine.device.type != "cuda":
        return f"compile off: on {machine.device.type} it was measured not to pay (--compile on forces it)"
    model = loss.model
    plain = model.kernels
    # Documents differ from batch to batch, and the loss has its own backward: both stay outside the graph.
    outside = {name: torch.compiler.disable(getattr(plain, name)) for name in ("attention", "linear_cross_entropy")}
    _set_kernels(loss, dataclasses.replace(plain, **outside))
    model.transformer.compile(dynamic=True)
    problem = ""
    try:
        with parallel.accumulation(last=False):
            parallel.module(example.to(machine.device))[0].backward()
    except Exception as error:  # the compiler's errors have no common base
        problem = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:120]
    finally:
        parallel.drop_gradients()
    problem = max(parallel.processes.exchange("compile", problem))
    if not problem:
        return "compile on"
    model.transformer._compiled_call_impl = None
    _set_kernels(loss, plain)
    if choice == "on":
        raise UserError(
            f"torch.compile fails here ({problem}); leave out --compile on. If a compilation was once cut off, what it "
            f"left may be damaged: delete PyTorch's cache, {_compile_cache()}"
        )
    return f"compile off: it fails here ({problem})"


def _compile_cache() -> str:
    """Where PyTorch keeps what it compiled, by its documentation."""
    return os.environ.get("TORCHINDUCTOR_CACHE_DIR") or f"torchinductor_{getpass.getuser()} in {tempfile.gettempdir()}"


def _set_kernels(loss: LanguageModelLoss, kernels: object) -> None:
    for module in loss.modules():
        if hasattr(module, "kernels"):
            module.kernels = kernels  # pyright: ignore
