"""The real server over sockets, in a thread of the test's process, with a tiny model."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from gpt2 import GPT2, GPT2Config, Tokenizer
from gpt2.data import iter_documents
from gpt2.serving.app import create_app
from gpt2.serving.engine import Engine
from gpt2.serving.served import ServedModel
from gpt2.serving.server import Server, listen
from gpt2.serving.settings import ServeSettings
from tests.conftest import randomize

CONTEXT = 96


@dataclass
class Running:
    """A server, and requests to it by the standard library alone."""

    port: int
    engine: Engine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers by lower-case name, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, content, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def complete(self, **fields: Any) -> dict[str, Any]:
        """The answer of /v1/completions."""
        status, _, body = self.ask("POST", "/v1/completions", fields)
        assert status == 200, body
        return json.loads(body)

    def refused(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        """(status, the error) of a request that is not answered."""
        status, headers, body = self.ask("POST", "/v1/completions", fields)
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert headers["content-type"] == "application/json"
        return status, error

    def stream(self, **fields: Any) -> list[dict[str, Any]]:
        """The events of a streamed answer, [DONE] checked and left out."""
        status, headers, body = self.ask("POST", "/v1/completions", {**fields, "stream": True})
        assert status == 200, body
        assert headers["content-type"].startswith("text/event-stream")
        return events(body)

    def metric(self, name: str) -> float:
        """A figure of /metrics."""
        lines = self.ask("GET", "/metrics")[2].decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"gpt2_{name} "))


def events(body: bytes) -> list[dict[str, Any]]:
    """The JSON of server-sent events."""
    parts = body.decode("utf-8").split("\n\n")
    assert parts.pop() == ""
    assert parts.pop() == "data: [DONE]"
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


@contextmanager
def running(served: ServedModel, **settings: Any) -> Iterator[Running]:
    """A server until the block ends."""
    chosen = ServeSettings(port=0, **settings)
    app = create_app(served, chosen)
    listener = listen(chosen)
    server = Server(app, chosen)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Running(listener.getsockname()[1], app.state.engine)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    """Poll; time decides nothing but when to give up."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text for _, text in zip(range(150), iter_documents(), strict=False)], 400)


@pytest.fixture(scope="session")
def served(tokenizer: Tokenizer) -> ServedModel:
    """Random weights, so that different prompts give different texts."""
    config = GPT2Config(
        vocab_size=400, context_length=CONTEXT, d_model=64, num_layers=2, num_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = randomize(GPT2(config, generator=torch.Generator().manual_seed(5)), std=0.12).eval()
    return ServedModel("tiny", None, model, tokenizer, torch.device("cpu"))


@pytest.fixture(scope="session")
def server(served: ServedModel) -> Iterator[Running]:
    with running(served, slots=8) as one:
        yield one
