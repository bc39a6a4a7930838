"""Native sampling draws what the formulas draw."""

import math

import pytest
import torch

from gpt2 import native
from gpt2.generation.native_sampling import _natively, _with_tensors
from gpt2.generation.sampling import Sampling

HISTORY = [[1, 2, 3], [5], [7, 7]]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0}, {}, {"temperature": 0.3}, {"top_k": 1}, {"top_k": 7}, {"top_k": 5000}, {"top_p": 0.9},
        {"top_p": 0.01}, {"min_p": 0.1}, {"min_p": 1.0}, {"repetition_penalty": 1.5, "temperature": 0.0},
        {"top_k": 20, "top_p": 0.8, "min_p": 0.02, "temperature": 1.3, "repetition_penalty": 0.8},
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [5, 16, 97, 2500])
def test_equals_the_formulas(options: dict, size: int) -> None:
    library, reason = native.library()
    if library is None:
        pytest.skip(reason)
    sampling, generator = Sampling(**options), torch.Generator().manual_seed(size)
    fast, exact = _natively(library, sampling), _with_tensors(sampling)
    history = [[i % size for i in row] for row in HISTORY]
    drawn = set()
    for _ in range(25):
        logits = torch.randn(3, size + 3, generator=generator)[:, :size] * 3  # rows do not follow each other
        uniform = torch.rand(3, generator=generator).tolist()
        ids = fast(logits, history, uniform)
        assert ids == exact(logits, history, uniform)
        drawn.update(ids)
    assert len(drawn) > 1


def test_edges() -> None:
    library, reason = native.library()
    if library is None:
        pytest.skip(reason)

    def draw(logits: list[float], uniform: float, **options: float) -> int:
        return _natively(library, Sampling(**options))(torch.tensor([logits]), [[]], [uniform])[0]  # type: ignore

    flat = [0.0] * 40
    assert [draw(flat, u, top_k=3) for u in (0.0, 0.34, 0.99)] == [0, 1, 2], "of equals the first stay"
    assert [draw(flat, u, top_p=0.05) for u in (0.0, 0.6, 0.999)] == [0, 1, 1], "two of forty reach a twentieth"
    assert draw(flat, 1 - 2**-24) == 39
    impossible = [-math.inf] * 20 + [0.0] + [-math.inf] * 20
    assert {draw(impossible, u) for u in (0.0, 0.5, 1 - 2**-24)} == {20}
    assert draw([1.0, 3.0, 3.0, 2.0], 0.5, temperature=0.0) == 1
    assert 0 <= draw([math.nan] * 4, 0.5) < 4
