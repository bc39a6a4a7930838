"""Decoding: the cache, the sliding window, ragged prompts, seeds, stopping."""

import pytest
import torch

from gpt2 import GPT2, GPT2Config
from gpt2.errors import ConfigError
from gpt2.generation.generate import generate_ids, stream_ids
from gpt2.generation.sampling import Sampling


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 0.8, "top_k": 9}, {"top_p": 0.9, "min_p": 0.02}]
)
def test_same_numbers_with_and_without_cache_far_past_the_context(tiny_model: GPT2, options: dict) -> None:
    context = torch.tensor([[1, 2, 3], [4, 5, 6]])
    cached = tiny_model.generate(context, 70, seed=3, **options)
    assert cached.shape == (2, 73)
    assert torch.equal(cached, tiny_model.generate(context, 70, seed=3, use_cache=False, **options))


def test_window_keeps_the_last_half(tiny_model: GPT2) -> None:
    """Greedy decoding by hand: when 24 tokens are full, the last 12 of the longer text are encoded."""
    ids = [1, 2, 3]
    window = list(ids)
    for _ in range(40):
        if len(window) > 24:
            window = window[-12:]
        with torch.no_grad():
            token = int(tiny_model(torch.tensor([window]))[0, -1].argmax())
        ids.append(token)
        window.append(token)
    assert tiny_model.generate(torch.tensor([[1, 2, 3]]), 40, temperature=0)[0].tolist() == ids


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(repetition_penalty=1.3, temperature=0.9)])
def test_rows_do_not_depend_on_their_neighbours(tiny_model: GPT2, sampling: Sampling) -> None:
    prompts = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11]]
    together = generate_ids(tiny_model, prompts, 45, sampling, seed=5)
    for row, prompt in enumerate(prompts):
        assert generate_ids(tiny_model, [prompt], 45, sampling, seed=5 + row) == [together[row]]


def test_seed_decides(tiny_model: GPT2) -> None:
    context = torch.tensor([[1, 2, 3]])
    first = tiny_model.generate(context, 20, seed=1)
    assert torch.equal(first, tiny_model.generate(context, 20, seed=1))
    assert not torch.equal(first, tiny_model.generate(context, 20, seed=2))
    torch.manual_seed(7)
    unseeded = tiny_model.generate(context, 20)
    torch.manual_seed(7)
    assert torch.equal(unseeded, tiny_model.generate(context, 20))


def test_row_ends_at_eos_and_is_padded_with_it(tiny_config: GPT2Config, tiny_model: GPT2) -> None:
    free = tiny_model.generate(torch.tensor([[1, 2, 3], [4, 5, 6]]), 30, seed=1)[:, 3:].tolist()
    eos = free[0][4]
    stopped = GPT2(GPT2Config(**{**tiny_config.to_dict(), "eos_token_id": eos}))
    stopped.load_state_dict(tiny_model.state_dict())
    rows = stopped.generate(torch.tensor([[1, 2, 3], [4, 5, 6]]), 30, seed=1)[:, 3:].tolist()
    for row, whole in zip(rows, free, strict=True):
        end = whole.index(eos) + 1 if eos in whole else len(whole)
        assert row[:end] == whole[:end]
        assert set(row[end:]) <= {eos}
    assert generate_ids(stopped, [[1, 2, 3]], 30, Sampling(), seed=1, eos_token_id=eos)[0][-1] == eos


def test_stream_gives_the_same_ids_one_step_at_a_time(tiny_model: GPT2) -> None:
    steps = list(stream_ids(tiny_model, [[1], [2, 3]], 12, Sampling(), seed=0))
    assert [len(step) for step in steps] == [2] * 12
    rows = generate_ids(tiny_model, [[1], [2, 3]], 12, Sampling(), seed=0)
    assert [[token for step in steps for r, token in step if r == row] for row in range(2)] == rows


def test_training_mode_is_left_as_it_was(tiny_model: GPT2) -> None:
    tiny_model.train()
    tiny_model.generate(torch.tensor([[1]]), 2, seed=0)
    assert tiny_model.training
    assert tiny_model.generate(torch.tensor([[1, 2]]), 0).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("prompt", "count", "message"),
    [
        ([], 1, "prompt 0 is empty"),
        ([1] * 25, 1, "has 25 tokens, the model's context holds 24"),
        ([97], 1, "id 97 lies outside the model's vocabulary of 97"),
        ([1], -1, "max_new_tokens must be 0 or more"),
    ],
)
def test_bad_input_is_named(tiny_model: GPT2, prompt: list[int], count: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate_ids(tiny_model, [prompt], count, Sampling())
