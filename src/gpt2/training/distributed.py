"""The processes of a run: who this one is, and what they tell one another.

`torchrun` starts the same command several times and says in the environment who is who. Alone, a
process needs none of this: every method then gives back what it was given.
"""

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gpt2.device import resolve_device
from gpt2.errors import ConfigError, GPT2Error

# How long a collective may last before it counts as hung. Work that takes longer is awaited in the store instead.
_TIMEOUT = timedelta(minutes=20)
_POLL = timedelta(seconds=5)

_FAILED = "gpt2/failed"


class Processes:
    """The processes of a run, seen from one of them.

    Args:
        rank: number of this process; 0 alone prints and writes.
        size: how many there are.
        device: what this one computes on; "auto" or a name while it is alone.
        store: what all of them read and write, outlasting any time-out; None: alone.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str = "auto", store: Store | None = None) -> None:
        self.rank, self.size, self.device, self._store = rank, size, device, store
        self._turns = 0

    @property
    def is_main(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.rank == 0

    def gather(self, *values: float | Tensor) -> list[list[float]]:
        """The values that each process gave, by rank; all get the same."""
        if self.size == 1:
            return [[float(value) for value in values]]
        mine = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        return [row.tolist() for row in self.gather_tensors(mine)]

    def gather_tensors(self, mine: Tensor) -> list[Tensor]:
        """A tensor of the same shape from each process, by rank."""
        if self.size == 1:
            return [mine]
        rows = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(rows, mine)
        return rows

    def gather_json(self, value: Any) -> list[Any]:
        """A JSON value from each process, by rank."""
        if self.size == 1:
            return [value]
        text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=self.device)
        sizes = [int(size) for (size,) in self.gather(len(text))]
        padded = text.new_zeros(max(sizes))
        padded[: len(text)] = text
        rows = self.gather_tensors(padded)
        return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]

    def from_main(self, value: Any) -> Any:
        """The JSON value of rank 0; those of the others are dropped."""
        return self.gather_json(value if self.is_main else None)[0]

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 does what is in the block, then one process of each other machine, then all the others.

        They wait however long it takes: no collective, which would time out, is open meanwhile. What the
        first one left in a cache the next ones find there, be the cache each machine's own or shared.
        """
        if self._store is None:
            yield
            return
        self._turns += 1
        node, first_here = os.environ.get("GROUP_RANK", "0"), os.environ.get("LOCAL_RANK", "0") == "0"
        main, here = f"gpt2/turn-{self._turns}/main", f"gpt2/turn-{self._turns}/node-{node}"
        if not self.is_main:
            self._await(main if first_here else here)
        yield
        if self.is_main:
            self._store.set(main, "done")
        if first_here:
            self._store.set(here, "done")

    def leave_together(self) -> None:
        """Wait until rank 0 is done; then all may end."""
        with self.main_first():
            pass

    def _await(self, key: str) -> None:
        assert self._store is not None
        while not self._store.check([key]):
            if self._store.check([_FAILED]):
                raise GPT2Error("another process failed")
            with contextlib.suppress(dist.DistStoreError):
                self._store.wait([key], _POLL)


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Within this, the processes that `torchrun` started work together; without it, one works alone.

    Rank 0 prints. If a process fails, it says why, and the others end without a word.

    Args:
        device: as in the settings; with several processes, CUDA means the GPU of each process's own number.

    Raises:
        ConfigError: there are fewer GPUs than processes, or the device cannot be shared.
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if size == 1:
        yield Processes(device=device)
        return
    own = _own_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    store, rank, size = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size,
                            timeout=_TIMEOUT)  # fmt: skip
    if rank != 0:
        silence()
    try:
        processes = Processes(rank, size, str(own), store)
        yield processes
        processes.leave_together()
        dist.destroy_process_group()
    except BaseException:
        with contextlib.suppress(Exception):  # the store is gone if its host died first
            silence(store.add(_FAILED, 1) != 1)
        raise


def silence(quiet: bool = True) -> None:
    """Let this process print nothing, or everything again."""
    if quiet:
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the rest of its life
    else:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def launch() -> str | None:
    """What all restarts by one `torchrun` have in common; None: it did not start this process."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    return name if name != "none" else f"{platform.node()}:{os.getppid()}"


def was_restarted() -> bool:
    """Whether `torchrun` started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _own_device(name: str) -> torch.device:
    """The device of this process among those of its machine."""
    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = torch.device(name) if name.startswith("cuda") else resolve_device(name)
    if chosen.type == "mps":
        if name == "auto":
            return torch.device("cpu")
        raise ConfigError("several processes cannot share Apple's GPU; leave out torchrun, or give --device cpu")
    if chosen.type == "cpu":
        return chosen
    if torch.cuda.device_count() < here:
        raise ConfigError(
            f"{here} processes on this machine, but {torch.cuda.device_count()} GPUs; "
            f"give torchrun --nproc-per-node={max(1, torch.cuda.device_count())}, or --device cpu"
        )
    return torch.device("cuda", local)
