"""Streams: the same as without streaming, whole characters, nothing of a stop string, and nobody else's tokens."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from gpt2 import GPT2, GPT2Config, Tokenizer
from gpt2.serving.served import ServedModel
from tests.conftest import randomize
from tests.serving.conftest import CONTEXT, Running, running

TEXT = "Once upon a time there was a"


def joined(pieces: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """The chunks of one choice as one choice."""
    whole: dict[str, Any] = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
    for choice in (c for piece in pieces for c in piece["choices"] if c["index"] == index):
        assert whole["finish_reason"] is None, "nothing comes after the end"
        whole["text"] += choice["text"]
        whole["finish_reason"] = choice["finish_reason"]
        if choice["logprobs"] is not None:
            block = whole["logprobs"] or {name: [] for name in choice["logprobs"]}
            whole["logprobs"] = {name: block[name] + values for name, values in choice["logprobs"].items()}
    return whole


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"n": 3}, {"logprobs": 2}, {"logprobs": 0, "echo": True}, {"echo": True, "n": 2}, {"stop": ["e", "\n"]},
        {"stop": [" the", "e "], "logprobs": 1}, {"max_tokens": 90}, {"prompt": ["The dog", "The cat"], "stop": "a"},
        {"prompt": "", "temperature": 0}, {"max_tokens": 0, "echo": True, "logprobs": 1},
    ],
)  # fmt: skip
def test_a_stream_is_the_whole_in_pieces(server: Running, fields: dict) -> None:
    fields = {"prompt": TEXT, "max_tokens": 40, "seed": 11, "temperature": 0.9, **fields}
    whole = server.complete(**fields)
    pieces = server.stream(**fields, stream_options={"include_usage": True})
    last = pieces.pop()
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert [joined(pieces, index) for index in range(len(whole["choices"]))] == whole["choices"]
    assert all(piece["usage"] is None for piece in pieces)
    for key in ("id", "created", "model"):
        assert len({piece[key] for piece in pieces}) == 1


def test_eight_at_once_are_what_each_is_alone(server: Running) -> None:
    requests = [
        {
            "prompt": f"{TEXT} {'very ' * i}small dog",
            "max_tokens": 30 + 3 * i,
            "seed": i,
            "logprobs": i % 3,
            "top_p": 0.9,
        }
        for i in range(8)
    ]
    alone = [server.complete(**fields)["choices"] for fields in requests]
    for rounds in range(3):
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda fields: server.complete(**fields)["choices"], requests[rounds:]))
        assert together == alone[rounds:]


def test_the_same_without_the_compiled_step(served: ServedModel) -> None:
    """Another road through the model: other roundings, but again the same bits in any company."""
    model = GPT2(served.model.config, kernels="reference").eval()
    model.load_state_dict(served.model.state_dict())
    slow = ServedModel("slow", None, model, served.tokenizer, served.device)
    requests: list[dict[str, Any]] = [
        {"prompt": f"{TEXT} {'very ' * i}small", "max_tokens": 12, "seed": i, "logprobs": 1} for i in range(5)
    ]
    with running(slow, slots=3) as one:
        alone = [one.complete(**fields)["choices"] for fields in requests]
        with ThreadPoolExecutor(5) as pool:
            assert list(pool.map(lambda fields: one.complete(**fields)["choices"], requests)) == alone
        greedy = one.complete(prompt=TEXT, max_tokens=20, temperature=0)["choices"][0]["text"]
    ids = [served.tokenizer.eos_token_id, *served.tokenizer.encode(TEXT)]
    output = served.model.generate(torch.tensor([ids]), max_new_tokens=20, temperature=0)[0, len(ids) :]
    assert greedy == served.tokenizer.decode(output.tolist())


def test_characters_of_several_tokens_come_whole(served: ServedModel) -> None:
    """Bytes alone as tokens, bent so that only those of an emoji come, in any order."""
    tokenizer = Tokenizer.train(["ab"], 257)
    config = GPT2Config(vocab_size=257, context_length=CONTEXT, d_model=32, num_layers=1, num_heads=1)
    model = randomize(GPT2(config), std=0.5).eval()
    emoji = tokenizer.encode("🐶")
    assert len(emoji) == 4
    bias = {str(i): (0 if i in emoji else -100) for i in range(257)}
    with running(ServedModel("bytes", None, model, tokenizer, torch.device("cpu"))) as one:
        fields = {"prompt": "a", "max_tokens": 90, "n": 16, "temperature": 5, "logit_bias": bias, "seed": 0}
        whole = one.complete(**fields, logprobs=0)["choices"]
        pieces = one.stream(**fields)
    for piece in pieces:
        for choice in piece["choices"]:
            choice["text"].encode("utf-8")  # fails of half a character
    for index, choice in enumerate(whole):
        assert joined(pieces, index)["text"] == choice["text"]
        names = choice["logprobs"]["tokens"]
        assert all(name.startswith("bytes:\\x") for name in names)
        raw = b"".join(bytes.fromhex(name.removeprefix("bytes:\\x")) for name in names)
        assert raw.decode("utf-8", "replace") == choice["text"]
    assert any("🐶" in choice["text"] for choice in whole)


def test_a_stop_string_of_several_tokens_never_shows(server: Running) -> None:
    full = server.complete(prompt=TEXT, max_tokens=80, seed=2, temperature=0.6, logprobs=0, ignore_eos=True)["choices"][
        0
    ]
    tokens, offsets = full["logprobs"]["tokens"], full["logprobs"]["text_offset"]
    clean = [
        i
        for i in range(20, 70)
        if not any(name.startswith("bytes:") or name == "<|endoftext|>" for name in tokens[i : i + 3])
    ]
    assert clean
    for at in clean[:6]:
        stop = full["text"][offsets[at] : offsets[at + 3]]
        first = full["text"].index(stop)
        fields = {
            "prompt": TEXT,
            "max_tokens": 80,
            "seed": 2,
            "temperature": 0.6,
            "stop": ["never this", stop],
            "ignore_eos": True,
        }
        pieces = server.stream(**fields)
        shown = ""
        for piece in pieces:
            shown += piece["choices"][0]["text"]
            assert full["text"][:first].startswith(shown), "no beginning of a stop string is shown"
        assert shown == full["text"][:first]
        assert pieces[-1]["choices"][0]["finish_reason"] == "stop"


def test_an_error_after_the_first_token_ends_the_stream(served: ServedModel) -> None:
    """A model that is damaged from position 20 on."""
    model = copy.deepcopy(served.model)
    with torch.no_grad():
        model.transformer.wpe.weight[20:] = float("nan")
    with running(ServedModel("torn", None, model, served.tokenizer, served.device), slots=4) as one:
        _, _, body = one.ask(
            "POST", "/v1/completions", {"prompt": [1, 2], "max_tokens": 60, "stream": True, "ignore_eos": True}
        )
        *parts, done, rest = body.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        error = json.loads(parts[-1].removeprefix("data: "))["error"]
        assert (error["type"], error["code"]) == ("server_error", "engine_error")
        assert "no finite number" in error["message"]
        assert all("choices" in json.loads(part.removeprefix("data: ")) for part in parts[:-1])
        assert len(parts) > 1
        assert one.refused(prompt=[1, 2], max_tokens=60, ignore_eos=True)[0] == 500
        assert one.complete(prompt=[1, 2], max_tokens=10), "the server goes on"
