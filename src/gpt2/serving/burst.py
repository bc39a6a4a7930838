"""Several tokens of each of many streams in one call of `burst.cpp`, during which Python is free for the HTTP side."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from gpt2 import native
from gpt2.model.ops.decode import packed_weights
from gpt2.model.ops.step import Bound
from gpt2.model.slots import Slots
from gpt2.serving.choosing import Chooser
from gpt2.serving.plan import Plan

_MOST = 16  # tokens of each in one call
_TURNS = 4  # of each thread in one call: at its end one waits for the other, seldom for long if there are many
_NEAR = 2**24  # bytes of weights that stay in the processor's caches: larger ones are best read once for all streams

_Int, _Pointer = ctypes.c_int64, ctypes.c_void_p


class _Burst(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("models", "room")),
        *((name, _Int) for name in ("threads", "spare")),
        *((name, _Pointer) for name in ("places", "how", "draws")),
        ("block", _Int),
        *((name, _Pointer) for name in ("used", "tokens")),
        ("most", _Int),
        *((name, _Pointer) for name in ("made", "leaving", "broken")),
    ]


class Burst:
    """Continues streams by tokens that depend on nothing else: no penalty, no bias, no score.

    Args:
        slots: keys and values.
        plan: where each stream stands; it is moved on.
        chooser: how each one's tokens are drawn, and from which numbers.
        threads: of the processor; streams are dealt to them.

    Attributes:
        tokens: (slots, most) new ids of the last call.
        made: (slots) how many each has got in a call; rises while it runs, and is the caller's to set to 0 before.
        leaving: (slots) set one to 1, also during a call, and that stream gets no further token.
        broken: (slots) 1 where the last token's logits were no finite numbers.
    """

    def __init__(self, slots: Slots, plan: Plan, chooser: Chooser, threads: int) -> None:
        library, reason = native.library()
        if library is None:
            raise RuntimeError(reason)
        self._call, self._few = library.gpt2_burst, _Int.in_dll(library, "gpt2_few").value
        weights = packed_weights(slots.model)
        self._bound = [Bound(weights, slots.keys, slots.values, self._few, threads=1) for _ in range(threads)]
        self._models = (_Pointer * threads)(*(bound.address for bound in self._bound))
        self._room = np.empty((threads, 2 * weights.config.vocab_size + 3 * native.LANES), dtype=np.float32)
        self.tokens = np.zeros((slots.count, _MOST), dtype=np.int64)
        self.made, self.leaving, self.broken = (np.zeros(slots.count, dtype=np.int64) for _ in range(3))
        self._chooser, self._threads, self._next = chooser, threads, 0
        self._kept = [slots, plan.places, chooser.how, chooser.draws, chooser.used]
        where = [value.ctypes.data for value in (plan.places, chooser.how, chooser.draws)]
        self._burst = _Burst(
            ctypes.addressof(self._models), self._room.ctypes.data, threads, slots.count, *where,
            chooser.draws.shape[1], chooser.used.ctypes.data, self.tokens.ctypes.data, _MOST,
            *(value.ctypes.data for value in (self.made, self.leaving, self.broken)),
        )  # fmt: skip

    @staticmethod
    def possible(slots: Slots) -> bool:
        """Whether the model is one for which this is possible, and pays."""
        return slots.exact_in_parts and packed_weights(slots.model).nbytes <= _NEAR

    def __call__(self, writing: NDArray[np.int64]) -> NDArray[np.int64]:
        """Continue streams, in turn if there are many, each by as many tokens as there are streams, or 16.

        A single stream's tokens come one by one; many streams' come together, with keys and values still at hand.

        Args:
            writing: slots, in order.

        Returns:
            Those of them that were continued.
        """
        most = self._few * self._threads * _TURNS
        slots = np.roll(writing, -int(np.searchsorted(writing, self._next)))[:most]
        self._next = int(slots[-1]) + 1
        self._call(ctypes.byref(self._burst), slots.ctypes.data, len(slots), min(_MOST, len(writing)))
        self._chooser.refill(slots)
        return slots
