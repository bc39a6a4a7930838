"""Clients of a server that speaks OpenAI's completions, and the server's process.

The clients share the machine with the server, so they read raw bytes and parse nothing until the clock has stopped.
"""

import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpt2 import Tokenizer

PROMPTS = ("Once upon a time there was a", "One day, a little girl", "Tom had a dog. The dog", "The sun was warm and")
NEW_TOKENS = 200


@dataclass
class Load:
    """What a number of streams gave."""

    streams: int
    seconds: float = 0.0
    requests: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    def line(self) -> str:
        first = sorted(self.first)
        late = 1000 * first[min(len(first) - 1, int(0.99 * len(first)))]
        median = 1000 * statistics.median(first)
        return (
            f"{self.streams:3d} streams: {self.rate:,.0f} tokens/s, {self.requests:,} requests in "
            f"{self.seconds:.0f} s, first token {median:.0f} ms (99 %: {late:.0f} ms), {len(self.errors)} errors"
        )


def fields(number: int, model: str, before: str = "", new_tokens: int = NEW_TOKENS) -> dict[str, Any]:
    """Request `number` of a load; one in four starts alike.

    Args:
        number: requests that are 64 apart are the same.
        model: its name at the server.
        before: what this server wants before a text.
        new_tokens: most of them.
    """
    return {
        "model": model, "prompt": before + PROMPTS[number % len(PROMPTS)], "max_tokens": new_tokens,
        "temperature": 0.8, "seed": number % 64, "stream": True,
    }  # fmt: skip


async def ask(port: int, path: str, content: dict[str, Any], began: asyncio.Event | None = None) -> tuple[bytes, float]:
    """(the whole response, seconds to its first byte of body), over a connection of its own.

    `began` is set at that byte.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        body = json.dumps(content).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        start = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        parts = [await reader.readuntil(b"\r\n\r\n"), await reader.read(65536)]
        first = time.perf_counter() - start
        if began is not None:
            began.set()
        while part := await reader.read(2**20):
            parts.append(part)
        return b"".join(parts), first
    finally:
        writer.close()


def text_of(response: bytes) -> tuple[str, str]:
    """(text, error) of a streamed answer."""
    if not response.startswith(b"HTTP/1.1 200"):
        return "", response[:300].decode(errors="replace")
    body = re.sub(rb"\r\n[0-9a-fA-F]+\r\n", b"", b"\r\n" + response.partition(b"\r\n\r\n")[2])
    text, ended = [], b"[DONE]" in body
    for event in re.findall(rb"data: (\{.*?\})\s*\n\n", body, re.DOTALL):
        piece = json.loads(event)
        if "error" in piece:
            return "", str(piece["error"])
        for choice in piece.get("choices", []):
            ended |= bool(choice.get("finish_reason"))  # transformers sends no [DONE]
            text.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
    return "".join(text), "" if ended else "it was cut"


async def load(
    port: int,
    model: str,
    streams: int,
    seconds: float,
    tokenizer: Tokenizer,
    expected: Mapping[int, str] | None = None,
    before: str = "",
    new_tokens: int = NEW_TOKENS,
) -> Load:
    """So many streams at once, each asking again when it is answered, for so long.

    Args:
        port: of the server, on this machine.
        model: its name there.
        streams: how many.
        seconds: after which none asks again.
        tokenizer: counts what came.
        expected: the text of each of the 64 requests, if another is an error.
        before: what this server wants before a text.
        new_tokens: most of one request.
    """
    result, answers = Load(streams), []
    begun = time.perf_counter()
    end = begun + seconds
    numbers = iter(range(10**9))

    async def one() -> None:
        while time.perf_counter() < end:
            number = next(numbers)
            try:
                response, first = await ask(port, "/v1/completions", fields(number, model, before, new_tokens))
            except OSError as error:
                result.errors.append(repr(error))
                continue
            answers.append((number, response))
            result.first.append(first)

    await asyncio.gather(*(one() for _ in range(streams)))
    result.seconds = time.perf_counter() - begun
    for number, response in answers:
        text, error = text_of(response)
        right = expected is None or text == expected[number % 64]
        if error or not right:
            result.errors.append(error or f"request {number} has another text than alone")
        result.requests += 1
        result.tokens += len(tokenizer.encode(text))  # alike for every server: some end a text before the limit
    return result


@contextmanager
def process(command: list[str], port: int, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A server until the block ends, listening when it begins."""
    with tempfile.TemporaryFile("w+") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environment or {})})
        try:
            end = time.monotonic() + 120
            while not listening(port):
                if started.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(f"{command[0]} did not start:\n{log.read()[-2000:]}")
                time.sleep(0.1)
            yield started
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.kill()


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
