"""Serving: tokens per second of all streams together, of servers that speak OpenAI's completions."""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.load import ask, load, process, text_of
from benchmarks.measure import Entry, Missing, Row, Running, agree_exactly
from gpt2 import Tokenizer
from gpt2 import load as load_model
from gpt2.checkpoint.demo import located

_SECONDS, _STREAMS, _GREEDY = 3.0, 16, 24
_START = "<|endoftext|>"  # before a text, as documents begin in training: our server puts it there itself
_PORTS = iter(range(9421, 9521))


def rows() -> list[Row]:
    """Sixteen streams of the model that comes with the package."""
    entries = [
        Entry("gpt2 serve", ours, True),
        Entry("transformers serve", partial(transformers, [])),
        Entry("transformers serve, continuous batching", partial(transformers, ["--continuous-batching"])),
        *(Entry(f"llama.cpp's server, {kind}", partial(llama_cpp, kind)) for kind in ("f32", "f16")),
    ]
    return [
        Row(
            "serving-4x128", f"Serving {_STREAMS} streams, 4x128", "tokens/s", entries,
            lambda answers: agree_exactly(answers, f"the greedy text of {_GREEDY} tokens"),
            settings=f"the model demo, {_STREAMS} clients at once for {_SECONDS:.0f} s a round, each asking again when "
            "it is answered; up to 200 tokens, temperature 0.8, streamed; tokens of all clients, who share the machine "
            "with the server",
        )
    ]  # fmt: skip


def ours() -> Running:
    """`gpt2 serve` with its defaults."""
    port = next(_PORTS)
    return served([sys.executable, "-m", "gpt2", "serve", "demo", "--port", str(port)], port, "demo")


def transformers(options: list[str]) -> Running:
    """`transformers serve`."""
    port, command = next(_PORTS), Path(sys.executable).with_name("transformers")
    if not command.exists():
        raise Missing("pip install 'transformers[serving]'")
    folder = str(located("demo").resolve())
    arguments = [str(command), "serve", folder, "--port", str(port), "--device", "cpu", *options]
    return served(arguments, port, folder, _START, {"HF_HUB_OFFLINE": "1"})


def llama_cpp(kind: str) -> Running:
    """llama.cpp's server."""
    python = os.environ.get("LLAMA_SERVER_PYTHON")
    if python is None:
        raise Missing("pip install xllamacpp into an environment, whose Python LLAMA_SERVER_PYTHON names")
    from gpt2.interop.gguf import write_gguf

    port, script = next(_PORTS), Path(__file__).parents[1] / "peers" / "llama_server.py"
    model, tokenizer = load_model("demo")
    with contextlib.ExitStack() as kept:
        path = Path(kept.enter_context(tempfile.TemporaryDirectory())) / "demo.gguf"
        write_gguf(model, tokenizer, path, kind, "demo")
        numbers = [port, _STREAMS, model.config.context_length, os.cpu_count() or 1]
        command = [python, str(script), str(path), *map(str, numbers)]
        return served(command, port, "demo", _START, kept=kept.pop_all())


def served(
    command: list[str],
    port: int,
    model: str,
    before: str = "",
    environment: Mapping[str, str] | None = None,
    kept: contextlib.ExitStack | None = None,
) -> Running:
    """A server's process, warmed up.

    Args:
        command: starts it.
        port: where it listens then.
        model: its name there.
        before: what it wants before a text, so that the text begins as documents do.
        environment: beside this process's own.
        kept: closed with it.
    """
    stack = kept or contextlib.ExitStack()
    stack.enter_context(process(command, port, environment))
    tokenizer = Tokenizer.load(located("demo"))

    def measure(seconds: float = _SECONDS) -> float:
        done = asyncio.run(load(port, model, _STREAMS, seconds, tokenizer, before=before))
        if done.errors:
            raise RuntimeError(f"{command[0]}: {done.errors[0]}")
        return done.rate

    asked = {"model": model, "prompt": before + "Once upon a time", "max_tokens": _GREEDY, "temperature": 0}
    for _ in range(200):  # llama.cpp's listens before its model is loaded
        text, error = text_of(asyncio.run(ask(port, "/v1/completions", {**asked, "stream": True}))[0])
        if "503" not in error[:15]:
            break
        time.sleep(0.1)
    if error:
        raise RuntimeError(f"{command[0]}: {error}")
    measure(2.0)
    return Running(text.strip(), measure, stack.close)
