"""The cache: every named value of one forward pass, out of reach of whoever reads it."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from gpt2.inspection.names import Key, long_name, require_name
from gpt2.model import GPT2
from gpt2.model.ops import Tap

Edit = Callable[[Tensor], Tensor]
"""A value of the forward pass to what takes its place."""


class Cache(Mapping[str, Tensor]):
    """Values by name, as TransformerLens' `ActivationCache`: `cache["blocks.0.hook_resid_pre"]`, `cache["pattern", 0]`.

    What it hands out is a copy: no edit in place reaches it.

    Args:
        values: long name -> value; kept as they are.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: Key) -> Tensor:
        return self.view(key).clone()

    def __contains__(self, key: object) -> bool:
        return (long_name(key) if isinstance(key, tuple) else key) in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        size = sum(value.numel() * value.element_size() for value in self._values.values())
        return f"Cache({len(self)} values, {size / 1e6:.1f} MB)"

    def view(self, key: Key) -> Tensor:
        """The value itself, for analyses that only read.

        Raises:
            ConfigError: no value of this name; the message names the nearest.
        """
        name = long_name(key)
        require_name(name, self._values)
        return self._values[name]

    def copy(self) -> "Cache":
        """A cache of its own, with its own values."""
        return Cache({name: value.clone() for name, value in self._values.items()})

    def equals(self, other: "Cache") -> bool:
        """Whether both hold the same names and the same bits."""
        return list(self) == list(other) and all(torch.equal(self._values[n], other._values[n]) for n in self)


@torch.no_grad()
def forward(
    model: GPT2, ids: Tensor, edits: Mapping[str, list[Edit]] | None = None, keep: Callable[[str], bool] | None = None
) -> tuple[Tensor, Cache]:
    """One tapped forward pass.

    Args:
        model: any; every pass of the views is in evaluation mode, whatever the model's is.
        ids: (B, T) long.
        edits: name -> what is done to the value, in order; the cache holds the result.
        keep: whether to store the value of a name; None: all.

    Returns:
        Logits (B, T, V), and the cache.
    """
    tap, values = tapped(edits or {}, keep)
    with model.evaluating():
        logits = model(ids, tap=tap)
    return logits, Cache(values)


def tapped(
    edits: Mapping[str, list[Edit]], keep: Callable[[str], bool] | None = lambda name: False
) -> tuple[Tap, dict[str, Tensor]]:
    """A tap that edits and stores values, as `forward` has it, and what it has stored."""
    values: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        for edit in edits.get(name, ()):
            value = edit(value)
        if keep is None or keep(name):
            values[name] = value.detach().clone()
        return value

    return tap, values
