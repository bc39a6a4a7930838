"""Muon's matrices dealt out to processes: each orthogonalises some of them for all.

Newton-Schulz needs whole matrices, and doing all of them everywhere would be the same work once per
process. So each matrix has an owner. With whole copies (DDP), the owners hand out what they
found; with rows divided (FSDP2), each owner first collects its matrices' rows, and sends back to each
process the rows that are its own. All travels in the type of the iteration, so the
result is the same as without dealing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gpt2.training.distributed import Processes

Tensors = dict[str, Tensor]


def owned(shapes: Mapping[str, Sequence[int]], size: int) -> list[list[str]]:
    """The matrices that each of `size` processes does: the costliest first, each to the one with the least to do."""
    cost = {name: rows * columns * min(rows, columns) for name, (rows, columns) in shapes.items()}
    load: list[int] = [0] * size
    names: list[list[str]] = [[] for _ in range(size)]
    for name in sorted(cost, key=lambda name: -cost[name]):
        place = load.index(min(load))
        names[place].append(name)
        load[place] += cost[name]
    return names


class DealWhole:
    """For processes that each hold every whole update.

    Args:
        processes: who shares the work.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def __call__(self, updates: Tensors, compute: Callable[[Tensors], Tensors]) -> Tensors:
        """The directions of all updates, each computed by its owner."""
        names = owned({name: update.shape for name, update in updates.items()}, self.processes.size)
        found = compute({name: updates[name] for name in names[self.processes.rank]})
        longest = max(sum(updates[name].numel() for name in mine) for mine in names)
        anything = next(iter(updates.values()))
        flat = anything.new_zeros(longest)
        _write(flat, [found[name] for name in names[self.processes.rank]])
        directions = {}
        for mine, values in zip(names, self.processes.gather_tensors(flat), strict=True):
            directions |= zip(mine, _read(values, [updates[name].shape for name in mine]), strict=True)
        return directions


class DealRows:
    """For processes that each hold some rows of every update.

    Args:
        group: those who divide the rows.
        rows: name -> how many rows of the whole matrix each process of the group holds.
    """

    def __init__(self, group: Any, rows: Mapping[str, Sequence[int]]) -> None:
        self.group, self.rows = group, rows
        self.place, self.size = dist.get_rank(group), dist.get_world_size(group)

    def __call__(self, updates: Tensors, compute: Callable[[Tensors], Tensors]) -> Tensors:
        """This process's rows of all directions, each computed by its owner."""
        columns, anything = {n: u.shape[1] for n, u in updates.items()}, next(iter(updates.values()))
        names = owned({name: (sum(self.rows[name]), columns[name]) for name in updates}, self.size)
        mine = names[self.place]
        coming = [[(self.rows[name][rank], columns[name]) for name in mine] for rank in range(self.size)]
        pieces = self._exchange([[updates[name] for name in theirs] for theirs in names], coming, anything)
        whole = compute({name: torch.cat([piece[i] for piece in pieces]) for i, name in enumerate(mine)})
        parts = [whole[name].split(list(self.rows[name])) for name in mine]
        coming = [[(self.rows[name][self.place], columns[name]) for name in theirs] for theirs in names]
        pieces = self._exchange([[part[rank] for part in parts] for rank in range(self.size)], coming, anything)
        directions = {}
        for theirs, received in zip(names, pieces, strict=True):
            directions |= zip(theirs, received, strict=True)
        return directions

    def _exchange(
        self, to: list[list[Tensor]], shapes: list[list[tuple[int, int]]], like: Tensor
    ) -> list[list[Tensor]]:
        """Send tensors to each process; get from each those of the `shapes` that are expected."""
        outgoing = [sum(t.numel() for t in tensors) for tensors in to]
        incoming = [sum(a * b for a, b in wanted) for wanted in shapes]
        send = like.new_empty(sum(outgoing))
        _write(send, [t for tensors in to for t in tensors])
        receive = like.new_empty(sum(incoming))
        dist.all_to_all_single(receive, send, incoming, outgoing, group=self.group)
        return [_read(part, wanted) for part, wanted in zip(receive.split(incoming), shapes, strict=True)]


def _write(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Tensors end to end into `flat`."""
    place = 0
    for tensor in tensors:
        flat[place : place + tensor.numel()].view(tensor.shape).copy_(tensor)
        place += tensor.numel()


def _read(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The tensors that lie end to end in `flat`."""
    tensors, place = [], 0
    for shape in shapes:
        count = shape[0] * shape[1]
        tensors.append(flat[place : place + count].view(*shape))
        place += count
    return tensors
