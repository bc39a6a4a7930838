"""Documents that share one batch: which tokens belong together, and where each document lies."""

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

# Documents are padded to a multiple of this length; neighbours of one padded length form a group.
_STEP = 32


class Segments:
    """The documents of a packed batch, end to end: `Segments([3, 2])` is two in five tokens.

    Neighbours of similar length are handled together, so a batch sorted by length is fastest; any
    order is correct.

    Args:
        lengths: tokens of each document, in order; rows of the batch follow each other.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = [int(length) for length in lengths]
        self._groups: dict[torch.device, list[Group]] = {}

    @classmethod
    def from_ids(cls, segments: Tensor) -> "Segments":
        """From (B, T) ids that change where a new document begins; a row also begins one."""
        rows = torch.arange(segments.shape[0], device=segments.device).unsqueeze(1)
        pairs = torch.stack([rows.expand_as(segments), segments], dim=-1).flatten(0, 1)
        counts = torch.unique_consecutive(pairs, dim=0, return_counts=True)[-1]
        return cls(counts.tolist())

    @cached_property
    def positions(self) -> Tensor:
        """(tokens,) long: 0, 1, 2, ... from the start of each document."""
        return torch.cat([torch.arange(length) for length in self.lengths])

    def same(self, batch: int) -> Tensor:
        """(B, 1, T, T) bool: true where two tokens of a row belong to one document."""
        ids = torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths)).view(batch, -1)
        return (ids[:, :, None] == ids[:, None, :]).unsqueeze(1)

    def groups(self, device: torch.device) -> list["Group"]:
        """Runs of neighbouring documents of similar length; made once per device, used by every layer."""
        if device not in self._groups:
            start, groups = 0, []
            for run in self._runs(whole=device.type != "cpu"):
                groups.append(Group(run, start, device))
                start += sum(run)
            self._groups[device] = groups
        return self._groups[device]

    def _runs(self, whole: bool) -> list[list[int]]:
        """Lengths by group; unless `whole`, a group has 1, 2, 4, 8, ... documents.

        Few shapes, then: on CPUs each new shape of a matrix product is compiled and kept, which takes longer
        than the product.
        """
        runs: list[list[int]] = []
        for _, documents in itertools.groupby(self.lengths, _padded):
            run = list(documents)
            while run:
                size = len(run) if whole else 2 ** (len(run).bit_length() - 1)
                runs.append(run[:size])
                run = run[size:]
        return runs


def _padded(length: int) -> int:
    return -(-length // _STEP) * _STEP


class Group:
    """A run of documents, and the way between its tokens end to end and a padded rectangle.

    Attributes:
        tokens: where the group lies among the tokens of the batch.
    """

    def __init__(self, lengths: list[int], start: int, device: torch.device) -> None:
        self.count, self.longest = len(lengths), _padded(lengths[0])
        self.tokens = slice(start, start + sum(lengths))
        self.ragged = min(lengths) < self.longest
        if self.ragged:
            column = torch.arange(self.longest).expand(self.count, -1)
            real = column < torch.tensor(lengths).unsqueeze(1)
            slots = real.flatten().nonzero().squeeze(1)
            source = torch.zeros(self.count * self.longest, dtype=torch.long)  # padding repeats token 0
            source[slots] = torch.arange(len(slots))
            self.source, self.slots = source.to(device), slots.to(device)

    def pad(self, x: Tensor) -> Tensor:
        """(tokens, H, d) -> (documents, longest, H, d); the padding's content is arbitrary."""
        if self.ragged:
            padded: Any = _Pad.apply(x, self.source, self.slots)
            x = padded
        return x.unflatten(0, (self.count, self.longest))

    def unpad(self, x: Tensor) -> Tensor:
        """(documents, longest, H, d) -> (tokens, H, d)."""
        x = x.flatten(0, 1)
        if self.ragged:
            unpadded: Any = _Unpad.apply(x, self.slots)
            x = unpadded
        return x

    def pad_with_zeros(self, x: Tensor) -> Tensor:
        """As `pad`, with zeros in the padding: for gradients, which it must not have."""
        if self.ragged:
            x = _spread(x, self.slots, self.count * self.longest)
        return x.unflatten(0, (self.count, self.longest))


def _spread(x: Tensor, slots: Tensor, rows: int) -> Tensor:
    return x.new_zeros(rows, *x.shape[1:]).index_copy_(0, slots, x)


class _Pad(torch.autograd.Function):
    """Gather forward and gather backward: each token fills one slot, the padding has no gradient.

    The backward pass of plain indexing would add up into zeros instead, which is slower.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        return x.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return grads[0].index_select(0, slots), None, None


class _Unpad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.rows = x.shape[0]
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        return _spread(grads[0], slots, ctx.rows), None
