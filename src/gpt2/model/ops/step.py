"""One decoding step as a single call into `step.cpp`: weights laid out once, room for everything made once."""

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
        *((name, _Int) for name in ("layers", "heads", "d_model", "vocab", "context", "threads")),
        *((name, _Int) for name in ("weight_type", "cache_type", "slot_stride", "column_stride", "head_stride")),
        *((name, _Pointer) for name in ("layer", "tokens", "positions")),
        ("norm", _Norm),
        ("head", _Matrix),
        *((name, _Pointer) for name in ("x", "queries", "z", "hidden", "norms", "scores", "logits")),
    ]


class _Rows(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("count", "answers")),
        *((name, _Pointer) for name in ("ids", "slots", "columns", "first")),
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
        self.nbytes = sum(p.numel() for p in model.parameters()) * dtype.itemsize
        self._kept: list[Tensor] = []  # what the addresses below point into
        self._arena = Arena(self.nbytes * 9 // 8)
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


class Arena:
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


class Bound:
    """Weights, a cache and room for so many rows, as one argument of `step.cpp`.

    Args:
        weights: of the model.
        keys: (L, slots, context, H, d), of which the d numbers lie together.
        values: as `keys`, in memory too.
        rows: most rows of a step.
        threads: of a step; None: as many as PyTorch takes.

    Attributes:
        logits: (rows, V), of the last step.
        address: of the argument.
    """

    def __init__(
        self, weights: PackedWeights, keys: Tensor, values: Tensor, rows: int, threads: int | None = None
    ) -> None:
        config, threads, columns = weights.config, threads or torch.get_num_threads(), keys.shape[2]
        sizes = {
            "x": rows * config.d_model,
            "queries": rows * config.d_model,
            "z": rows * (config.d_model + _SPARE),
            "hidden": rows * (4 * config.d_model + _SPARE),
            "norms": threads * rows * (config.d_model + _SPARE),
            "scores": threads * (columns + _LANES),
            "logits": rows * -(-config.vocab_size // _PANEL) * _PANEL,
        }
        self._kept = [weights, keys, values]
        self.room = {name: torch.empty(size) for name, size in sizes.items()}
        self.logits = self.room["logits"].view(rows, -1)[:, : config.vocab_size]
        self._layers = (_Layer * config.num_layers)(*weights.layers)
        for layer, key, value in zip(self._layers, keys, values, strict=True):
            layer.keys, layer.values = key.data_ptr(), value.data_ptr()
        self._model = _Model(
            config.num_layers, config.num_heads, config.d_model, config.vocab_size, columns, threads,
            _TYPES[weights.dtype], _TYPES[keys.dtype], *keys.stride()[1:4], ctypes.addressof(self._layers),
            weights.tokens, weights.positions, weights.norm, weights.head,
            **{name: tensor.data_ptr() for name, tensor in self.room.items()},
        )  # fmt: skip
        library, reason = native.library()
        if library is None:
            raise RuntimeError(reason)
        self.call, self.address = library.gpt2_step, ctypes.addressof(self._model)


class NativeStep:
    """Decoding with packed weights and a cache that `GPT2.forward` has filled.

    Args:
        weights: as `step.cpp` reads them.
        cache: the past; each step adds one token per row.
    """

    def __init__(self, weights: PackedWeights, cache: KVCache) -> None:
        self.weights, self.cache, batch = weights, cache, cache.keys.shape[1]
        self._bound = Bound(weights, cache.keys, cache.values, batch)
        self._padding = [0] * batch if cache.padding is None else cache.padding.tolist()
        row = _Int * batch
        self._ids, self._slots, self._columns, self._first = row(), row(), row(), row()
        places = map(ctypes.addressof, (self._ids, self._slots, self._columns, self._first))
        self._rows = _Rows(batch, batch, *places)

    def __call__(self, newest: Sequence[int], rows: Sequence[int]) -> Tensor:
        """The newest ids, and whose rows they are -> logits (rows, V), fp32, overwritten by the next call."""
        if self.cache.length >= self.cache.capacity:
            self.cache.positions(1)  # refuses, with the reason
        count = len(newest)
        self._ids[:count], self._slots[:count] = newest, rows
        self._columns[:count] = [self.cache.length] * count
        self._first[:count] = [self._padding[row] for row in rows]
        self._rows.count = self._rows.answers = count
        self._bound.call(self._bound.address, ctypes.byref(self._rows))
        self.cache.advance(1)
        return self._bound.logits[:count]


class SlotStep:
    """Tokens of many sequences in one call, each in a slot of its own and at its own column.

    Rows are computed in fours, filled up with a spare slot, so every row's result is the same bits whatever else the
    step holds: `step.cpp` adds up in another order for fewer rows.

    Args:
        weights: as `step.cpp` reads them.
        keys: (L, slots + 1, context, H, d), of which the last slot is spare.
        values: the same.
        rows: most rows of a step.
    """

    def __init__(self, weights: PackedWeights, keys: Tensor, values: Tensor, rows: int) -> None:
        self._most, self._spare = -(-rows // 4) * 4, keys.shape[1] - 1
        self._bound = Bound(weights, keys, values, self._most)
        self._room = np.zeros((4, self._most), dtype=np.int64)  # ids, slots, columns, first
        addresses = [self._room[i].ctypes.data for i in range(4)]
        self._rows = _Rows(0, 0, *addresses)

    def __call__(
        self, ids: NDArray[np.int64], slots: NDArray[np.int64], columns: NDArray[np.int64], answers: int
    ) -> Tensor:
        """Each row's token, slot and column -> logits of the first `answers` rows, overwritten by the next call.

        A column must lie below the context, and those before it must have been stored or be in this step.
        """
        count = len(ids)
        filled = -(-count // 4) * 4
        self._room[0, :count], self._room[1, :count], self._room[2, :count] = ids, slots, columns
        self._room[0, count:filled], self._room[1, count:filled], self._room[2, count:filled] = 0, self._spare, 0
        self._rows.count, self._rows.answers = filled, min(filled, -(-answers // 4) * 4)
        self._bound.call(self._bound.address, ctypes.byref(self._rows))
        return self._bound.logits[:answers]
