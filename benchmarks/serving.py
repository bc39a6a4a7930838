"""Bars of `gpt2 serve`: `python -m benchmarks.serving [MODEL]`: many streams at once, unkind clients, a long run.

Every stream's text is compared with what the same seeded request gave alone, so that no token may be lost or mixed up.
Beside other servers: `gpt2 bench serving-4x128`.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from benchmarks.load import NEW_TOKENS, ask, fields, load, process, text_of
from gpt2 import Tokenizer
from gpt2.checkpoint.demo import located

_SHORT = 20  # new tokens of a request of the long run: memory is lost, if at all, with each request


async def alone(port: int, model: str, new_tokens: int = NEW_TOKENS) -> dict[int, str]:
    """The texts of all requests that a load makes, one after another."""
    texts = {}
    for number in range(64):
        texts[number], error = text_of(
            (await ask(port, "/v1/completions", fields(number, model, new_tokens=new_tokens)))[0]
        )
        assert not error, error
    return texts


def held(pid: int) -> str:
    """Memory, open files and threads of a process; of Linux."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    told = dict(line.split(":", 1) for line in lines)
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return f"{int(told['VmRSS'].split()[0]) / 1024:.0f} MB {files} files {told['Threads'].strip()} threads"


def request_of(number: int) -> bytes:
    """A request as it goes over the wire."""
    body = json.dumps(fields(number, "") | {"model": None}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def annoy(number: int, writer: asyncio.StreamWriter) -> None:
    """What one unkind client does with a connection; whoever calls this cuts it off afterwards."""
    whole = request_of(number)
    kind = number % 5
    if kind == 0:
        writer.write(os.urandom(500))
    elif kind in (1, 2):  # the whole request, or only the beginning of its body
        writer.write(whole if kind == 1 else whole[:-40])
    elif kind == 3:  # a byte now and then, until the server has had enough
        for i in range(len(whole)):
            writer.write(whole[i : i + 1])
            await writer.drain()
            await asyncio.sleep(0.2)
    else:  # an answer that nobody reads
        writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue]
        writer.write(whole)
        await asyncio.sleep(10)
    await asyncio.sleep(0.3)


@asynccontextmanager
async def unkind(port: int, silent: int = 200) -> AsyncIterator[None]:
    """Fifteen clients that send garbage, vanish, send slowly or do not read, and others that say nothing."""
    mute = [await asyncio.open_connection("127.0.0.1", port) for _ in range(silent)]

    async def again_and_again(number: int) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                await annoy(number, writer)
                writer.transport.abort()
            except OSError:
                await asyncio.sleep(0.3)

    tasks = [asyncio.create_task(again_and_again(number)) for number in range(15)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for _, writer in mute:
            writer.close()


async def bars(port: int, pid: int, model: str, options: argparse.Namespace, tokenizer: Tokenizer) -> None:
    """The bars of a server, one after another."""
    expected = await alone(port, model)
    await load(port, model, 8, 1.0, tokenizer, expected)
    loads = [await load(port, model, streams, options.seconds, tokenizer, expected) for streams in options.streams]
    for each in loads:
        print(each.line(), *each.errors[:3], flush=True)
    if len(loads) > 1:
        times = loads[-1].rate / loads[0].rate
        print(f"{loads[-1].streams} streams to {loads[0].streams}: {times:.2f} times", flush=True)
    if options.unkind:
        async with unkind(port):
            bad = await load(port, model, options.unkind, options.seconds, tokenizer, expected)
        print("beside unkind clients:", bad.line(), *bad.errors[:3], flush=True)
    if options.soak:
        await soak(port, pid, model, options, tokenizer)
    print(await drained(port, pid, model, expected))


async def soak(port: int, pid: int, model: str, options: argparse.Namespace, tokenizer: Tokenizer) -> None:
    """What the server holds while it answers many requests, beside clients that vanish; told every ten seconds."""
    short, done, begun = await alone(port, model, _SHORT), 0, time.monotonic()
    print(f"before the long run: {held(pid)}", flush=True)
    while done < options.soak:
        async with unkind(port, silent=20) if options.unkind else nullcontext():
            part = await load(port, model, 32, 10.0, tokenizer, short, new_tokens=_SHORT)
        assert not part.errors, part.errors[:3]
        done += part.requests
        await asyncio.sleep(0.5)
        print(f"{time.monotonic() - begun:4.0f} s, {done:7,} requests: {held(pid)}", flush=True)


async def drained(port: int, pid: int, model: str, expected: Mapping[int, str]) -> str:
    """SIGTERM while sixteen streams run: what becomes of them, and of a request that comes later."""
    began = [asyncio.Event() for _ in range(16)]
    asked = (ask(port, "/v1/completions", fields(number, model), event) for number, event in enumerate(began))
    running = [asyncio.create_task(one) for one in asked]
    await asyncio.gather(*(event.wait() for event in began))
    os.kill(pid, signal.SIGTERM)
    await asyncio.sleep(0.02)
    try:
        late = (await ask(port, "/v1/completions", fields(0, model)))[0][9:12].decode()
    except (OSError, asyncio.IncompleteReadError):
        late = "no connection"
    texts = [text_of((await task)[0])[0] for task in running]
    whole = sum(text == expected[number] for number, text in enumerate(texts))
    return f"SIGTERM under load: {whole} of 16 streams came whole, a request after it: {late}"


def command_line() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="demo", help="a model folder, or demo")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64], help="of one load after another")
    parser.add_argument("--unkind", type=int, default=16, help="streams beside unkind clients; 0: leave that out")
    parser.add_argument("--soak", type=int, default=0, help="requests over which what it holds is watched")
    parser.add_argument("--port", type=int, default=9411)
    return parser


def main() -> int:
    """The command line."""
    options = command_line().parse_args()
    folder = located(options.model).resolve()
    command = [sys.executable, "-m", "gpt2", "serve", options.model, "--port", str(options.port), "--slots", "64"]
    with process(command, options.port) as server:
        name = options.model if folder != Path(options.model).resolve() else folder.name
        asyncio.run(bars(options.port, server.pid, name, options, Tokenizer.load(folder)))
        print(f"its exit status: {server.wait(60)}")
    return server.returncode


if __name__ == "__main__":
    sys.exit(main())
