"""The shape of a GPT-2, and the presets. No torch here: `gpt2 --help` reads this file."""

import dataclasses
import math
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

from gpt2.errors import ConfigError, nearest

LAYER_NORM_EPSILON = 1e-5

# Our name -> Hugging Face's name in config.json.
_HF_NAMES = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "d_model": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
}

# What config.json must say, if it says anything, for the weights to mean what GPT-2 computes.
_HF_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (LAYER_NORM_EPSILON,),
    "tie_word_embeddings": (True,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute",),
    "is_encoder_decoder": (False,),
}

# Keys that say, when they have a value, that the weights belong to something else.
_HF_FOREIGN = {
    "rope_theta": "rotary positions",
    "rope_scaling": "rotary positions",
    "rope_parameters": "rotary positions",
    "rotary_dim": "rotary positions",
    "rotary_pct": "rotary positions",
    "alibi": "ALiBi positions",
    "num_key_value_heads": "grouped keys and values",
    "quantization_config": "quantised weights",
}

# Bounds that keep a hostile config.json from asking for absurd memory.
_UPPER_BOUNDS = {
    "vocab_size": 1_000_000,
    "context_length": 1_000_000,
    "d_model": 16_384,
    "num_layers": 256,
    "num_heads": 1_024,
}


@dataclass(frozen=True)
class GPT2Config:
    """The numbers that fix a GPT-2's shape (Radford et al., 2019).

    Raises:
        ConfigError: a value is not a positive integer in range, `d_model` is not a multiple of
            `num_heads`, or `dropout` lies outside [0, 1).
    """

    vocab_size: int = 10_048
    """V: number of token ids; a multiple of 64 is fastest."""
    context_length: int = 512
    """Longest sequence the learned positions cover, in tokens."""
    d_model: int = 512
    """D: width of the residual stream."""
    num_layers: int = 6
    """L: number of transformer blocks."""
    num_heads: int = 8
    """H: attention heads per block; each has d_model / num_heads dimensions."""
    dropout: float = 0.0
    """Probability of zeroing an embedding, an attention weight or a branch's output in training."""
    eos_token_id: int | None = None
    """Id of `<|endoftext|>`, which begins and ends a document; None: generation never stops early."""

    def __post_init__(self) -> None:
        for name, bound in _UPPER_BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{name} must be an integer, got {value!r}")
            if not 1 <= value <= bound:
                raise ConfigError(f"{name} must lie between 1 and {bound:,}, got {value:,}")
        if self.d_model % self.num_heads:
            raise ConfigError(
                f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads}); "
                f"try num_heads {_nearest_divisor(self.d_model, self.num_heads)} "
                f"or d_model {math.ceil(self.d_model / self.num_heads) * self.num_heads}"
            )
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, (int, float)):
            raise ConfigError(f"dropout must be a number, got {self.dropout!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must lie in [0, 1), got {self.dropout}")
        eos = self.eos_token_id
        if eos is not None and (isinstance(eos, bool) or not isinstance(eos, int) or not 0 <= eos < self.vocab_size):
            raise ConfigError(f"eos_token_id must be an id below vocab_size ({self.vocab_size}), got {eos!r}")

    @property
    def head_dim(self) -> int:
        """Dimensions of one attention head."""
        return self.d_model // self.num_heads

    def to_hf(self) -> dict[str, Any]:
        """`config.json` as `transformers.GPT2LMHeadModel` and llama.cpp's converters read it.

        `n_ctx` repeats `n_positions` because llama.cpp reads that one; the special ids are always
        written because transformers would fill in 50256.
        """
        shape = {theirs: getattr(self, ours) for ours, theirs in _HF_NAMES.items()}
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            **shape,
            "n_ctx": self.context_length,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": LAYER_NORM_EPSILON,
            "tie_word_embeddings": True,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False,
            "add_cross_attention": False,
            "embd_pdrop": self.dropout,
            "attn_pdrop": self.dropout,
            "resid_pdrop": self.dropout,
            "bos_token_id": self.eos_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.eos_token_id,
            "initializer_range": 0.02,
            "use_cache": True,
        }

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read a Hugging Face `config.json`; anything that is not GPT-2 is refused by name.

        Raises:
            ConfigError: a shape is missing, or an activation, width, epsilon or embedding tie
                differs from GPT-2's.
        """
        for key, allowed in _HF_FIXED.items():
            if key in config and config[key] not in allowed:
                raise ConfigError(
                    f"this is not a GPT-2: its configuration has {key} = {config[key]!r}, GPT-2 has {allowed[0]!r}"
                )
        for key, meaning in _HF_FOREIGN.items():
            if config.get(key):
                raise ConfigError(
                    f"this is not a GPT-2: its configuration has {key} = {config[key]!r}, that is {meaning}"
                )
        missing = [theirs for theirs in _HF_NAMES.values() if theirs not in config]
        if missing:
            raise ConfigError(f"the configuration lacks {', '.join(missing)}; is this a GPT-2's config.json?")
        shape = {ours: config[theirs] for ours, theirs in _HF_NAMES.items()}
        # Presence of the key decides: `null` means "no such token", absence means GPT-2's own default.
        eos = config.get("eos_token_id", 50256 if shape["vocab_size"] == 50257 else None)
        made = cls(**shape, dropout=_one_dropout(config), eos_token_id=eos)
        inner = config.get("n_inner")
        if inner is not None and inner != 4 * made.d_model:
            raise ConfigError(f"this is not a GPT-2: n_inner is {inner}, GPT-2 has 4 x n_embd = {4 * made.d_model}")
        return made

    def to_dict(self) -> dict[str, Any]:
        """The fields under our own names."""
        return dataclasses.asdict(self)


def preset_names() -> list[str]:
    """Names of the bundled presets, smallest model first."""
    order = ["demo", "tinystories", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    found = {Path(file.name).stem for file in _preset_folder().iterdir() if file.name.endswith(".toml")}
    return [name for name in order if name in found] + sorted(found - set(order))


def load_preset(name: str) -> dict[str, Any]:
    """Settings of a bundled preset, flat: `{"d_model": 512, ...}`.

    Raises:
        ConfigError: no such preset; the message names the nearest one.
    """
    if name not in preset_names():
        raise ConfigError(
            f"unknown preset {name!r}.{nearest(name, preset_names())} There are {', '.join(preset_names())}"
        )
    return flatten_toml(tomllib.loads((_preset_folder() / f"{name}.toml").read_text(encoding="utf-8")))


def preset_config(name: str) -> GPT2Config:
    """The `GPT2Config` of a preset.

    Raises:
        ConfigError: no such preset, or it leaves the model's shape open.
    """
    settings = load_preset(name)
    fields = {field.name for field in dataclasses.fields(GPT2Config)}
    return GPT2Config(**{key: value for key, value in settings.items() if key in fields})


def flatten_toml(table: Mapping[str, Any]) -> dict[str, Any]:
    """`{"model": {"d_model": 512}}` -> `{"d_model": 512}`: sections are for the reader."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        for name, setting in value.items() if isinstance(value, Mapping) else [(key, value)]:
            name = name.replace("-", "_")
            if name in flat:
                raise ConfigError(f"the setting {name!r} stands twice")
            flat[name] = setting
    return flat


def _one_dropout(config: Mapping[str, Any]) -> Any:
    """Hugging Face has three; ours is that of the branches. It only matters for further training."""
    three = {key: config.get(key, 0.1) for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    taken = three["resid_pdrop"]
    if any(value != taken for value in three.values()):
        warnings.warn(
            f"the configuration has unequal dropouts ({', '.join(f'{k} {v}' for k, v in three.items())}); "
            f"{taken} is taken for all three, which matters only if the model is trained further",
            stacklevel=4,
        )
    return taken


def _preset_folder() -> Any:
    return resources.files("gpt2") / "presets"


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return min(divisors, key=lambda n: abs(n - wanted))
