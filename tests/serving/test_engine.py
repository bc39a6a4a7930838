"""The queue, deadlines, prefixes and counts of the engine, seen from outside."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor

from gpt2.serving.served import ServedModel
from tests.serving.conftest import CONTEXT, Running, running, wait_until

LONG = {"prompt": "One day", "max_tokens": CONTEXT, "ignore_eos": True}


def test_a_full_queue_refuses_and_recovers(served: ServedModel) -> None:
    with running(served, slots=1, queue=2, max_choices=64) as one:
        hold = {**LONG, "n": 64}

        def ask(_: int) -> tuple[int, dict[str, str], bytes]:
            return one.ask("POST", "/v1/completions", hold)

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, range(12)))
        statuses = [status for status, _, _ in answers]
        assert set(statuses) == {200, 429}
        for status, headers, body in answers:
            if status == 429:
                assert int(headers["retry-after"]) >= 1
                assert json.loads(body)["error"]["type"] == "rate_limit_error"
        wait_until(lambda: one.engine.idle)
        assert one.complete(prompt="x", max_tokens=1)


def test_requests_share_few_slots_in_turn(served: ServedModel) -> None:
    """A large request does not hold a small one up until its own end."""
    with running(served, slots=2, queue=8) as one, ThreadPoolExecutor(2) as pool:
        large = pool.submit(one.complete, **{**LONG, "n": 64, "seed": 1})
        wait_until(lambda: one.engine.running == 2)
        before = one.engine.counters.new_tokens
        assert one.complete(prompt="x", max_tokens=2)
        assert one.engine.counters.new_tokens - before < 64 * 90 / 2
        assert len(large.result()["choices"]) == 64


def test_a_request_ends_at_its_time_with_what_it_has(served: ServedModel) -> None:
    with running(served, slots=1, queue=4, time_limit=0.25) as one:
        with ThreadPoolExecutor(2) as pool:
            answers = list(
                pool.map(lambda _: one.ask("POST", "/v1/completions", {**LONG, "n": 64, "seed": 1}), range(2))
            )
        for status, _, body in answers:
            assert status in (200, 503)
            if status == 200:
                assert {choice["finish_reason"] for choice in json.loads(body)["choices"]} == {"length"}
        wait_until(lambda: one.engine.idle and one.engine.running == 0 and one.engine.queued == 0)
        assert one.complete(prompt="x", max_tokens=1)


def test_what_prompts_have_in_common_is_computed_once(served: ServedModel) -> None:
    start = "Once upon a time there was a little girl who lived in a small house near the sea with her dog. "
    with running(served, slots=3) as one:
        fields = {"max_tokens": 12, "seed": 4, "temperature": 0.8}
        fresh = one.complete(prompt=start + "She", **fields)["choices"]
        first = one.engine.counters.prompt_tokens
        assert one.complete(prompt=start + "She", **fields)["choices"] == fresh
        other = one.complete(prompt=start + "He", **fields)["choices"]
        assert one.engine.counters.prompt_tokens - first < first / 2
        assert one.metric("prompt_tokens_reused_total") > first
        scored = one.complete(prompt=start + "He", echo=True, logprobs=1, **fields)["choices"][0]
        assert scored["text"] == start + "He" + other[0]["text"], (
            "scored prompts are computed whole, with the same result"
        )
    with running(served, slots=3) as two:
        assert two.complete(prompt=start + "He", **fields)["choices"] == other


def test_a_long_prompt_comes_in_stretches(server: Running, served: ServedModel) -> None:
    """Ninety tokens are more than one step takes; shared with others or not, the scores are the same bits."""
    ids = served.tokenizer.encode("One day a little girl went to the park. " * 20)[:90]
    fields = {"prompt": [ids], "max_tokens": 1, "echo": True, "logprobs": 2, "temperature": 0}
    alone = server.complete(**fields)["choices"]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: server.complete(**fields)["choices"], range(6))) == [alone] * 6
    assert len(alone[0]["logprobs"]["tokens"]) == 91


def test_counts(served: ServedModel) -> None:
    with running(served, slots=2) as one:
        one.complete(prompt=[3, 4, 5], max_tokens=4, ignore_eos=True)
        one.refused(prompt=-1)
        text = one.ask("GET", "/metrics")[2].decode()
        assert one.metric("prompt_tokens_total") == 3
        assert one.metric("generated_tokens_total") == 4
        for line in (
            'gpt2_streams_total{finish="length"} 1', 'gpt2_responses_total{status="200"} 1', 'gpt2_responses_total{status="400"} 1',
            "gpt2_first_token_seconds_count 1", 'gpt2_first_token_seconds_bucket{le="+Inf"} 1',
        ):  # fmt: skip
            assert line in text.splitlines()
        for line in text.splitlines():
            assert line.startswith("# ") or len(line.rsplit(" ", 1)) == 2


def test_draining_takes_nothing_new_and_finishes_the_rest(served: ServedModel) -> None:
    with running(served, slots=1, grace=20.0) as one:
        connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps({**LONG, "n": 64, "seed": 3, "stream": True}))
        response = connection.getresponse()
        one.engine.draining = True
        assert one.ask("GET", "/health")[0] == 503
        status, headers, body = one.ask("POST", "/v1/completions", {"prompt": "x"})
        assert (status, json.loads(body)["error"]["code"]) == (503, "stopping")
        assert "retry-after" in headers
        text = response.read()
        assert text.endswith(b"data: [DONE]\n\n")
        assert text.count(b'"finish_reason": "length"') == 64
        connection.close()
        wait_until(lambda: not one_listens(one))


def one_listens(server: Running) -> bool:
    try:
        server.ask("GET", "/health")
    except OSError:
        return False
    return True
