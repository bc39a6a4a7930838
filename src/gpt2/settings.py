"""Every setting of a training run: the options of `gpt2 train`, the keys of its TOML file, one and the same.

No torch here: `gpt2 train --help` is made from this file.
"""

import dataclasses
import json
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin

from gpt2.config import flatten_toml, load_preset
from gpt2.errors import ConfigError, nearest


@dataclass(frozen=True)
class DataSettings:
    """What to learn from."""

    text: tuple[str, ...] = ()
    """Text files or folders (.txt, .txt.gz, .jsonl); none: the bundled stories."""
    valid: tuple[str, ...] = ()
    """Validation text; none: a share of the documents is held out, chosen by a hash of their content."""
    fraction: float = 1.0
    """Use the first share of the documents, in (0, 1]."""
    valid_fraction: float = 0.05
    """Share of the documents to hold out if no validation text is given."""
    split: Literal["auto", "paragraph"] = "auto"
    """Files without <|endoftext|> lines: one document each (auto) or one per block of lines (paragraph)."""
    text_field: str = "text"
    """Key of the text in .jsonl files."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """Invalid UTF-8: stop and name the place, or put U+FFFD in its stead."""
    tokenizer: str | None = None
    """A tokenizer.json to use; none: one is trained on the text."""


@dataclass(frozen=True)
class ModelSettings:
    """The shape of the model; what is left out is chosen for the text, the machine and the time."""

    vocab_size: int | None = None
    """Token ids, a multiple of 64 being fastest; the tokenizer is trained to it."""
    context_length: int | None = None
    """Longest stretch of text the model sees, in tokens."""
    d_model: int | None = None
    """Width."""
    num_layers: int | None = None
    """Blocks."""
    num_heads: int | None = None
    """Attention heads per block; must divide d_model."""
    dropout: float | None = None
    """Share of values zeroed in training, in [0, 1)."""


@dataclass(frozen=True)
class OptimizationSettings:
    """How to learn."""

    minutes: float | None = None
    """Train this long: the whole learning-rate schedule fits into it."""
    epochs: float | None = None
    """Or pass over the text this many times."""
    steps: int | None = None
    """Or make this many optimizer steps."""
    batch_size: int | None = None
    """Sequences of context_length tokens per optimizer step, over all processes."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for the hidden matrices with AdamW for the rest, or AdamW for all."""
    lr: float | None = None
    """Peak learning rate (of the hidden matrices, for Muon)."""
    weight_decay: float | None = None
    """Decay of the matrices, in units of the learning rate."""
    warmup: float = 0.01
    """Share of the run over which the learning rate rises."""
    decay: Literal["linear", "cosine", "constant"] | None = None
    """How the learning rate falls; none: linear for Muon, cosine for AdamW."""
    grad_clip: float | None = None
    """Largest norm of the gradient; none: 1.0 for AdamW, off for Muon."""
    patience: int | None = None
    """Stop after this many validations without a better one."""
    on_divergence: Literal["restore", "lower-rate", "stop"] = "restore"
    """When the loss leaves the finite numbers or jumps up for good: go back to the last good checkpoint and pass over
    the batches since, or go back and halve the learning rate, or stop."""


@dataclass(frozen=True)
class RunSettings:
    """Where, on what, and how often."""

    out: str | None = None
    """The model folder to write; none: models/ and the name of the text."""
    overwrite: bool = False
    """Replace a run that is already in the folder."""
    resume: str | None = None
    """Continue this run from its last checkpoint."""
    from_model: str | None = None
    """Fine-tune this model, with its own tokenizer."""
    seed: int = 0
    """Of the weights, the order of the text and dropout."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the activations; auto: bfloat16 where it is measured to be faster."""
    threads: int | None = None
    """CPU threads; none: PyTorch's choice, or one where that is measured to be faster."""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    """Several processes (torchrun): a copy of the model in each (ddp, the default), its rows divided among all (fsdp)
    or among those of each machine (hsdp)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto: only where it is known to pay."""
    kernels: Literal["fused", "reference"] = "fused"
    """Fast kernels, or every formula written out."""
    micro_batch_tokens: int | None = None
    """Tokens per forward pass; fewer need less memory, the numbers stay the same."""
    evals: int = 10
    """Validations, each with a sample of text, spread over the run."""
    save_every: int | None = None
    """Steps between checkpoints; none: with each validation."""
    keep_every: int | None = None
    """Keep for good the first checkpoint in each stretch of so many steps; the last two and the best stay anyway."""
    snapshots: int | None = None
    """Small copies of the weights over the run, to look back at how it learned; none: 12, if 100 MB hold them."""
    prompt: str = ""
    """Beginning of the samples; empty: the model begins by itself."""
    plan: bool = False
    """Print the plan and stop."""


_GROUPS: dict[str, type] = {
    "data": DataSettings,
    "model": ModelSettings,
    "optimization": OptimizationSettings,
    "run": RunSettings,
}
_HOMES = {item.name: group for group, kind in _GROUPS.items() for item in dataclasses.fields(kind)}
_TYPES: dict[str, Any] = {item.name: item.type for kind in _GROUPS.values() for item in dataclasses.fields(kind)}

# A run has one of these; a later layer's replaces an earlier layer's.
LENGTHS = ("minutes", "epochs", "steps")

# What belongs to one call and not to the run that it describes.
_OF_THE_CALL = ("overwrite", "resume", "plan")


@dataclass(frozen=True)
class TrainSettings:
    """All settings of a run. `TrainSettings.make(d_model=128, minutes=5)` takes them flat."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        lengths = {name: getattr(self.optimization, name) for name in LENGTHS}
        given = {name: value for name, value in lengths.items() if value is not None}
        if len(given) > 1:
            raise ConfigError(f"give one of minutes, epochs and steps, not {' and '.join(given)}")
        positive = {
            **given, "batch_size": self.optimization.batch_size, "lr": self.optimization.lr,
            "patience": self.optimization.patience, "grad_clip": self.optimization.grad_clip,
            "save_every": self.run.save_every, "keep_every": self.run.keep_every, "evals": self.run.evals,
            "micro_batch_tokens": self.run.micro_batch_tokens, "threads": self.run.threads,
        }  # fmt: skip
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}")
        if self.run.snapshots is not None and self.run.snapshots < 0:
            raise ConfigError(f"snapshots must be 0 or more, got {self.run.snapshots}")
        for name in ("warmup", "weight_decay"):
            value = getattr(self.optimization, name)
            if value is not None and not 0 <= value < 1:
                raise ConfigError(f"{name} must lie in [0, 1), got {value}")
        if self.run.resume and self.run.overwrite:
            raise ConfigError("resume continues a run; it does not go with overwrite")

    @classmethod
    def make(cls, **flat: Any) -> Self:
        """From flat names; lists become tuples, whole numbers serve for floats.

        Raises:
            ConfigError: an unknown name (the nearest is named), a wrong type or a value out of range.
        """
        groups: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
        for name, value in flat.items():
            if name not in _HOMES:
                raise ConfigError(f"unknown setting {name!r}.{nearest(name, _HOMES)}")
            groups[_HOMES[name]][name] = _checked(name, value)
        return cls(**{group: kind(**groups[group]) for group, kind in _GROUPS.items()})

    @classmethod
    def layered(cls, *layers: Mapping[str, Any]) -> Self:
        """From flat layers; a later one wins. A layer may name a `preset` or a `config` file below it."""
        merged: dict[str, Any] = {}
        for layer in layers:
            layer = dict(layer)
            preset, config = layer.pop("preset", None), layer.pop("config", None)
            below = [load_preset(preset)] if preset is not None else []
            below += [read_toml(config)] if config is not None else []
            for values in (*below, layer):
                if any(values.get(name) is not None for name in LENGTHS):  # a new length takes the old one's place
                    merged = {name: value for name, value in merged.items() if name not in LENGTHS}
                merged |= values
        return cls.make(**merged)

    def flat(self) -> dict[str, Any]:
        """Every setting under its flat name."""
        return {name: getattr(getattr(self, group), name) for name, group in _HOMES.items()}

    def changed(self, **flat: Any) -> Self:
        """A copy with some settings replaced."""
        return self.make(**{**self.flat(), **flat})

    def to_toml(self, header: str = "") -> str:
        """The settings that describe the run, as TOML that `--config` reads back; None is left out."""
        lines = [f"# {line}".rstrip() for line in header.splitlines()]
        for group in _GROUPS:
            values = dataclasses.asdict(getattr(self, group))
            kept = {k: v for k, v in values.items() if v is not None and k not in _OF_THE_CALL}
            lines += ["", f"[{group}]", *(f"{name} = {_toml_value(value)}" for name, value in kept.items())]
        return "\n".join(lines).lstrip("\n") + "\n"


def read_toml(path: str | Path) -> dict[str, Any]:
    """Settings of a TOML file, flat.

    Raises:
        ConfigError: the file is missing or not TOML; the message names the line.
    """
    try:
        return flatten_toml(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error}") from error


def _checked(name: str, value: Any) -> Any:
    """`value` in the type of its field, or an error that names both."""
    declared = _TYPES[name]
    kinds = get_args(declared) if get_origin(declared) in (Union, types.UnionType) else (declared,)
    if value is None and types.NoneType in kinds:
        return None
    kind = kinds[0]
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            raise ConfigError(
                f"{name} must be one of {', '.join(choices)}; got {value!r}.{nearest(str(value), choices)}"
            )
        return value
    if get_origin(kind) is tuple:
        items: Any = (value,) if isinstance(value, (str, Path)) else value
        return tuple(str(item) for item in items)
    if kind is str and isinstance(value, Path):
        return str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{name} must be of type {kind.__name__}, got {value!r}")
    return value


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # a TOML basic string has JSON's escapes
    return repr(value)
