"""A model folder: config.json, generation_config.json and model.safetensors, in Hugging Face's own form.

Names and layout of our parameters are Hugging Face's, so nothing is converted on the way.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt2.config import GPT2Config
from gpt2.errors import CheckpointError, nearest
from gpt2.files import require_free_space, write_json

if TYPE_CHECKING:
    from gpt2.model.gpt2 import GPT2

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"


def save(model: "GPT2", folder: str | Path) -> None:
    """Write the three files; weights in the parameters' own type. See `GPT2.save_pretrained`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, {**model.config.to_hf(), "dtype": _dtype_name(model)})
    write_json(folder / GENERATION_CONFIG, _generation_config(model))
    save_weights(dict(model.state_dict()), folder / WEIGHTS)


def save_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, through a temporary file.

    Raises:
        UserError: the disk is full or the folder not writable; the old file is as it was.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    require_free_space(path.parent, size + 1_000_000, f"{path.name} ({size:,} bytes)")
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in state.items()},
            temporary,
            metadata={"format": "pt"},
        )
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_config(folder: str | Path) -> GPT2Config:
    """The shape of the model in `folder`.

    Raises:
        CheckpointError: no such folder, no config.json, or not JSON.
        ConfigError: not a GPT-2.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"no model folder at {folder}{_near(folder)}")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is not a model folder: it has no {CONFIG}")
    return GPT2Config.from_hf(_read_json(folder / CONFIG))


def read_generation_defaults(folder: str | Path) -> dict[str, Any]:
    """Sampling defaults of `generation_config.json`, or none."""
    path = Path(folder) / GENERATION_CONFIG
    if not path.is_file():
        return {}
    stored = _read_json(path)
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    defaults = {name: stored[name] for name in names if stored.get(name) is not None}
    if defaults.get("top_k") == 0:  # Hugging Face's way to say "off"
        del defaults["top_k"]
    return defaults


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """Tensors of `model.safetensors` under our names.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS}; is the model complete?")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); copy it again, or take an earlier checkpoint of the run"
        ) from error


def load_weights(model: "GPT2", state: dict[str, Tensor]) -> None:
    """Put tensors into a model (which may be on the meta device), after names and shapes are compared.

    Bare names (`h.0...`), the mask buffers of old files (`attn.bias`) and a tied `lm_head.weight`
    are understood.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors, named.
    """
    state = _own_names(state)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    head = state.pop("lm_head.weight", None)
    table = state.get("transformer.wte.weight")
    if head is not None and table is not None and not torch.equal(head, table):
        raise CheckpointError("this is not a GPT-2: lm_head.weight differs from wte.weight, GPT-2 ties the two")
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unexpected:
        raise CheckpointError(
            "the weights do not match the configuration: "
            + "; ".join(
                f"{word} {_some(names)}" for word, names in (("missing", missing), ("unexpected", unexpected)) if names
            )
        )
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(
                f"the weights do not match the configuration: {name} has the shape "
                f"{tuple(state[name].shape)}, config.json asks for {shape}"
            )
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    buffers = (".attn.bias", ".attn.masked_bias")
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(buffers)}
    if any(name.startswith("transformer.") for name in kept):
        return kept
    return {name if name.startswith("lm_head.") else f"transformer.{name}": tensor for name, tensor in kept.items()}


def _generation_config(model: "GPT2") -> dict[str, Any]:
    eos = model.config.eos_token_id
    special = {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos}
    longest = {"max_new_tokens": min(200, model.config.context_length)}
    return {**special, **longest, "do_sample": True, **model.generation_defaults}


def _dtype_name(model: "GPT2") -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _near(folder: Path) -> str:
    parent = folder.parent
    return nearest(folder.name, [child.name for child in parent.iterdir()]) if parent.is_dir() else ""
