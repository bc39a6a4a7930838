"""Load on servers: `python -m benchmarks.serving MODEL`, many streams at once, against transformers and llama.cpp.

Every stream's text is compared with what the same seeded request gave alone, so that no token may be lost or mixed up.
The client shares the machine with the server, reads raw bytes, and parses nothing until the clock has stopped.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
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


def fields(number: int, model: str, stream: bool = True) -> dict[str, Any]:
    """Request `number` of a load; one in eight starts alike."""
    return {
        "model": model, "prompt": PROMPTS[number % len(PROMPTS)], "max_tokens": NEW_TOKENS, "temperature": 0.8,
        "seed": number % 64, "stream": stream,
    }  # fmt: skip


async def ask(port: int, path: str, content: dict[str, Any]) -> tuple[bytes, float]:
    """(the whole response, seconds to its first byte of body), over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        body = json.dumps(content).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        start = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        parts = [await reader.readuntil(b"\r\n\r\n"), await reader.read(65536)]
        first = time.perf_counter() - start
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
    text = []
    for event in re.findall(rb"data: (\{.*?\})\s*\n\n", body, re.DOTALL):
        piece = json.loads(event)
        if "error" in piece:
            return "", str(piece["error"])
        for choice in piece.get("choices", []):
            text.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
    return "".join(text), "" if b"[DONE]" in body else "it was cut"


async def load(
    port: int, model: str, streams: int, seconds: float, expected: dict[int, str] | None, tokenizer: Tokenizer
) -> Load:
    """So many streams at once, each asking again when it is answered, for so long."""
    result, answers = Load(streams), []
    begun = time.perf_counter()
    end = begun + seconds
    numbers = iter(range(10**9))

    async def one() -> None:
        while time.perf_counter() < end:
            number = next(numbers)
            try:
                response, first = await ask(port, "/v1/completions", fields(number, model))
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


async def alone(port: int, model: str) -> dict[int, str]:
    """The texts of all requests that a load makes, one after another."""
    texts = {}
    for number in range(64):
        texts[number], error = text_of((await ask(port, "/v1/completions", fields(number, model)))[0])
        assert not error, error
    return texts


@contextmanager
def process(command: list[str], ready: int, **environment: str) -> Iterator[int]:
    """A server until the block ends; gives its process id."""
    log = Path(f"/tmp/benchmark-server-{ready}.log")
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment}) as started,
    ):
        try:
            end = time.monotonic() + 120
            while not listening(ready):
                if started.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield started.pid
            started.send_signal(signal.SIGTERM)
            started.wait(30)
        finally:
            started.kill()


def listening(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def memory(pid: int) -> float:
    """MB that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@asynccontextmanager
async def unkind(port: int) -> AsyncIterator[None]:
    """Clients that vanish, read nothing, send garbage or nothing at all, two hundred of the last."""
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]

    async def annoy(number: int) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                if number % 3 == 0:
                    writer.write(os.urandom(500))
                else:
                    body = json.dumps(fields(number, "", True) | {"model": None}).encode()
                    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
                    writer.write(head.encode() + (body if number % 3 == 1 else body[:10]))
                await asyncio.sleep(0.3)
                writer.transport.abort()
            except OSError:
                await asyncio.sleep(0.3)

    tasks = [asyncio.create_task(annoy(number)) for number in range(9)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for _, writer in silent:
            writer.close()


async def ours(port: int, pid: int, model: str, seconds: float, soak: int, tokenizer: Tokenizer) -> None:
    """The bars of the server, one after another."""
    expected = await alone(port, model)
    loads = [await load(port, model, streams, seconds, expected, tokenizer) for streams in (1, 16, 64)]
    for each in loads:
        print(each.line(), *each.errors[:3], sep="\n  " if each.errors else "", flush=True)
    print(f"64 streams to 1: {loads[2].rate / loads[0].rate:.2f} times", flush=True)
    async with unkind(port):
        bad = await load(port, model, 16, seconds, expected, tokenizer)
    print("beside unkind clients:", bad.line(), *bad.errors[:3], flush=True)
    before, done, marks = memory(pid), 0, []
    while done < soak:
        part = await load(port, model, 32, 5.0, expected, tokenizer)
        done += part.requests
        marks.append(f"{memory(pid):.0f}")
        assert not part.errors, part.errors[:3]
    if soak:
        print(f"memory over {done:,} requests: {before:.0f} MB before, then {', '.join(marks)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model folder")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--soak", type=int, default=0, help="requests over which memory is watched")
    parser.add_argument("--streams", type=int, default=16, help="of the comparison")
    parser.add_argument("--transformers", help="the command transformers, with its extra serving")
    parser.add_argument("--llama", help="a Python with llama-cpp-python[server]")
    parser.add_argument("--gguf", help="the model as a GGUF file, for llama.cpp")
    options = parser.parse_args()
    folder = Path(options.model).resolve()
    tokenizer = Tokenizer.load(folder)
    slots = max(64, options.streams)
    with process(
        [sys.executable, "-m", "gpt2", "serve", str(folder), "--port", "9411", "--slots", str(slots)], 9411
    ) as pid:
        asyncio.run(ours(9411, pid, folder.name, options.seconds, options.soak, tokenizer))
        show("gpt2 serve", asyncio.run(load(9411, folder.name, options.streams, options.seconds, None, tokenizer)))
    if options.transformers:
        command = [options.transformers, "serve", "--port", "9412", "--device", "cpu"]
        with process(command, 9412, HF_HUB_OFFLINE="1"):
            show(
                "transformers serve",
                asyncio.run(load(9412, str(folder), options.streams, options.seconds, None, tokenizer)),
            )
    if options.llama and options.gguf:
        command = [options.llama, "-m", "llama_cpp.server", "--model", options.gguf, "--port", "9413", "--n_ctx", "256"]
        with process(command, 9413):
            show(
                "llama.cpp's server",
                asyncio.run(load(9413, folder.name, options.streams, options.seconds, None, tokenizer)),
            )


def show(name: str, result: Load) -> None:
    print(f"{name}: {result.line()}", *result.errors[:2], flush=True)


if __name__ == "__main__":
    main()
