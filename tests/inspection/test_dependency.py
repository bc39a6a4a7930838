"""Six attentions, one right: two counts and a row sum tell them apart."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2 import GPT2, GPT2Config
from gpt2.inspection import dependency
from gpt2.model.ops import causal_mask, kernels, reference


def attention(q: Tensor, k: Tensor, v: Tensor, *, split: bool, merge: bool, mask: str, tap: Any = None) -> Tensor:
    """Attention as it is written by hand, with the mistakes that are made: (B, T, H, d) -> (B, T, H, d)."""
    batch, time, heads, dim = q.shape
    if split:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    else:  # "view" to (B, H, T, d): the right shape, the wrong numbers
        q, k, v = (x.reshape(batch, heads, time, dim) for x in (q, k, v))
    scores = (q @ k.mT).float() / math.sqrt(dim)
    seen = causal_mask(time, time, q.device)
    if mask == "before":
        scores = scores.masked_fill(~seen, -torch.inf)
    pattern = reference.softmax(scores)
    if mask == "after":
        pattern = pattern * seen
    if tap is not None:
        pattern = tap("hook_pattern", pattern)
    z = pattern.to(v.dtype) @ v
    return z.transpose(1, 2) if merge else z.reshape(batch, time, heads, dim)


SIX = pytest.mark.parametrize(
    ("variant", "future", "past", "row_sum"),
    [
        ({"split": True, "merge": True, "mask": "before"}, 0, 0, 1.0),
        ({"split": True, "merge": False, "mask": "before"}, 50, 26, 1.0),
        ({"split": False, "merge": True, "mask": "before"}, 50, 26, 1.0),
        ({"split": False, "merge": False, "mask": "before"}, 0, 96, 1.0),
        ({"split": True, "merge": True, "mask": "none"}, 120, 0, 1.0),
        ({"split": True, "merge": True, "mask": "after"}, 120, 0, None),
    ],
    ids=["correct", "merge without transpose", "split without transpose", "both", "no mask", "mask after softmax"],
)


@SIX
def test_six_attentions_alone(variant: dict[str, Any], future: int, past: int, row_sum: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 64, 4, 8, generator=generator, dtype=torch.float64)  # of each id
    found = dependency(lambda ids: attention(q[ids], k[ids], v[ids], **variant), vocab_size=64)
    assert (found.future_lit, found.future_cells, found.past_dark, found.past_cells) == (future, 120, past, 136)


@SIX
def test_six_models(variant: dict[str, Any], future: int, past: int, row_sum: float | None) -> None:
    def broken(q: Tensor, k: Tensor, v: Tensor, *_: Any, tap: Any = None, **__: Any) -> Tensor:
        return attention(q, k, v, tap=tap, **variant)

    config = GPT2Config(vocab_size=64, context_length=16, d_model=32, num_layers=1, num_heads=4)
    parts = dataclasses.replace(kernels("reference"), attention=broken)
    found = dependency(GPT2(config, parts, torch.Generator().manual_seed(0)))
    past = 20 if past == 26 else past  # an output always sees its own token, past the attention: 6 cells less are dark
    assert (found.future_lit, found.past_dark) == (future, past)
    assert found.row_sum is not None
    if row_sum is None:
        assert found.row_sum < 0.1
    else:
        assert found.row_sum == pytest.approx(1.0, abs=1e-6)
    assert found.causal == (future == 0)
    assert found.complete == (past == 0)
    assert found.check is not None
    assert found.check.ok


@pytest.mark.parametrize("name", ["fused", "reference"])
def test_ours_is_causal_and_complete(name: str) -> None:
    config = GPT2Config(vocab_size=64, context_length=20, d_model=32, num_layers=3, num_heads=4)
    model = GPT2(config, name, torch.Generator().manual_seed(3))
    found = dependency(model, time=20)
    assert found.causal
    assert found.complete
    assert model.transformer.wte.weight.dtype == torch.float32  # measured on a copy


def test_any_function_can_be_asked() -> None:
    shifted: Callable[[Tensor], Tensor] = lambda ids: ids.roll(1, 1)[..., None].double()  # noqa: E731
    found = dependency(shifted, time=5, vocab_size=9, name="a shift")
    assert found.future_lit == 1  # the first output is the last token
    assert found.past_dark == 15 - 4
    assert "a shift" in found.title
