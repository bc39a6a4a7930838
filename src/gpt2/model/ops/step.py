"""One decoding step as a single call into `step.cpp`: weights laid out once, room for everything made once."""

import ctypes
import mmap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gpt2 import native
from gpt2.model.kv_cache import KVCache
from gpt2.model.ops.int8 import quantize

_PANEL, _LANES, _SPARE = 32, 16, 16  # as in step.cpp
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}

_Int, _Pointer = ctypes.c_int64, ctypes.c_void_p


class _Matrix(ctypes.Structure):
    _fields_ = [("panels", _Pointer), ("scale", _Pointer), ("bias", _Pointer), ("rows", _Int), ("columns", _Int)]


class _Norm(ctypes.Structure):
    _fields_ = [("weight", _Pointer), ("bias", _Pointer)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in ("norm1", "norm2")),
        *((name, _Matrix) for name in ("qkv", "attention_out", "up", "down")),
        *((name, _Pointer) for name in ("keys", "values")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("layers", "heads", "d_model", "vocab", "context", "batch", "threads")),
        *((name, _Int) for name in ("weight_type", "cache_type")),
        *((name, _Pointer) for name in ("layer", "tokens", "positions")),
        ("norm", _Norm),
        ("head", _Matrix),
        *((name, _Pointer) for name in ("padding", "x", "wide", "z", "hidden", "norms", "scores", "logits")),
    ]


def obstacle(model: Any, dtype: torch.dtype) -> str:
    """Why `step.cpp` cannot run this model here; empty: it can."""
    config = model.config
    if model.kernels.name != "fused":
        return f"the kernels are {model.kernels.name}"
    if next(model.parameters()).device.type != "cpu":
        return "the model is not on the CPU"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"the type is {dtype}"
    if config.head_dim % _LANES or config.d_model % _PANEL:
        return f"heads of {config.head_dim} dimensions; it needs a multiple of {_LANES}"
    return native.library()[1]


class PackedWeights:
    """A model's weights as `step.cpp` reads them: a copy, so make it anew when the model changes.

    Args:
        model: a GPT-2.
        dtype: of the matrices: float32, bfloat16, or int8 with one factor per column.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.config, self.dtype = model.config, dtype
        self._kept: list[Tensor] = []  # what the addresses below point into
        self._arena = _Arena(sum(p.numel() for p in model.parameters()) * dtype.itemsize * 9 // 8)
        state = {name: value.detach() for name, value in model.named_parameters()}
        self.layers = (_Layer * self.config.num_layers)()
        for number, layer in enumerate(self.layers):
            prefix = f"transformer.h.{number}."
            layer.norm1, layer.norm2 = (self._norm(state, f"{prefix}ln_{i}") for i in (1, 2))
            layer.qkv, layer.attention_out, layer.up, layer.down = (
                self._matrix(state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"])
                for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            )
        self.norm = self._norm(state, "transformer.ln_f")
        self.tokens, self.positions = (self._fp32(state[f"transformer.{name}.weight"]) for name in ("wte", "wpe"))
        self.head = self._matrix(state["transformer.wte.weight"].T, None)

    def _fp32(self, value: Tensor) -> int:
        self._kept.append(value.float().contiguous())
        return self._kept[-1].data_ptr()

    def _norm(self, state: Mapping[str, Tensor], name: str) -> _Norm:
        return _Norm(self._fp32(state[f"{name}.weight"]), self._fp32(state[f"{name}.bias"]))

    def _matrix(self, weight: Tensor, bias: Tensor | None) -> _Matrix:
        rows, columns = weight.shape
        missing = -columns % _PANEL
        scale = None
        if self.dtype == torch.int8:
            weight, scale = quantize(weight)
            scale = self._fp32(torch.cat([scale, scale.new_zeros(missing)]))
        weight = torch.cat([weight, weight.new_zeros(rows, missing)], dim=1).to(self.dtype)
        self._kept.append(self._arena.keep(_panels(weight)))
        panels = self._kept[-1].data_ptr()
        if bias is not None:
            bias = torch.cat([bias, bias.new_zeros(missing)])
        return _Matrix(panels, scale, None if bias is None else self._fp32(bias), rows, columns)


class _Arena:
    """One stretch of memory in large pages, where the system has them: fewer address look-ups while reading."""

    def __init__(self, num_bytes: int) -> None:
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
        self._map = mmap.mmap(-1, num_bytes + 2**21, **private)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._used = 0

    def keep(self, value: Tensor) -> Tensor:
        """A copy, aligned to 64 bytes."""
        size = value.numel() * value.element_size()
        place = self._bytes[self._used : self._used + size].view(value.dtype).view(value.shape)
        self._used += -(-size // 64) * 64
        return place.copy_(value)


def _panels(weight: Tensor) -> Tensor:
    """(rows, columns) -> panels of 32 columns; narrow types interleaved so that each word of 32 bits holds
    columns k and k + 16, in int8 of two rows.
    """
    rows = weight.shape[0]
    if weight.dtype == torch.float32:
        return weight.view(rows, -1, _PANEL).transpose(0, 1).contiguous()
    together = 2 if weight.dtype == torch.int8 else 1
    parts = weight.view(rows // together, together, -1, 2, _LANES)
    return parts.permute(2, 0, 4, 1, 3).contiguous()


class NativeStep:
    """Decoding with packed weights and a cache that `GPT2.forward` has filled.

    Args:
        weights: as `step.cpp` reads them.
        cache: the past; each step adds one token per row.
    """

    def __init__(self, weights: PackedWeights, cache: KVCache) -> None:
        config, batch = weights.config, cache.keys.shape[1]
        self.weights, self.cache = weights, cache
        threads, width = torch.get_num_threads(), -(-config.vocab_size // _PANEL) * _PANEL
        sizes = {
            "x": batch * config.d_model,
            "wide": 3 * batch * config.d_model,
            "z": batch * (config.d_model + _SPARE),
            "hidden": batch * (4 * config.d_model + _SPARE),
            "norms": threads * batch * (config.d_model + _SPARE),
            "scores": threads * (config.context_length + _LANES),
        }
        self._room = {name: torch.empty(size) for name, size in sizes.items()}
        self._room["logits"] = torch.empty(batch, width)
        padding = torch.zeros(batch, dtype=torch.long) if cache.padding is None else cache.padding.contiguous()
        self._room["padding"] = padding
        self.logits = self._room["logits"][:, : config.vocab_size]
        self._layers = (_Layer * config.num_layers)(*weights.layers)
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
        self._model = _Model(
            config.num_layers, config.num_heads, config.d_model, config.vocab_size, config.context_length, batch,
            threads, _TYPES[weights.dtype], _TYPES[cache.keys.dtype], ctypes.addressof(self._layers), weights.tokens,
            weights.positions, weights.norm, weights.head,
            **{name: tensor.data_ptr() for name, tensor in self._room.items()},
        )  # fmt: skip
        library, reason = native.library()
        if library is None:
            raise RuntimeError(reason)
        self._call, self._address = library.gpt2_step, ctypes.addressof(self._model)

    def __call__(self, newest: list[int]) -> Tensor:
        """The id that each row got last -> its logits (B, V), fp32, overwritten by the next call."""
        if self.cache.length >= self.cache.capacity:
            self.cache.positions(1)  # refuses, with the reason
        ids = (_Int * len(newest))(*newest)
        self._call(self._address, ids, self.cache.length)
        self.cache.advance(1)
        return self.logits
