"""Clients that are slow, silent or gone, while others are served."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from gpt2 import GPT2
from gpt2.serving.served import ServedModel
from tests.conftest import randomize
from tests.serving.conftest import Running, running, wait_until

PATIENCE = 0.6
BODY = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
UNFINISHED = [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", BODY, BODY + b'{"prompt"']


@pytest.fixture(scope="module")
def hasty(served: ServedModel) -> Iterator[Running]:
    with running(served, slots=4, patience=PATIENCE) as one:
        yield one


def connect(server: Running, *, buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.connect(("127.0.0.1", server.port))
    connection.settimeout(30)
    return connection


def closed(connection: socket.socket) -> bool:
    """Read until the server closes; without a time-out it has."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("beginning", UNFINISHED)
def test_who_stops_in_the_middle_is_closed(hasty: Running, beginning: bytes) -> None:
    with connect(hasty) as slow:
        slow.sendall(beginning)
        assert hasty.complete(prompt="One day", max_tokens=3)
        begun = time.monotonic()
        assert closed(slow)
        assert time.monotonic() - begun < 20 * PATIENCE


@pytest.mark.parametrize("beginning", [b"GET /health HTTP/1.1\r\nX: ", BODY])
def test_a_byte_now_and_then_does_not_help(hasty: Running, beginning: bytes) -> None:
    with connect(hasty) as slow:
        slow.sendall(beginning)
        end = time.monotonic() + 60 * PATIENCE
        try:
            while time.monotonic() < end:
                slow.sendall(b"a")
                time.sleep(0.05)
        except ConnectionError:
            return
        pytest.fail("it was never closed")


def test_an_idle_connection_after_an_answer(hasty: Running) -> None:
    with connect(hasty) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        idle.sendall(b"GET /hea")  # half of a second request
        assert closed(idle)


def test_at_the_real_patience_all_of_them_are_closed_and_nobody_waits(served: ServedModel) -> None:
    """Slow headers, silence and slow bodies at once, at the default of five seconds: no sooner, and not much later."""
    with running(served, slots=4) as one, ThreadPoolExecutor(len(UNFINISHED) * 2) as pool:
        fields = {"prompt": "One day", "max_tokens": 20, "seed": 1}
        alone, patience = one.complete(**fields)["choices"], one.engine.settings.patience
        waits = [pool.submit(seconds_until_closed, one, start, drip) for start in UNFINISHED for drip in (b"", b"a")]
        while not all(wait.done() for wait in waits):
            assert one.complete(**fields)["choices"] == alone
        assert patience == 5.0
        for wait in waits:
            assert patience - 0.1 < wait.result() < 2 * patience


def seconds_until_closed(server: Running, beginning: bytes, drip: bytes) -> float:
    """From the connection to its end, for a client that goes on with a byte now and then, or with nothing."""
    begun = time.monotonic()
    with connect(server) as slow:
        slow.sendall(beginning)
        try:
            while drip and time.monotonic() < begun + 30:
                slow.sendall(drip)
                time.sleep(0.1)
        except ConnectionError:
            return time.monotonic() - begun
        assert closed(slow)
    return time.monotonic() - begun


def test_who_does_not_read_is_closed(served: ServedModel) -> None:
    """Scores of sixty-four prompts are megabytes, far more than the buffers between hold."""
    prompt = [[5 + i % 90] * 90 for i in range(64)]
    with running(served, slots=8, patience=PATIENCE) as one:
        body = (
            str({"prompt": prompt, "max_tokens": 1, "echo": True, "logprobs": 20})
            .replace("'", '"')
            .replace("True", "true")
            .encode()
        )
        with connect(one, buffer=4096) as deaf:
            deaf.sendall(BODY.replace(b"1000", str(len(body)).encode()) + body)
            wait_until(lambda: one.metric("generated_tokens_total") >= 64)
            assert one.complete(prompt="One day", max_tokens=3)
            time.sleep(3 * PATIENCE)
            received = bytearray()
            try:
                while part := deaf.recv(65536):
                    received += part
            except ConnectionError:
                pass
        assert b"usage" not in received, "what was left was not sent"
        assert 0 < len(received) < 4_000_000


def test_two_hundred_silent_ones_hinder_nobody(served: ServedModel) -> None:
    with running(served, slots=4, patience=30.0, max_connections=260) as one:
        fields = {"prompt": "One day", "max_tokens": 20, "seed": 1}
        alone = one.complete(**fields)["choices"]
        silent = [connect(one) for _ in range(200)]
        try:
            assert [one.complete(**fields)["choices"] for _ in range(10)] == [alone] * 10
            more = [connect(one) for _ in range(80)]
            assert sum(closed(connection) for connection in more[-10:]) == 10, (
                "beyond the limit they are closed at once"
            )
            for connection in more:
                connection.close()
            wait_until(lambda: answers(one))
            assert one.complete(**fields)["choices"] == alone
        finally:
            for connection in silent:
                connection.close()


def answers(server: Running) -> bool:
    try:
        return server.ask("GET", "/health")[0] == 200
    except OSError:
        return False


def test_who_leaves_after_three_of_five_hundred_tokens_gets_two_more_at_most(served: ServedModel) -> None:
    config = replace(served.model.config, context_length=600)
    model = randomize(GPT2(config, generator=torch.Generator().manual_seed(6)), std=0.12).eval()
    with running(ServedModel("long", None, model, served.tokenizer, served.device), slots=1) as one:
        body = b'{"prompt": "One", "max_tokens": 500, "seed": 1, "ignore_eos": true, "stream": true, "logprobs": 0}'
        with connect(one) as client, client.makefile("rb") as lines:
            client.sendall(BODY.replace(b"1000", str(len(body)).encode()) + body)
            tokens = 0
            while tokens < 3:
                line = lines.readline()
                if line.startswith(b"data: "):
                    tokens += len(json.loads(line[6:])["choices"][0]["logprobs"]["tokens"])
        wait_until(lambda: one.metric("slots_running") == 0)
        assert one.metric("tokens_after_cancel_max") <= 2
        assert one.metric("generated_tokens_total") < 500
        assert one.complete(prompt="One", max_tokens=3)


def test_who_leaves_frees_the_slot_at_once(served: ServedModel) -> None:
    """At most two more tokens are computed after the server knows of it."""
    with running(served, slots=2) as one:
        for _ in range(5):
            for stream in ("true", "false"):
                body = (
                    b'{"prompt": "One", "max_tokens": 90, "n": 8, "ignore_eos": true, "stream": %b}' % stream.encode()
                )
                before = one.engine.counters.new_tokens
                with connect(one) as client:
                    client.sendall(BODY.replace(b"1000", str(len(body)).encode()) + body)
                    wait_until(lambda before=before: one.engine.counters.new_tokens > before)
            wait_until(lambda: one.engine.running == 0 and one.engine.idle)
        assert one.metric("slots_running") == 0
        assert one.metric("requests_waiting") == 0
        assert one.metric("tokens_after_cancel_max") <= 2
        assert one.complete(prompt="One", max_tokens=3)
