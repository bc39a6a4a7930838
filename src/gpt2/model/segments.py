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
        self._head_rows: dict[int, HeadRows] = {}

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

    @cached_property
    def starts(self) -> Tensor:
        """(documents + 1,) long: where each document begins, then where the last one ends."""
        return torch.tensor([0, *itertools.accumulate(self.lengths)])

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

    def head_rows(self, num_heads: int) -> "HeadRows":
        """The way to one rectangle per group and head, for all groups at once; on the CPU."""
        if num_heads not in self._head_rows:
            self._head_rows[num_heads] = HeadRows(self.groups(torch.device("cpu")), num_heads)
        return self._head_rows[num_heads]

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
        column = torch.arange(self.longest).expand(self.count, -1)
        self.real = column < torch.tensor(lengths).unsqueeze(1)  # (documents, longest)
        self.sources = torch.zeros(self.count, self.longest, dtype=torch.long)  # padding repeats token 0
        self.sources[self.real] = torch.arange(sum(lengths))
        if self.ragged:
            slots = self.real.flatten().nonzero().squeeze(1)
            self.source, self.slots = self.sources.flatten().to(device), slots.to(device)

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


class HeadRows:
    """The way from tokens end to end to padded rows in the order of group, document, head and time, and back.

    Args:
        groups: of a batch.
        num_heads: H.

    Attributes:
        shapes: of each group's rectangle: (documents H, longest).
    """

    def __init__(self, groups: list[Group], num_heads: int) -> None:
        heads = torch.arange(num_heads).unsqueeze(1)
        sources, slots, first = [], [], 0
        for group in groups:
            tokens = group.tokens.start + group.sources  # (documents, longest)
            sources.append((tokens.unsqueeze(1) * num_heads + heads).flatten())
            places = torch.arange(sources[-1].numel()).view(group.count, num_heads, -1).transpose(1, 2) + first
            slots.append(places.flatten(0, 1)[group.real.flatten()].flatten())
            first += sources[-1].numel()
        self.sources, self.slots = torch.cat(sources), torch.cat(slots)
        self.shapes = [(group.count * num_heads, group.longest) for group in groups]

    def spread(self, x: Tensor) -> Tensor:
        """(tokens, H, d) -> (rows, d); the padding's content is arbitrary."""
        return x.flatten(0, 1).index_select(0, self.sources)

    def spread_gradient(self, x: Tensor) -> Tensor:
        """As `spread`, with zeros in the padding, which has no gradient."""
        rows = x.new_zeros(len(self.sources), x.shape[-1])
        return rows.index_copy_(0, self.slots, x.flatten(0, 1))

    def gather(self, rows: Tensor, num_heads: int) -> Tensor:
        """(rows, d) -> (tokens, H, d)."""
        return rows.index_select(0, self.slots).unflatten(0, (-1, num_heads))

    def rectangles(self, rows: Tensor) -> list[Tensor]:
        """(rows, d) -> of each group (documents H, longest, d), views."""
        parts = rows.split([count * time for count, time in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]


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
        grad = grads[0]
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, slots, grad), None
