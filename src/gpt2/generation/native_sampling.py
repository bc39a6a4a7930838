"""`sampling.next_token` in one native call per row: the same formulas without a tensor for each step of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gpt2 import native
from gpt2.generation.sampling import Sampling, next_token, penalize_repetition

Choose = Callable[[Tensor, list[list[int]], Sequence[float]], list[int]]
"""(logits (B, V), ids of each row so far, a number in [0, 1) for each row) -> the id of each row."""


def chooser(sampling: Sampling, fast: bool, device: torch.device) -> Choose:
    """How tokens are chosen: natively if `fast` and that is possible here, else with tensors."""
    library = native.library()[0] if fast and device.type == "cpu" else None
    return _with_tensors(sampling) if library is None else _natively(library, sampling)


def _with_tensors(sampling: Sampling) -> Choose:
    def choose(logits: Tensor, history: list[list[int]], uniform: Sequence[float]) -> list[int]:
        numbers = torch.tensor(uniform, dtype=torch.float64).to(logits.device, torch.float32)
        return next_token(logits, history, sampling, numbers).tolist()

    return choose


def _natively(library: "native.Library", sampling: Sampling) -> Choose:
    options = (sampling.temperature, sampling.top_k or 0, sampling.top_p or 1.0, sampling.min_p or 0.0)
    room = torch.empty(0)

    def choose(logits: Tensor, history: list[list[int]], uniform: Sequence[float]) -> list[int]:
        nonlocal room
        if sampling.repetition_penalty != 1.0:
            logits = penalize_repetition(logits.float(), history, sampling.repetition_penalty)
        if logits.dtype != torch.float32 or logits.stride(-1) != 1:
            logits = logits.float().contiguous()
        size = logits.shape[-1]
        if room.numel() < 2 * size:
            room = torch.empty(2 * size + 3 * native.LANES)
        start, stride, scratch = logits.data_ptr(), 4 * logits.stride(0), room.data_ptr()
        return [
            library.gpt2_sample(start + row * stride, scratch, size, *options, uniform[row])
            for row in range(logits.shape[0])
        ]

    return choose
