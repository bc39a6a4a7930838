"""Text streams: stop strings that span tokens, whole characters, the end of a document."""

import pytest

from gpt2 import GPT2, GPT2Config, Tokenizer
from gpt2.generation.sampling import Sampling
from gpt2.generation.text import Continuation, generate_text, prompt_ids, stream_text
from tests.conftest import randomize

TEXT = "The naïve cat 🐈 sat — on the größe mat. 猫は座った。 " * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT], 300, allow_fewer=True)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT2:
    return randomize(GPT2(GPT2Config(len(tokenizer), 32, 32, 2, 2, eos_token_id=0)), 1, 0.3).eval()


def test_stream_joined_is_the_decoded_whole(model: GPT2, tokenizer: Tokenizer) -> None:
    prompts = ["The cat", "", "größe mat 🐈"]
    results = [Continuation(prompt) for prompt in prompts]
    parts = ["", "", ""]
    for row, text in stream_text(model, tokenizer, prompts, max_new_tokens=60, seed=1, results=results):
        assert text
        parts[row] += text
    for part, result in zip(parts, results, strict=True):
        assert part == result.text == tokenizer.decode(result.ids)
        assert (result.ids[-1] == 0) == (result.finish_reason == "eos")
        assert result.finish_reason == "eos" or len(result.ids) == 60


def test_stop_string_ends_the_text_before_it_and_never_shows(model: GPT2, tokenizer: Tokenizer) -> None:
    (free,) = generate_text(model, tokenizer, ["The cat"], max_new_tokens=60, seed=2)
    assert len(free.text) > 12
    for at in range(1, len(free.text) - 4, 3):
        stop = free.text[at : at + 4]
        first = free.text.index(stop)
        seen = ""
        results = [Continuation("The cat")]
        for _, text in stream_text(
            model, tokenizer, ["The cat"], max_new_tokens=60, seed=2, stop=[stop], results=results
        ):
            seen += text
            assert free.text[:first].startswith(seen)
        assert seen == results[0].text == free.text[:first]
        assert results[0].finish_reason == "stop"


def test_one_row_stops_while_the_others_go_on(model: GPT2, tokenizer: Tokenizer) -> None:
    free = generate_text(model, tokenizer, ["The cat", "on the"], max_new_tokens=40, seed=2)
    stop = free[0].text[3:6]
    both = generate_text(model, tokenizer, ["The cat", "on the"], max_new_tokens=40, seed=2, stop=[stop])
    assert both[0].finish_reason == "stop"
    assert both[1].text == (free[1].text.split(stop)[0])


def test_text_of_a_prompt_begins_like_a_document(tokenizer: Tokenizer) -> None:
    assert prompt_ids(tokenizer, "The cat") == [tokenizer.eos_token_id, *tokenizer.encode("The cat")]


def test_defaults_of_the_model_are_used(model: GPT2, tokenizer: Tokenizer) -> None:
    greedy = generate_text(model, tokenizer, ["The"], max_new_tokens=12, sampling=Sampling(temperature=0))
    model.generation_defaults = {"temperature": 0.0}
    try:
        assert generate_text(model, tokenizer, ["The"], max_new_tokens=12) == greedy
    finally:
        model.generation_defaults = {}
