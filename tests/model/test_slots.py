"""Slots: the forward pass's logits for each sequence, and the same bits whatever shares the step."""

import numpy as np
import pytest
import torch

from gpt2 import GPT2, GPT2Config, native
from gpt2.model.slots import Slots
from tests.conftest import randomize

CONFIG = GPT2Config(vocab_size=101, context_length=40, d_model=64, num_layers=2, num_heads=2)


@pytest.fixture(params=["compiled", "forward pass"])
def model(request: pytest.FixtureRequest) -> GPT2:
    if request.param == "compiled" and native.library()[0] is None:
        pytest.skip(native.library()[1])
    return randomize(GPT2(CONFIG, kernels="fused" if request.param == "compiled" else "reference")).eval()


def feed(slots: Slots, rows: list[tuple[int, int, int]], answers: int) -> torch.Tensor:
    """Rows of (id, slot, column)."""
    return slots.step(*np.array(rows, dtype=np.int64).T.copy(), answers).clone()


def prompt(ids: list[int], slot: int, first: int = 0) -> list[tuple[int, int, int]]:
    return [(token, slot, first + i) for i, token in enumerate(ids)]


def sequences(count: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(CONFIG.vocab_size, (count, length), generator=generator).tolist()


def test_sequences_of_other_lengths_get_the_forward_pass(model: GPT2) -> None:
    slots, texts = Slots(model, 3), sequences(3, 30)
    starts = [4, 11, 1]
    with torch.inference_mode():
        exact = [model(torch.tensor([ids]))[0] for ids in texts]
    for slot, (ids, start) in enumerate(zip(texts, starts, strict=True)):
        logits = feed(slots, prompt(ids[:start], slot), start)
        assert torch.allclose(logits, exact[slot][:start], atol=2e-4)
    for step in range(15):
        rows = [
            (ids[start + step], slot, start + step) for slot, (ids, start) in enumerate(zip(texts, starts, strict=True))
        ]
        logits = feed(slots, rows, 3)
        for slot, start in enumerate(starts):
            assert torch.allclose(logits[slot], exact[slot][start + step], atol=2e-4)


@pytest.mark.parametrize("others", [0, 1, 2, 3, 6, 12])
def test_the_same_bits_whoever_shares_the_step(model: GPT2, others: int) -> None:
    texts = sequences(13, 12)

    def logits_of_first(company: int) -> torch.Tensor:
        slots, found = Slots(model, 13), []
        feed(slots, prompt(texts[0][:5], 0), 1)
        for step in range(5, 12):
            rows = [(texts[0][step], 0, step)]
            rows += [row for slot in range(1, 1 + company) for row in prompt(texts[slot][: step - 3], slot)]
            found.append(feed(slots, rows[: 60 if slots.exact_in_parts else None], 1))
        return torch.cat(found)

    assert torch.equal(logits_of_first(0), logits_of_first(others))


def test_a_prompt_in_parts_and_a_copied_prefix_give_the_same_bits(model: GPT2) -> None:
    slots, (ids, *_) = Slots(model, 4), sequences(1, 21)
    if not slots.exact_in_parts:
        pytest.skip("only the compiled step takes a prompt in parts")
    whole = feed(slots, prompt(ids, 0), 21)
    parts = [feed(slots, prompt(ids[a:b], 1, a), b - a) for a, b in [(0, 1), (1, 8), (8, 10), (10, 21)]]
    assert torch.equal(torch.cat(parts), whole)
    slots.copy(0, 2, 13)
    assert torch.equal(feed(slots, prompt(ids[13:], 2, 13)[::-1], 8).flip(0), whole[13:])


def test_the_last_column_and_an_empty_neighbour(model: GPT2) -> None:
    slots, (ids, *_) = Slots(model, 2), sequences(1, CONFIG.context_length)
    with torch.inference_mode():
        exact = model(torch.tensor([ids]))[0]
    assert torch.allclose(feed(slots, prompt(ids, 1)[::-1], 1)[0], exact[-1], atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    model = randomize(GPT2(CONFIG)).eval().to(dtype)
    slots, (ids, *_) = Slots(model, 2), sequences(1, 9)
    with torch.inference_mode():
        exact = model(torch.tensor([ids]))[0]
    assert torch.allclose(feed(slots, prompt(ids, 0), 9), exact, atol=0.35)
