"""How several processes train one model: each a copy of it (DDP), or each a share of its rows (FSDP2, HSDP).

The trainer sees one small object. What an optimizer and the average work on are plain tensors in either
case: whole parameters, or this process's rows of them.
"""

import contextlib
import copy
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.checkpoint.sharded import Share
from gpt2.data.loader import Batch
from gpt2.errors import ConfigError
from gpt2.settings import TrainSettings
from gpt2.training.dealing import DealRows, DealWhole
from gpt2.training.distributed import Processes
from gpt2.training.loss import LanguageModelLoss


class Alone:
    """One process.

    Args:
        module: gives the loss sum of a batch.
        model: the part of it whose parameter names count; None: all of it.

    Attributes:
        module: what the trainer calls.
        processes: those that train together.
        parameters: name -> what this process updates: whole parameters, or its rows of them.
        shards: among how many processes the rows of a parameter are divided.
    """

    processes = Processes()
    shards = 1

    def __init__(self, module: nn.Module, model: nn.Module | None = None) -> None:
        self.module = module
        self.parameters: dict[str, Tensor] = {
            name: p for name, p in (model or module).named_parameters() if p.requires_grad
        }

    def accumulation(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around the passes of a micro-batch; gradients of all processes are put together in the `last`."""
        return contextlib.nullcontext()

    def collect_gradients(self) -> None:
        """After the last micro-batch: put each parameter's gradient where the optimizer looks for it."""

    def drop_gradients(self) -> None:
        """After the update."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def agree(self, loss: Tensor, norm: Tensor, seconds: float) -> tuple[float, float, float]:
        """The loss of all processes together, the norm of the whole gradient, and rank 0's clock."""
        rows = self.processes.gather(loss, norm, seconds)
        return sum(row[0] for row in rows), math.hypot(*(row[1] for row in rows[: self.shards])), rows[0][2]

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within this, the model that was handed in holds the whole present weights, in every process."""
        yield

    def rows(self, entry: str) -> tuple[int, int, int] | None:
        """Which rows of a tensor are here: (first, end, of how many); None: all.

        Args:
            entry: name of a parameter, or of what an optimizer or an average keeps for it.
        """
        return None

    @property
    def share(self) -> Share | None:
        """What this process has to do with a checkpoint; None: rank 0 has all that is to be saved."""
        return None

    def muon_options(self) -> dict[str, Any]:
        """How `Muon` comes by whole matrices."""
        return {}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take in weights as `parameters` has them: whole, or this process's rows."""
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])


class DataParallel(Alone):
    """A copy of the model in each process; DDP adds up their gradients while backward still runs."""

    def __init__(self, loss: LanguageModelLoss, processes: Processes) -> None:
        super().__init__(loss, loss.model)
        self.processes = processes
        self.module = nn.parallel.DistributedDataParallel(loss, gradient_as_bucket_view=True)
        self._settle_buckets(loss)

    def accumulation(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Without the last, gradients stay at home."""
        return contextlib.nullcontext() if last else self.module.no_sync()  # pyright: ignore

    def muon_options(self) -> dict[str, Any]:
        """Each matrix is orthogonalised by one process for all."""
        return {"deal": DealWhole(self.processes)}

    def _settle_buckets(self, loss: LanguageModelLoss) -> None:
        # After its first backward pass DDP lays its buckets out anew, and with them the order of summation. A pass
        # over one token, of which nothing is kept, brings a new run and a resumed one to the same layout.
        one = torch.zeros((1, 1), dtype=torch.long, device=next(loss.parameters()).device)
        self.module(Batch(one, one, [1]))[0].backward()
        self.drop_gradients()


class Sharded(Alone):
    """The rows of each parameter divided among the processes (FSDP2; Zhao et al., 2023, arXiv 2304.11277).

    A block's weights are brought together when it runs and forgotten after it; gradients are added up and
    divided at once. The embedding serves as input and as output table, so it stands in the outermost
    group, beside the final norm. With replicas, each group of neighbouring processes divides the
    model among itself, and the groups add up their gradients (HSDP).

    Args:
        loss: its model is left empty, to be filled by `whole`.
        processes: how many there are, and the device.
        replicas: groups that each hold the whole model; 1: all processes divide it.
    """

    def __init__(self, loss: LanguageModelLoss, processes: Processes, replicas: int = 1) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.processes, self.shards, self._model = processes, processes.size // replicas, loss.model
        kind = processes.device.type
        shape = (replicas, self.shards) if replicas > 1 else (self.shards,)
        mesh = init_device_mesh(kind, shape, mesh_dim_names=("replica", "shard")[-len(shape) :])
        self.group = mesh.get_group("shard")
        self.trained = copy.deepcopy(loss.model)
        for block in self.trained.transformer.h:
            fully_shard(block, mesh=mesh)
        self.module = LanguageModelLoss(self.trained)
        fully_shard(self.module, mesh=mesh)
        self._sharded: dict[str, Any] = dict(self.trained.named_parameters())
        self.parameters = {name: p.to_local().detach() for name, p in self._sharded.items()}
        self._model.to("meta")

    def collect_gradients(self) -> None:
        """Hand each parameter's rows their gradient."""
        for name, parameter in self._sharded.items():
            self.parameters[name].grad = None if parameter.grad is None else parameter.grad.to_local()

    def drop_gradients(self) -> None:
        """Of the rows and of FSDP's parameters."""
        super().drop_gradients()
        for parameter in self._sharded.values():
            parameter.grad = None

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Bring all weights together in the plain model, and forget them again."""
        weights = {name: p.full_tensor().detach() for name, p in self._sharded.items()}
        self._model.load_state_dict(weights, assign=True)
        try:
            yield
        finally:
            self._model.to("meta")

    def rows(self, entry: str) -> tuple[int, int, int] | None:
        """As FSDP divides: all processes but the last ones hold equally many."""
        name = entry.rpartition("/")[2]  # an optimizer's entries: PART/PARAMETER.WHAT
        name = name if name in self._sharded else name.rpartition(".")[0]
        return self._rows(name, self.processes.rank % self.shards) if name in self._sharded else None

    @property
    def share(self) -> Share:
        """The first group of those that together hold the model writes it."""
        processes = self.processes
        return Share(processes.rank, self.shards, self.rows, processes.exchange)

    def muon_options(self) -> dict[str, Any]:
        """Each matrix is brought together and orthogonalised by one process, which hands its rows back."""
        held = {n: [self._rows(n, place) for place in range(self.shards)] for n in self._sharded}
        counts = {name: [end - first for first, end, _ in ranges] for name, ranges in held.items()}
        shapes = {name: p.shape for name, p in self._sharded.items()}
        return {"shapes": shapes, "deal": DealRows(self.group, counts)}

    def _rows(self, name: str, place: int) -> tuple[int, int, int]:
        total = self._sharded[name].shape[0]
        each = -(-total // self.shards)
        return min(each * place, total), min(each * (place + 1), total), total


def reason(settings: TrainSettings, processes: Processes) -> str:
    """How the processes share the work, in a sentence."""
    kind = settings.run.parallel
    how = {"fsdp": "the model's rows divided among all", "hsdp": "its rows divided among those of a machine"}
    return f"{processes.size} processes: {how.get(kind, 'each has a copy of the model (--parallel fsdp divides it)')}"


def parallelize(kind: str, loss: LanguageModelLoss, processes: Processes) -> Alone:
    """The way of training called `kind`: "ddp" or "auto", "fsdp", "hsdp"; one process alone needs none.

    Raises:
        ConfigError: "hsdp" with machines of different sizes.
    """
    if processes.size == 1:
        return Alone(loss, loss.model)
    if kind in ("ddp", "auto"):
        return DataParallel(loss, processes)
    if kind == "fsdp":
        return Sharded(loss, processes)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes.size))
    if processes.size % here:
        raise ConfigError(
            f"--parallel hsdp needs equally many processes on each machine, not {here} of {processes.size}"
        )
    return Sharded(loss, processes, replicas=processes.size // here)
