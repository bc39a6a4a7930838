"""Change a value on its way through the model and see what follows: ablate, swap, patch, steer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gpt2.errors import ConfigError
from gpt2.inspection.cache import Edit, forward
from gpt2.inspection.means import mean_by_position
from gpt2.inspection.names import Key, all_names, long_name, require_name
from gpt2.inspection.reference import Texts, documents
from gpt2.inspection.weights import require_head
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

_WHOLE = {"hook_attn_out": "attention", "hook_mlp_out": "MLP"}
"""Values that are a part of the model, by the name that pictures give it."""

if TYPE_CHECKING:
    from gpt2.inspection.run import Run

How = Literal["zero", "mean", "resample"]


@dataclass(frozen=True)
class Site:
    """A part of a named value: all of it, one head or neuron, at one position or all."""

    name: str
    part: int | None = None
    position: int | None = None

    def index(self) -> tuple[int | slice, ...]:
        """Where it lies in the value: (B, T, ...), or (B, H, T, S) for scores and pattern."""
        every = slice(None)
        time = every if self.position is None else self.position
        if self.name.endswith(("hook_pattern", "hook_attn_scores")):
            return (every, every if self.part is None else self.part, time)
        if self.part is None:
            return (every, time)
        return (every, time, self.part)

    def replaced(self, value: Tensor, new: Tensor | float) -> Tensor:
        """`value` with this part replaced."""
        value = value.clone()
        value[self.index()] = new.to(value) if isinstance(new, Tensor) else new
        return value


@dataclass(frozen=True)
class Intervention:
    """What is done to one value. `bind` gives the function for a model and a text of T tokens."""

    site: Site
    description: str
    bind: Callable[[GPT2, Tokenizer | None, int], Edit]


def ablate(
    name: Key | None = None, *, head: tuple[int, int] | None = None, neuron: tuple[int, int] | None = None,
    attn: int | None = None, mlp: int | None = None, position: int | None = None, how: How = "zero",
    reference: Texts | None = None, seed: int = 0,
) -> Intervention:  # fmt: skip
    """Take a part of the model out of the computation.

    Args:
        name: a value by name, or one of the following.
        head: (layer, head), its z.
        neuron: (layer, neuron) of an MLP, after the GELU.
        attn: layer, all that its attention adds.
        mlp: layer, all that its MLP adds.
        position: only there; None: everywhere.
        how: "zero"; "mean" over reference texts at the same position; "resample": the value of a reference
            text drawn with `seed`, at the same positions.
        reference: texts or ids; None: the first 64 bundled stories.
        seed: of the draw.

    Raises:
        ConfigError: not exactly one part is named, or an unknown `how`.
    """
    site = _site(name, head, neuron, attn, mlp, position)
    if how not in ("zero", "mean", "resample"):
        raise ConfigError(f"how must be zero, mean or resample, got {how!r}")

    def bind(model: GPT2, tokenizer: Tokenizer | None, time: int) -> Edit:
        if how == "zero":
            return lambda value: site.replaced(value, 0.0)
        stand_in = _stand_in(model, tokenizer, site.name, time, how, reference, seed)[site.index()]
        return lambda value: site.replaced(value, stand_in)

    return Intervention(site, f"{_words(site)} ablated ({how})", bind)


def swap(name: Key, value: Tensor, *, head: int | None = None, position: int | None = None) -> Intervention:
    """Put `value` in the place of a named value, or of one head of it, at one position or all.

    Args:
        name: which value.
        value: anything that broadcasts to what it replaces.
        head: only this head, for values that have heads.
        position: only there.
    """
    site = Site(long_name(name), head, position)
    return Intervention(
        site, f"{_words(site)} swapped", lambda model, tokenizer, time: lambda x: site.replaced(x, value)
    )


def patch(source: "Run", name: Key, *, head: int | None = None, position: int | None = None) -> Intervention:
    """Put in a value of another run (of as many tokens, unless only one position is patched).

    Raises:
        ConfigError: the source has no value of this name.
    """
    site = Site(long_name(name), head, position)
    value = source.cache.view(name)[site.index()]

    def edit(x: Tensor) -> Tensor:
        if position is None and x.shape[1] != source.cache.view(name).shape[1]:
            raise ConfigError(
                f"{site.name} of the other run has shape {tuple(source.cache.view(name).shape)}, here it is "
                f"{tuple(x.shape)}: patch texts of equally many tokens, or one position"
            )
        return site.replaced(x, value)

    return Intervention(site, f"{_words(site)} patched from another run", lambda model, tokenizer, time: edit)


def steer(name: Key, direction: Tensor, strength: float = 1.0, *, position: int | None = None) -> Intervention:
    """Add `strength` times a direction (D) to a value of the residual stream."""
    site = Site(long_name(name), None, position)

    def edit(value: Tensor) -> Tensor:
        return site.replaced(value, value[site.index()] + strength * direction.to(value))

    return Intervention(site, f"{_words(site)} steered by {strength:g}", lambda model, tokenizer, time: edit)


def edits_of(
    interventions: Sequence[Intervention], model: GPT2, tokenizer: Tokenizer | None, time: int
) -> dict[str, list[Edit]]:
    """Interventions as functions by name, ready for `forward`.

    Raises:
        ConfigError: the model has no such value, head or layer.
    """
    edits: dict[str, list[Edit]] = {}
    for item in interventions:
        require_name(item.site.name, all_names(model.config.num_layers))
        if item.site.part is not None and ".attn." in item.site.name:
            require_head(model, int(item.site.name.split(".")[1]), item.site.part)
        edits.setdefault(item.site.name, []).append(item.bind(model, tokenizer, time))
    return edits


def _stand_in(
    model: GPT2, tokenizer: Tokenizer | None, name: str, time: int, how: How, texts: Texts | None, seed: int
) -> Tensor:
    """(1, T, ...): what a value is in other texts. Not for values between two tokens."""
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        raise ConfigError(f"{name} is a relation between tokens; ablate it with how='zero', or ablate the head's z")
    device = next(model.parameters()).device
    rows = documents(model, tokenizer, texts, shortest=1)
    if how == "resample":
        rows = [row for row in rows if len(row) >= time]
        if not rows:
            raise ConfigError(f"no reference text has {time} tokens to resample from; give longer ones, or how='mean'")
        chosen = int(torch.randint(len(rows), (1,), generator=torch.Generator().manual_seed(seed)))
        ids = torch.tensor([rows[chosen][:time]], device=device)
        return forward(model, ids, keep=lambda n: n == name)[1].view(name)
    return mean_by_position(model, [row[:time] for row in rows], time, [name])[name]


def _site(
    name: Key | None, head: tuple[int, int] | None, neuron: tuple[int, int] | None, attn: int | None, mlp: int | None,
    position: int | None,
) -> Site:  # fmt: skip
    given = [item for item in (name, head, neuron, attn, mlp) if item is not None]
    if len(given) != 1:
        raise ConfigError("name one part: a value's name, or head=(layer, head), neuron=(layer, number), attn=, mlp=")
    if head is not None:
        return Site(long_name(("z", head[0])), head[1], position)
    if neuron is not None:
        return Site(long_name(("post", neuron[0])), neuron[1], position)
    if attn is not None:
        return Site(long_name(("attn_out", attn)), None, position)
    if mlp is not None:
        return Site(long_name(("mlp_out", mlp)), None, position)
    assert name is not None
    return Site(long_name(name), None, position)


def _words(site: Site) -> str:
    at = "" if site.position is None else f" at position {site.position}"
    layer, _, inner = site.name.removeprefix("blocks.").partition(".")
    if inner == "attn.hook_z" and site.part is not None:
        return f"head {layer}.{site.part}{at}"
    if site.part is None and inner in _WHOLE:
        return f"{_WHOLE[inner]} {layer}{at}"
    part = "" if site.part is None else f", {'neuron' if 'mlp' in site.name else 'head'} {site.part}"
    return f"{site.name}{part}{at}"
