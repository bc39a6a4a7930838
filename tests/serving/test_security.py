"""Who may ask, from where, how much; and that no field, however absurd, is the server's fault."""

import hmac
import json
import math
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2.serving.app import create_app
from gpt2.serving.served import ServedModel
from gpt2.serving.settings import ServeSettings
from tests.serving.conftest import Running, running

KEY = "a-key-of-the-tests"
PUBLIC = {"/", "/health", "/favicon.ico", "/icon.svg", "/assets/{name}"}


@pytest.fixture(scope="module")
def locked(served: ServedModel) -> Iterator[Running]:
    with running(served, api_key=KEY, slots=2) as one:
        yield one


def test_every_route_wants_the_key(locked: Running, served: ServedModel) -> None:
    """The routes are the application's own, so one that is added later is asked too."""
    app = create_app(served, ServeSettings(api_key=KEY))
    asked = 0
    for path, methods in routes(app):
        for method in methods - {"HEAD"}:
            if path in PUBLIC and method == "GET":
                assert locked.ask(method, path.replace("{name}", "x"))[0] != 401
                continue
            filled = path.replace("{", "").replace("}", "").replace(":path", "")
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"},
                            {"Authorization": f"Bearer {KEY}x"}, {"Authorization": "Bearer "}, {"Authorization": "Bearer é"}):  # fmt: skip
                status, answer, body = locked.ask(method, filled, headers=headers)
                assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key"), (method, path, headers)
                assert answer["www-authenticate"] == "Bearer"
            asked += 1
    assert asked >= 8
    assert locked.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})[0] == 200
    assert locked.ask("GET", "/no/such/route")[0] == 401
    for path in (
        "//v1/models",
        "/assets/../v1/models",
        "/assets/..%2fv1/models",
        "/%76%31/models",
        "/health/../metrics",
    ):
        status, _, body = locked.ask("GET", path)
        assert status in (401, 404), path
        assert b'"data"' not in body


def test_there_are_no_other_routes(served: ServedModel) -> None:
    """None fetches an address, loads a model or changes what is served: whoever adds a route names it here."""
    looking = {"model", "history", "tokens", "look/{view}", "logits", "atlas", "continue"}
    openai = {"completions", "chat/completions", "models", "models/{name:path}"}
    known = PUBLIC | {"/tokenize", "/detokenize", "/tokenizer_info", "/metrics", "/docs", "/openapi.json"}
    known |= {f"/api/{name}" for name in looking} | {f"/v1/{name}" for name in openai}
    assert {path for path, _ in routes(create_app(served, ServeSettings()))} == known


def test_keys_are_compared_in_constant_time(locked: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Always digests of one length by the one function that looks at all of them, whatever was sent."""
    compare, seen = hmac.compare_digest, []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append((len(a), len(b))) or compare(a, b))
    keys = ("", "a", KEY[:-1], KEY, KEY * 50, "é")
    found = [locked.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})[0] for key in keys]
    assert found == [401, 401, 401, 200, 401, 401]
    assert seen == [(32, 32)] * len(keys)


def routes(app: Any) -> Iterator[tuple[str, set[str]]]:
    """(path, methods) of every route, of included routers too."""
    waiting = list(app.router.routes)
    found = 0
    while waiting:
        route = waiting.pop()
        nested = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if nested:
            waiting += nested
        elif getattr(route, "methods", None):
            found += 1
            yield route.path, set(route.methods)
    assert found >= 10


def raw(port: int, request: bytes) -> bytes:
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.com", 421), ("evil.com:80", 421), ("127.0.0.1.evil.com", 421), ("localhost.evil.com", 421), ("", 421), ("x@127.0.0.1", 421),
     ("127.0.0.1/v1?", 421), ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1:99", 200), ("[::1]:8000", 200)],
)  # fmt: skip
def test_hosts(server: Running, host: str, status: int) -> None:
    """DNS rebinding: a name of somebody else's that leads here."""
    answer = raw(server.port, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert int(answer.split()[1]) == status


def test_a_host_that_is_allowed(served: ServedModel) -> None:
    with running(served, allowed_host=("model.example",), allowed_origin=("http://app.example",), slots=1) as one:
        assert one.ask("GET", "/v1/models", headers={"Host": "model.example:8000"})[0] == 200
        assert one.ask("GET", "/v1/models", headers={"Host": "other.example"})[0] == 421
        good = {"Origin": "http://app.example", "Access-Control-Request-Method": "POST"}
        status, headers, _ = one.ask("OPTIONS", "/v1/completions", headers=good)
        assert (status, headers["access-control-allow-origin"]) == (204, "http://app.example")
        assert "authorization" in headers["access-control-allow-headers"]
        status, headers, _ = one.ask("GET", "/v1/models", headers={"Origin": "http://app.example"})
        assert (status, headers["access-control-allow-origin"]) == (200, "http://app.example")


def test_no_page_of_another_origin(server: Running) -> None:
    for origin in ("http://evil.com", "null", f"http://localhost:{server.port + 1}", "http://127.0.0.1"):
        status, headers, _ = server.ask("POST", "/v1/completions", {"prompt": "x"}, {"Origin": origin})
        assert status == 403, origin
        preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for answer in (headers, server.ask("OPTIONS", "/v1/completions", headers=preflight)[1]):
            assert not any(name.startswith("access-control") for name in answer)
    assert server.ask("GET", "/v1/models", headers={"Origin": server.url})[0] == 200


def test_bodies_are_bounded(server: Running) -> None:
    # Nothing is sent that the server does not read before it answers: it closes, and the system would cut the answer.
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    answers = [raw(server.port, head + b"Content-Length: %d\r\n\r\n" % (2**20 + 1))]
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    answers.append(raw(server.port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 16 + b"1\r\na\r\n"))
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"body_too_large" in answer
    for length in (b"-5", b"99999999999999999999999", b"1e3", b"0x10"):
        answer = raw(
            server.port, b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + length + b"\r\n\r\n{}"
        )
        assert int(answer.split()[1]) in (400, 413), length


def test_headers_are_bounded(server: Running) -> None:
    answer = raw(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 17_000 + b"\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", os.urandom(2000) + b"\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"],
)  # fmt: skip
def test_garbage_is_refused(server: Running, garbage: bytes) -> None:
    answer = raw(server.port, garbage)
    assert answer == b"" or int(answer.split()[1]) in (400, 404, 421, 431)
    assert server.complete(prompt="x", max_tokens=1)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"3", b'"x"', b"[" * 200_000, b'{"a":' * 100_000, b'{"prompt": "\\ud800"}', b'{"prompt": "\xff"}', b'{"temperature": NaN}',
     b'{"temperature": Infinity}', b'{"seed": 1' + b"0" * 5000 + b"}", b'{"logit_bias": {"1": 1e999}}', b"\xef\xbb\xbf{}", b"\x00"],
)  # fmt: skip
def test_bodies_that_are_no_request(server: Running, body: bytes) -> None:
    status, _, answer = server.ask("POST", "/v1/completions", body)
    assert status == (200 if body == b"" else 400)
    if status == 400:
        assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}


STRANGE = st.sampled_from(
    [
        None,
        True,
        False,
        "",
        [],
        {},
        -1,
        0,
        1,
        1e308,
        2**63,
        -(2**63),
        2**31,
        0.5,
        "NaN",
        [[]],
        [None],
        {"1": None},
        "x" * 300,
    ]
)
FIELDS = (
    "model", "prompt", "max_tokens", "temperature", "top_p", "n", "stream", "stream_options", "stop", "seed", "echo", "logprobs", "best_of", "suffix",
    "frequency_penalty", "presence_penalty", "logit_bias", "user", "top_k", "min_p", "repetition_penalty", "ignore_eos", "messages", "top_logprobs",
    "max_completion_tokens", "tools", "unknown",
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    path=st.sampled_from(["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]),
    fields=st.dictionaries(st.sampled_from(FIELDS), STRANGE, max_size=4),
)
def test_no_field_is_the_servers_fault(server: Running, path: str, fields: dict) -> None:
    start: dict = {"max_tokens": 3}
    if path.endswith("chat/completions"):
        start["messages"] = [{"role": "user", "content": "x"}]
    status, _, body = server.ask("POST", path, {**start, **fields})
    assert status == 200 or 400 <= status < 500, body
    if status != 200:
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]


def test_each_field_alone(server: Running) -> None:
    for field in FIELDS:
        for value in (None, True, False, "", [], {}, -1, 0, 1e308, math.nan, math.inf, 2**63):  # JSON here has NaN
            status, _, body = server.ask("POST", "/v1/completions", {"prompt": "x", "max_tokens": 2, field: value})
            assert status == 200 or 400 <= status < 500, (field, value, body)
            if value is None:
                assert status == 200, field
            if status != 200:
                error = json.loads(body)["error"]
                assert set(error) == {"message", "type", "param", "code"}, (field, value)
                assert error["message"], (field, value)


def test_errors_hold_no_control_characters(server: Running) -> None:
    _, _, body = server.ask("POST", "/v1/completions", {"model": "a\n\x1b[31mred"})
    assert b"\x1b" not in body
    assert b"\n" not in body
    status, _, body = server.ask("GET", "/a%0a%1b%5b31m")
    assert status == 404
    assert b"\x1b" not in body
    assert b"\n" not in body
