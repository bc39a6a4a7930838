"""/v1/completions against the model itself, and through the real `openai` client."""

import json
import math
from collections import Counter
from collections.abc import Callable

import openai
import pytest
import torch

from gpt2.serving.served import ServedModel
from gpt2.serving.text import TokenNames
from tests.serving.conftest import CONTEXT, Running

TEXT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def exact_logprobs(served: ServedModel, ids: list[int]) -> torch.Tensor:
    """(T, V) fp64 of the forward pass."""
    with torch.inference_mode():
        return served.model(torch.tensor([ids]))[0].double().log_softmax(-1)


def test_greedy_is_the_models_own(server: Running, served: ServedModel) -> None:
    ids = [served.tokenizer.eos_token_id, *served.tokenizer.encode(TEXT)]
    output = served.model.generate(torch.tensor([ids]), max_new_tokens=40, temperature=0)[0, len(ids) :].tolist()
    answer = server.complete(prompt=TEXT, max_tokens=40, temperature=0, logprobs=0)
    assert answer["choices"][0]["text"] == served.tokenizer.decode(output)
    assert answer["usage"] == {
        "prompt_tokens": len(ids), "completion_tokens": len(output), "total_tokens": len(ids) + len(output)
    }  # fmt: skip
    assert server.complete(prompt=ids, max_tokens=40, temperature=0)["choices"] == [
        {**answer["choices"][0], "logprobs": None}
    ]


def test_what_the_evaluation_harness_asks(server: Running, served: ServedModel) -> None:
    """Scores of a prompt's tokens: null first, one generated token last, the identical float where one is likeliest."""
    ids = served.tokenizer.encode(TEXT + " little dog who liked to run. " * 2)
    exact = exact_logprobs(served, ids)
    answer = server.complete(prompt=[ids], temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True)
    block = answer["choices"][0]["logprobs"]
    values = block["token_logprobs"]
    assert values[0] is None
    assert block["top_logprobs"][0] is None
    assert len(values) == len(ids) + 1
    taken = exact[:-1].gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    assert values[1:-1] == pytest.approx(taken.tolist(), abs=1e-5)
    greedy = [value == max(top.values()) for value, top in zip(values[1:-1], block["top_logprobs"][1:-1], strict=True)]
    assert greedy == (exact[:-1].argmax(-1) == torch.tensor(ids[1:])).tolist()
    assert any(greedy) or min(taken) < -1
    assert block["tokens"][:-1] == [served.tokenizer.decode([i]) for i in ids]
    text = answer["choices"][0]["text"]
    assert text.startswith(served.tokenizer.decode(ids))
    assert [text[a:].startswith(t) for a, t in zip(block["text_offset"], block["tokens"], strict=True)].count(
        False
    ) == 0


def test_logprobs_of_new_tokens(server: Running, served: ServedModel) -> None:
    """Against the forward pass over the sampled ids, which chat gives as bytes."""
    fields = {"prompt": TEXT, "max_tokens": 12, "seed": 5, "temperature": 1.3}
    choice = server.complete(**fields, logprobs=3)["choices"][0]
    assert server.complete(**fields)["choices"][0]["text"] == choice["text"], "scoring changes no draw"
    names = [TokenNames(served.tokenizer, 400)[i] for i in range(400)]
    assert len(set(names)) == 400, "every id has a name of its own"
    block = choice["logprobs"]
    ids = [served.tokenizer.eos_token_id, *served.tokenizer.encode(TEXT)]
    for name, value, top in zip(block["tokens"], block["token_logprobs"], block["top_logprobs"], strict=True):
        exact = exact_logprobs(served, ids)[-1]
        ids.append(names.index(name))
        assert value == pytest.approx(exact[ids[-1]].item(), abs=1e-5)
        best = exact.topk(3)
        assert list(top)[:3] == [names[i] for i in best.indices]
        assert list(top.values())[:3] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert top[name] == value
    assert served.tokenizer.decode(ids[-12:]) == choice["text"]


def test_batches_come_in_order(server: Running) -> None:
    prompts = ["One day", "The dog", "A small boat"]
    answer = server.complete(prompt=prompts, n=2, max_tokens=8, seed=7, echo=True)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    for index, choice in enumerate(answer["choices"]):
        assert choice["text"].startswith(prompts[index // 2])
    alone = [server.complete(prompt=p, max_tokens=8, seed=7, echo=True) for p in prompts]
    assert [a["choices"][0]["text"] for a in alone] == [c["text"] for c in answer["choices"][::2]]


@pytest.mark.parametrize("prompt", ["", [], [[]], [""], None])
def test_empty_prompts(server: Running, prompt: object) -> None:
    assert server.complete(prompt=prompt, max_tokens=3)["usage"]["prompt_tokens"] == 1


def test_ids_and_lengths_at_their_borders(server: Running) -> None:
    for bad in (-1, 400, 2**62, -(2**63)):
        status, error = server.refused(prompt=[5, bad])
        assert (status, error["param"]) == (400, "prompt")
        assert str(bad) in error["message"]
    assert server.complete(prompt=[399], max_tokens=1)
    full = [7] * CONTEXT
    answer = server.complete(prompt=full, max_tokens=1)
    assert answer["usage"]["completion_tokens"] == 1
    assert server.complete(prompt=full, max_tokens=9, ignore_eos=True)["usage"]["completion_tokens"] == 1
    near = server.complete(prompt=full[5:], max_tokens=100, ignore_eos=True)
    assert near["usage"]["completion_tokens"] == 6, "a text ends with the context"
    assert near["choices"][0]["finish_reason"] == "length"
    for long in ([7] * (CONTEXT + 1), "word " * 500, "a" * 300_000):
        status, error = server.refused(prompt=long)
        assert (status, error["code"]) == (400, "context_length_exceeded")


def test_seeds(server: Running) -> None:
    texts = [
        server.complete(prompt=TEXT, max_tokens=30, seed=seed)["choices"][0]["text"]
        for seed in (3, 3, 4, -3, 2**63 - 1)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4
    assert len({server.complete(prompt=TEXT, max_tokens=30)["choices"][0]["text"] for _ in range(4)}) == 4


def test_penalties_and_bias(server: Running, served: ServedModel) -> None:
    banned = served.tokenizer.encode(" a")[0]
    plain = server.complete(prompt=TEXT, max_tokens=60, temperature=0, ignore_eos=True, logprobs=0)["choices"][0]
    assert (
        server.complete(prompt=TEXT, max_tokens=6, temperature=0, logit_bias={str(banned): 100})["choices"][0]["text"]
        == " a" * 6
    )
    without = server.complete(
        prompt=TEXT, max_tokens=60, seed=1, temperature=2, logit_bias={str(banned): -100}, logprobs=0
    )
    assert " a" not in without["choices"][0]["logprobs"]["tokens"]
    for name, value in {"frequency_penalty": 2.0, "presence_penalty": 2.0, "repetition_penalty": 3.0}.items():
        fields = {"prompt": TEXT, "max_tokens": 60, "temperature": 0, "ignore_eos": True, "logprobs": 0, name: value}
        other = server.complete(**fields)["choices"][0]
        assert len(set(other["logprobs"]["tokens"])) > len(set(plain["logprobs"]["tokens"])), name
    odds = server.complete(prompt=TEXT, max_tokens=1, logprobs=0, logit_bias={str(banned): 100})["choices"][0][
        "logprobs"
    ]
    assert odds["token_logprobs"][0] < -0.5, "scores are the model's, before any bias"


def test_penalties_are_those_of_the_formula(server: Running, served: ServedModel) -> None:
    """Greedy, token for token, against the forward pass bent by hand."""
    start = [served.tokenizer.eos_token_id, *served.tokenizer.encode(TEXT)]
    names = TokenNames(served.tokenizer, 400)

    def continued(bend: Callable[[torch.Tensor, list[int]], None]) -> list[str]:
        ids = list(start)
        for _ in range(40):
            with torch.inference_mode():
                logits = served.model(torch.tensor([ids]))[0, -1].double()
                bend(logits, ids)
            ids.append(int(logits.argmax()))
        return [names[token] for token in ids[len(start) :]]

    def counted(logits: torch.Tensor, ids: list[int]) -> None:
        for token, times in Counter(ids[len(start) :]).items():  # of what was generated, not of the prompt
            logits[token] -= 0.7 * times + 0.4

    def repeated(logits: torch.Tensor, ids: list[int]) -> None:
        for token in set(ids):
            logits[token] = logits[token] / 1.3 if logits[token] > 0 else logits[token] * 1.3

    fields = {"prompt": start, "max_tokens": 40, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    for bend, penalties in (
        (counted, {"frequency_penalty": 0.7, "presence_penalty": 0.4}),
        (repeated, {"repetition_penalty": 1.3}),
    ):
        choice = server.complete(**fields, **penalties)["choices"][0]
        assert choice["logprobs"]["tokens"] == continued(bend), penalties


def test_the_end_of_a_text(server: Running, served: ServedModel) -> None:
    end = str(served.tokenizer.eos_token_id)
    answer = server.complete(prompt=TEXT, max_tokens=5, logit_bias={end: 100}, logprobs=0)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"], answer["usage"]["completion_tokens"]) == ("", "stop", 1)
    assert choice["logprobs"]["tokens"] == ["<|endoftext|>"]
    on = server.complete(prompt=TEXT, max_tokens=5, logit_bias={end: 100}, ignore_eos=True)
    assert (on["choices"][0]["finish_reason"], on["usage"]["completion_tokens"]) == ("length", 5)


def test_no_new_tokens(server: Running) -> None:
    answer = server.complete(prompt=TEXT, max_tokens=0, echo=True, logprobs=1)
    assert answer["choices"][0]["text"] == TEXT
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of"), ({"n": 65}, "prompt"), ({"temperature": -0.1}, "temperature"),
     ({"temperature": True}, "temperature"), ({"top_p": 0}, "top_p"), ({"logprobs": 21}, "logprobs"), ({"max_tokens": -1}, "max_tokens"),
     ({"logit_bias": {"400": 1}}, "logit_bias"), ({"logit_bias": {"x": 1}}, "logit_bias"), ({"stop": ["x"] * 17}, "stop"),
     ({"stop": "x" * 257}, "stop"), ({"seed": 2**63}, "seed"), ({"frequency_penalty": 2.1}, "frequency_penalty"), ({"top_k": -2}, "top_k")],
)  # fmt: skip
def test_fields_out_of_range_are_named(server: Running, fields: dict, param: str) -> None:
    status, error = server.refused(prompt="x", **fields)
    assert (status, error["param"]) == (400, param)
    assert param in error["message"]


def test_the_openai_client(client: openai.OpenAI, server: Running) -> None:
    plain = client.completions.create(model="tiny", prompt=TEXT, max_tokens=20, seed=1, logprobs=2, stop=["\n"])
    assert plain.object == "text_completion"
    pieces = list(
        client.completions.create(
            model="tiny", prompt=TEXT, max_tokens=20, seed=1, logprobs=2, stop=["\n"], stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == plain.choices[0].text
    assert pieces[-1].usage == plain.usage
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.completions.create(model="gpt-4", prompt=TEXT)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="tiny", prompt=TEXT, temperature=9)


def test_chat_continues_the_plain_text(client: openai.OpenAI, server: Running) -> None:
    messages = [{"role": "system", "content": "One day"}, {"role": "user", "content": [{"type": "text", "text": TEXT}]}]
    options = {"model": "tiny", "messages": messages, "max_tokens": 15, "seed": 2, "logprobs": True, "top_logprobs": 2}
    chat = client.chat.completions.create(**options)
    text = server.complete(prompt=f"One day\n\n{TEXT}", max_tokens=15, seed=2)["choices"][0]["text"]
    assert chat.choices[0].message.content == text
    assert chat.model_extra == {"chat_template": "plain-text"}
    content = chat.choices[0].logprobs.content
    assert (
        b"".join(bytes(token.bytes) for token in content).decode(errors="replace").replace("<|endoftext|>", "") == text
    )
    assert all(len(token.top_logprobs) == 2 and math.isfinite(token.logprob) for token in content)
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert chunks[0].choices[0].delta.role == "assistant"
    image = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}]
    with pytest.raises(openai.BadRequestError, match="text alone"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": image}])  # type: ignore


def test_tokens_and_back(server: Running, served: ServedModel) -> None:
    text = "Tom saw a 🐶 <|endoftext|>"
    status, _, body = server.ask("POST", "/tokenize", {"prompt": text, "add_special_tokens": False})
    ids = json.loads(body)["tokens"]
    assert (status, ids) == (200, served.tokenizer.encode(text))
    assert json.loads(server.ask("POST", "/tokenize", {"prompt": text})[2])["tokens"] == [0, *ids]
    assert json.loads(server.ask("POST", "/detokenize", {"tokens": [0, *ids]})[2]) == {"prompt": text}
    assert server.ask("POST", "/detokenize", {"tokens": [400]})[0] == 400
    info = json.loads(server.ask("GET", "/tokenizer_info")[2])
    assert (info["eos_token"], info["chat_template"]) == ("<|endoftext|>", None)


def test_the_description_needs_nothing_from_outside(server: Running) -> None:
    status, headers, body = server.ask("GET", "/docs")
    assert status == 200
    assert b"http://" not in body
    assert b"https://" not in body
    assert b"<script" not in body
    assert b"repetition_penalty" in body
    assert "default-src 'none'" in headers["content-security-policy"]
    paths = json.loads(server.ask("GET", "/openapi.json")[2])["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/health", "/metrics"} <= set(paths)
