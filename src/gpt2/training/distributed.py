"""The processes of a run: who this one is, and what they tell one another.

`torchrun` starts the same command several times and says in the environment who is who. Alone, a
process needs none of this: every method then gives back what it was given.
"""

import contextlib
import itertools
import json
import os
import platform
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gpt2.device import resolve_device
from gpt2.errors import ConfigError, GPT2Error, StoppedError

# How long a collective may last before it counts as hung. What may take longer is awaited in the store instead.
_TIMEOUT = timedelta(minutes=20)
_LONGEST_PAUSE = 0.5  # seconds between two looks into the store

_FAILED = "gpt2/failed"
_starts: list[int] = []  # which start this process belongs to, once that is known
_runs = itertools.count()  # a program may train several models, one after another: their words must not mix


class OtherFailedError(GPT2Error):
    """Another process failed, and says why; this one ends without a word."""

    def __init__(self, exit_code: int = 1) -> None:
        super().__init__("")
        self.exit_code = exit_code


class Processes:
    """The processes of a run, seen from one of them.

    Floats and tensors go by collectives, which are fast and time out. JSON values go through a store, where one
    waits for the others however long they take.

    Args:
        rank: number of this process; 0 alone prints and writes.
        size: how many there are.
        store: what all of them read and write; None: alone.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.rank, self.size, self.device = rank, size, torch.device("cpu")
        self._store, self._count = store, Counter[str]()
        self.restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        """Whether `torchrun` started the processes again after a failure."""

    @property
    def is_main(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.rank == 0

    def own_device(self, device: str) -> str:
        """The name of this process's device.

        Args:
            device: as in the settings. CUDA, whatever its number, means each process's own GPU.

        Raises:
            ConfigError: there are fewer GPUs than processes, or the device cannot be shared.
        """
        if self._store is None:
            return device
        self.device = _own_device(device)
        return str(self.device)

    def connect(self) -> None:
        """Make collectives possible, once all have come so far."""
        if self._store is None:
            return
        self.exchange("connect", None)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        store = PrefixStore("collectives", self._store)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=_TIMEOUT)

    def gather(self, *values: float | Tensor) -> list[list[float]]:
        """The values that each process gave, by rank; all get the same."""
        if self.size == 1:
            return [[float(value) for value in values]]
        mine = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        return torch.stack(self.gather_tensors(mine)).tolist()

    def gather_tensors(self, mine: Tensor) -> list[Tensor]:
        """A tensor of the same shape from each process, by rank."""
        if self.size == 1:
            return [mine]
        rows = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(rows, mine)
        return rows

    def from_main(self, topic: str, value: Any) -> Any:
        """The JSON value of rank 0; those of the others are dropped. May be called from any thread."""
        if self._store is None:
            return value
        key = self._key(topic)
        if self.is_main:
            self._store.set(key, json.dumps(value))
        return self._awaited(key)

    def exchange(self, topic: str, value: Any) -> list[Any]:
        """The JSON values of all, by rank. May be called from any thread."""
        if self._store is None:
            return [value]
        key = self._key(topic)
        self._store.set(f"{key}/{self.rank}", json.dumps(value))
        return [self._awaited(f"{key}/{rank}") for rank in range(self.size)]

    @contextlib.contextmanager
    def main_first(self, topic: str) -> Iterator[None]:
        """Rank 0 does what is in the block, then one process of each other machine, then all the others.

        What the first one left in a cache the next ones find there, be the cache each machine's own or shared.
        """
        if self._store is None:
            yield
            return
        key, here = self._key(topic), os.environ.get("GROUP_RANK", "0")
        is_first_here = os.environ.get("LOCAL_RANK", "0") == "0"
        if not self.is_main:
            self._awaited(f"{key}/main" if is_first_here else f"{key}/node-{here}")
        yield
        if self.is_main:
            self._store.set(f"{key}/main", "true")
        if is_first_here:
            self._store.set(f"{key}/node-{here}", "true")

    def leave(self) -> None:
        """End together: nobody goes while another still needs him."""
        self.exchange("end", None)
        if dist.is_initialized():
            dist.destroy_process_group()

    def fail(self) -> bool:
        """Tell the others that this one fails; whether it is the first to do so, whose word counts."""
        if self._store is None:
            return True
        with contextlib.suppress(RuntimeError):  # the store is gone if its machine is
            return self._store.add(_FAILED, 1) == 1
        return True

    def _key(self, topic: str) -> str:
        self._count[topic] += 1
        return f"gpt2/{topic}-{self._count[topic]}"

    def _awaited(self, key: str) -> Any:
        assert self._store is not None
        pause = 0.005
        while not self._store.check([key]):
            if self._store.check([_FAILED]):
                raise OtherFailedError
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)
        return json.loads(self._store.get(key))


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Within this, the processes that `torchrun` started work together; without it, one works alone.

    If one fails, it says why, and the others end without a word.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield Processes()
        return
    store, rank, size = next(iter(rendezvous("env://")))
    start = _starts[0] if _starts else _agreed_start(store, rank, size)
    _starts[:] = [start]
    processes = Processes(rank, size, PrefixStore(f"start-{start}/run-{next(_runs)}", store))
    processes.restarted |= start > 1
    try:
        yield processes
        processes.leave()
    except BaseException as error:
        if isinstance(error, StoppedError):  # all are at the same place
            dist.destroy_process_group()
        if not processes.fail():
            raise OtherFailedError(getattr(error, "exit_code", 1)) from error
        if isinstance(error, RuntimeError) and dist.is_initialized() and "onnection" in str(error):
            what = str(error).strip().splitlines()[-1][:160]
            raise GPT2Error(f"another process of the run is gone: {what}") from error
        raise


def launch_name() -> str | None:
    """What all restarts by one `torchrun` have in common; None: it did not start this process."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{platform.node()}:{os.getppid()}" if name == "none" else name


def _agreed_start(store: Store, rank: int, size: int) -> int:
    """Which start of the processes this is, from 1.

    A store of torchrun's outlives a restart, and so does all that was said in it. And its count of restarts differs
    from machine to machine. So rank 0 counts, and answers each of the others by a name that is new at each start.
    """
    if rank != 0:
        name = uuid.uuid4().hex
        store.set(f"gpt2/hello-{rank}", name)
        while not store.check([f"gpt2/welcome-{name}"]):
            time.sleep(0.02)
        start = int(store.get(f"gpt2/welcome-{name}"))
        store.set(f"gpt2/thanks-{start}-{rank}", "")
        return start
    start, awaited = store.add("gpt2/starts", 1), set(range(1, size))
    while awaited:
        for other in awaited:
            if store.check([f"gpt2/hello-{other}"]):
                store.set(f"gpt2/welcome-{store.get(f'gpt2/hello-{other}').decode()}", str(start))
        awaited = {other for other in awaited if not store.check([f"gpt2/thanks-{start}-{other}"])}
        time.sleep(0.02)
    return start


def _own_device(name: str) -> torch.device:
    """The device of this process among those of its machine."""
    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = torch.device("cuda") if name.startswith("cuda") and torch.cuda.is_available() else resolve_device(name)
    if chosen.type == "mps":
        if name == "auto":
            return torch.device("cpu")
        raise ConfigError("several processes cannot share Apple's GPU; leave out torchrun, or give --device cpu")
    if chosen.type == "cpu":
        return chosen
    if torch.cuda.device_count() < here:
        raise ConfigError(
            f"{here} processes on this machine, but {torch.cuda.device_count()} GPUs; "
            f"give torchrun --nproc-per-node={torch.cuda.device_count()}, or --device cpu"
        )
    return torch.device("cuda", local)
