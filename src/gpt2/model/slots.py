"""Many sequences, each of its own length, through one model: a cache of slots and a step over any of their tokens."""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2.model.kv_cache import LayerCache
from gpt2.model.ops.decode import packed_weights, why_plain
from gpt2.model.ops.step import Arena, SlotStep

Numbers = NDArray[np.int64]


class Slots:
    """Keys and values of several sequences, and the step that continues them.

    A row's result depends on its own sequence alone, to the last bit: whatever else is in the step.

    Args:
        model: a GPT-2 that does not change any more.
        count: sequences at once.
        stretch: most tokens of prompts in one step.

    Attributes:
        exact_in_parts: a prompt gives the same bits in one step or in several, so a prefix computed for one sequence
            serves another. Without the compiled step a prompt must come whole.
    """

    def __init__(self, model: Any, count: int, stretch: int = 64) -> None:
        config, weight = model.config, model.transformer.wte.weight
        self.count, self.stretch, self.model = count, stretch, model
        compiled = not why_plain(model)
        # Compiled, one column to spare: slots a power of two apart would all fall into few places of the caches.
        # Else a multiple of 16: PyTorch rounds rows that begin between two vectors otherwise than those at one.
        columns = config.context_length + 1 if compiled else -(-config.context_length // 16) * 16
        sizes = config.num_layers, count + 1, columns, config.num_heads, config.head_dim
        dtype = model.compute_dtype or weight.dtype
        self.keys, self.values = (torch.zeros(sizes, dtype=dtype, device=weight.device) for _ in range(2))
        self._step: SlotStep | None = None
        if compiled:
            # Each step reads all that is stored: in pages of 4 kB a third of it goes for looking up their addresses.
            # A head's keys follow each other: the processor fetches ahead what lies in a row.
            arena = Arena(2 * self.keys.nbytes)
            apart = config.num_layers, count + 1, config.num_heads, columns, config.head_dim
            self.keys, self.values = (arena.keep(x.view(apart)).transpose(2, 3) for x in (self.keys, self.values))
            self._step = SlotStep(packed_weights(model), self.keys, self.values, count + stretch)
        else:
            self.stretch = config.context_length
        self.exact_in_parts = self._step is not None

    def step(self, ids: Numbers, slots: Numbers, columns: Numbers, answers: int) -> Tensor:
        """Compute tokens, in any order, and store their keys and values.

        Args:
            ids: (rows) of each token.
            slots: (rows) whose sequence it continues, 0 to count - 1.
            columns: (rows) its position there. All earlier ones are stored, or in this step; a sequence begins with
                all of its prompt in one step unless `exact_in_parts`.
            answers: how many of the rows, the first, want logits.

        Returns:
            (answers, V) fp32, overwritten by the next step.
        """
        if self._step is not None:
            return self._step(ids, slots, columns, answers)
        with torch.inference_mode():
            return self._forward(ids, slots, columns, answers)

    def copy(self, source: int, target: int, length: int) -> None:
        """Let the first `length` tokens of one slot be those of another, too."""
        for stored in (self.keys, self.values):
            stored[:, target, :length] = stored[:, source, :length]

    def _forward(self, ids: Numbers, slots: Numbers, columns: Numbers, answers: int) -> Tensor:
        """By the model's forward pass: each prompt for itself, single tokens in one batch of always the same shape."""
        rows_of: defaultdict[int, list[int]] = defaultdict(list)
        for row in np.argsort(columns, kind="stable").tolist():
            rows_of[int(slots[row])].append(row)
        device, logits = self.keys.device, self.keys.new_empty((len(ids), self.model.config.vocab_size)).float()
        single = []
        for slot, rows in rows_of.items():
            if columns[rows[0]]:
                single += rows
                continue
            prompt = torch.from_numpy(ids[rows]).to(device).unsqueeze(0)
            logits[rows] = self.model(prompt, cache=_OneSlot(self.keys, self.values, slot))[0]
        if single:
            batch = np.zeros((2, self.count), dtype=np.int64)
            places = np.full(self.count, self.count)  # who has nothing to add writes into the spare slot
            batch[:, slots[single]], places[slots[single]] = (ids[single], columns[single]), slots[single]
            tokens, at = torch.from_numpy(batch).to(device).unsqueeze(-1)
            cache = _EverySlot(self.keys, self.values, torch.from_numpy(places).to(device), at)
            logits[single] = self.model(tokens, positions=at, cache=cache)[:, -1][slots[single]]
        return logits[:answers]


class _OneSlot:
    """A slot as the cache of a forward pass over a whole prompt."""

    def __init__(self, keys: Tensor, values: Tensor, slot: int) -> None:
        self.keys, self.values = keys[:, slot : slot + 1], values[:, slot : slot + 1]

    def positions(self, time: int) -> Tensor:
        return torch.arange(time, device=self.keys.device).unsqueeze(0)

    def layers(self, time: int) -> list[LayerCache]:
        return [LayerCache(k, v, slice(0, time), None) for k, v in zip(self.keys, self.values, strict=True)]

    def advance(self, time: int) -> None:
        """Nothing to count: the columns come from outside."""


class _EverySlot:
    """All slots as the cache of a forward pass over one token each."""

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor, columns: Tensor) -> None:
        self.keys, self.values, self.places, self.columns = keys, values, places, columns.squeeze(1)

    def layers(self, time: int) -> list["_EveryLayer"]:
        # The whole context, never less: another shape would round otherwise.
        seen = torch.arange(self.keys.shape[2], device=self.keys.device) <= self.columns[:, None]
        mask = seen[:, None, None, :]
        return [_EveryLayer(k, v, self, mask) for k, v in zip(self.keys, self.values, strict=True)]

    def advance(self, time: int) -> None:
        """Nothing to count: the columns come from outside."""


class _EveryLayer:
    def __init__(self, keys: Tensor, values: Tensor, owner: _EverySlot, mask: Tensor) -> None:
        self.keys, self.values, self.owner, self.mask = keys, values, owner, mask

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store (slots, 1, H, d) at each one's column; the whole cache and who sees what."""
        for stored, new in ((self.keys, k), (self.values, v)):
            stored[self.owner.places, self.owner.columns] = new[:, 0]
        return self.keys[:-1], self.values[:-1], self.mask
