"""GGUF, the file of llama.cpp: written here, because its own converter refuses every vocabulary it has not met.

Its GPT-2 has OpenAI's split pattern and plain merges, so a tokenizer trained here means the same there.
The layout is that of llama.cpp's `gguf-py` (constants of the architecture "gpt2"); linear weights are (out, in).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gpt2.config import LAYER_NORM_EPSILON, GPT2Config
from gpt2.errors import ConfigError, MissingExtraError
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

BLOCK = 32
"""Weights that share one scale in q8_0."""

_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gguf(model: GPT2, tokenizer: Tokenizer, path: Path, dtype: str, name: str) -> None:
    """Write model and tokenizer as one file.

    Args:
        model: its weights are converted from their own type.
        tokenizer: without a normalizer, which GGUF cannot express.
        path: the file.
        dtype: "f32", "f16" or "q8_0", the type of the matrices; norms, biases and positions are always f32.
        name: of the model, for its metadata.

    Raises:
        MissingExtraError: the extra `export` is not installed.
        ConfigError: the model or tokenizer cannot be expressed.
    """
    gguf = _library()
    require_expressible(model.config, tokenizer, dtype)
    kinds = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}
    kind = gguf.GGMLQuantizationType[kinds[dtype]]
    writer = gguf.GGUFWriter(str(path), "gpt2")
    _describe(writer, model.config, name)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if dtype == "f32" else f"MOSTLY_{kinds[dtype]}"])
    _add_tokenizer(writer, gguf, tokenizer, model.config)
    for key, tensor in tensors_of(model).items():
        is_matrix = tensor.ndim == 2 and not key.startswith("position_embd")
        chosen = kind if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(key, gguf.quantize(tensor, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def require_expressible(config: GPT2Config, tokenizer: Tokenizer, dtype: str) -> None:
    """Refuse what a GGUF file cannot hold.

    Raises:
        ConfigError: a tokenizer with a normalizer, or a width that 8-bit blocks do not divide.
    """
    if tokenizer.normalizes:
        raise ConfigError("the tokenizer has a normalizer, which GGUF cannot express: export to hf or onnx")
    if dtype == "q8_0" and config.d_model % BLOCK:
        raise ConfigError(
            f"q8_0 needs d_model to be a multiple of {BLOCK}, this model has {config.d_model}: take --dtype f16"
        )


def tensors_of(model: GPT2) -> dict[str, np.ndarray]:
    """All weights as float32 under GGUF's names; matrices are (out, in) or (ids, d_model).

    The embedding serves as output too: llama.cpp takes it where there is no `output.weight`.
    """
    found: dict[str, np.ndarray] = {}
    for full, parameter in model.named_parameters():
        name = full.removeprefix("transformer.")
        value = _numpy(parameter)
        if name.startswith("h."):
            _, layer, rest = name.split(".", 2)
            part, _, end = rest.rpartition(".")
            linear = value.ndim == 2
            found[f"blk.{layer}.{_NAMES[part]}.{end}"] = np.ascontiguousarray(value.T) if linear else value
        else:
            part, _, end = name.rpartition(".")
            found[f"{ {'wte': 'token_embd', 'wpe': 'position_embd', 'ln_f': 'output_norm'}[part] }.{end}"] = value
    return found


def _describe(writer: Any, config: GPT2Config, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(4 * config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_layer_norm_eps(LAYER_NORM_EPSILON)


def _add_tokenizer(writer: Any, gguf: Any, tokenizer: Tokenizer, config: GPT2Config) -> None:
    """Tokens as they are spelled in tokenizer.json; rows of a padded vocabulary are named and never chosen."""
    content = json.loads(tokenizer.to_json())
    vocab, added = content["model"]["vocab"], content["added_tokens"]
    spelled = {number: token for token, number in vocab.items()}
    kinds: dict[int, Any] = dict.fromkeys(spelled, gguf.TokenType.NORMAL)
    for token in added:
        spelled[token["id"]] = token["content"]
        kinds[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    for number in range(len(spelled), config.vocab_size):
        spelled[number], kinds[number] = f"[PAD{number}]", gguf.TokenType.UNUSED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([spelled[number] for number in range(config.vocab_size)])
    writer.add_token_types([int(kinds[number]) for number in range(config.vocab_size)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError(
            "GGUF needs the package gguf; install it with: pip install 'gpt2-from-scratch[export]'"
        ) from error
    return gguf
