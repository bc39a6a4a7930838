"""Each filter against figures worked out by hand and against transformers' own."""

import math

import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2.errors import ConfigError
from gpt2.generation.sampling import (
    Sampling,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token,
    penalize_repetition,
)

LOGITS = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 2
HISTORY = [[1, 2, 3, 3], [0], [39, 5], [7, 7, 7], [10, 20]]


@pytest.mark.parametrize("k", [1, 3, 40, 100])
def test_top_k_equals_transformers(k: int) -> None:
    assert torch.equal(keep_top_k(LOGITS, k), TopKLogitsWarper(k)(None, LOGITS))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_top_p_equals_transformers(p: float) -> None:
    assert torch.equal(keep_top_p(LOGITS, p), TopPLogitsWarper(p)(None, LOGITS))


@pytest.mark.parametrize("p", [0.01, 0.2, 1.0])
def test_min_p_equals_transformers(p: float) -> None:
    assert torch.equal(keep_min_p(LOGITS, p), MinPLogitsWarper(p)(None, LOGITS))


def test_repetition_penalty_equals_transformers() -> None:
    for row, ids in enumerate(HISTORY):
        theirs = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([ids]), LOGITS[row : row + 1])
        torch.testing.assert_close(penalize_repetition(LOGITS[row : row + 1], [ids], 1.7), theirs)


def test_top_k_of_a_tie_keeps_exactly_k() -> None:
    assert (keep_top_k(torch.zeros(1, 4), 1) > -math.inf).sum() == 1


def test_draw_inverts_the_cumulative_distribution() -> None:
    logits = torch.tensor([[-math.inf, 0.5, 0.25, 0.25]]).log().nan_to_num(nan=-math.inf)
    chosen = [draw(logits, torch.tensor([u])).item() for u in (0.0, 0.49, 0.51, 0.74, 0.76, 0.9999999)]
    assert chosen == [1, 1, 2, 2, 3, 3]


def test_frequencies_follow_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    tokens = next_token(logits, [[]] * 20_000, Sampling(temperature=2.0), uniform)
    expected = torch.tensor([0.0, 0.5, 1.0]).softmax(0)
    torch.testing.assert_close(tokens.bincount() / 20_000, expected, atol=0.01, rtol=0)


def test_temperature_zero_is_the_likeliest_token() -> None:
    tokens = next_token(LOGITS, HISTORY, Sampling(temperature=0), torch.zeros(5))
    assert torch.equal(tokens, LOGITS.argmax(-1))


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", -0.1), ("temperature", math.nan), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.1), ("min_p", -1.0),
     ("repetition_penalty", 0.0)],
)  # fmt: skip
def test_values_out_of_range_are_named(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{option} must be"):
        Sampling(**{option: value})


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'temperature'"):
        Sampling.from_options({}, {"temprature": 1.0})
