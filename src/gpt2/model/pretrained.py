"""A model folder: config.json, generation_config.json and model.safetensors, in Hugging Face's own form.

Names and layout of our parameters are Hugging Face's, so nothing is converted on the way.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gpt2.config import GPT2Config
from gpt2.errors import CheckpointError, nearest
from gpt2.files import default_mode, require_free_space, write_json
from gpt2.manifest import forget_manifest
from gpt2.model.weight_files import WEIGHTS, read_json

if TYPE_CHECKING:
    from gpt2.model.gpt2 import GPT2

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def save(model: "GPT2", folder: str | Path) -> None:
    """Write the three files; weights in the parameters' own type. See `GPT2.save_pretrained`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    forget_manifest(folder)
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
        temporary.chmod(default_mode())  # safetensors writes for the owner alone
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
    return GPT2Config.from_hf(read_json(folder / CONFIG))


def read_generation_defaults(folder: str | Path) -> dict[str, Any]:
    """Sampling defaults of `generation_config.json`, or none."""
    path = Path(folder) / GENERATION_CONFIG
    if not path.is_file():
        return {}
    stored = read_json(path)
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    defaults = {name: stored[name] for name in names if stored.get(name) is not None}
    if defaults.get("top_k") == 0:  # Hugging Face's way to say "off"
        del defaults["top_k"]
    return defaults


def load_weights(model: "GPT2", state: dict[str, Tensor]) -> None:
    """Put tensors into a model (which may be on the meta device), after names and shapes are compared.

    Bare names (`h.0...`), the mask buffers of old files (`attn.bias`) and a tied `lm_head.weight`
    are understood.

    Raises:
        CheckpointError: missing, unexpected, misshapen or quantised tensors, named.
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
        if state[name].dtype not in _DTYPES:
            raise CheckpointError(
                f"{name} is stored as {str(state[name].dtype).removeprefix('torch.')}; quantised weights cannot be "
                f"read, take the model in float32, float16 or bfloat16"
            )
    # In a .bin a tensor may be a transposed or expanded view of its memory.
    model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
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


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _near(folder: Path) -> str:
    parent = folder.parent
    return nearest(folder.name, [child.name for child in parent.iterdir()]) if parent.is_dir() else ""
