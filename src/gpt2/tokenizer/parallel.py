"""Encoding a stream of text on several processors, in order.

The workers are plain Python processes fed through pipes. They import the tokenizer and nothing
else: not the caller's script (which may lack an `if __name__ == "__main__"`), no torch. When the
caller dies, however suddenly, their input ends and so do they.
"""

import contextlib
import itertools
import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from gpt2.errors import GPT2Error
from gpt2.files import cores
from gpt2.tokenizer.bpe import Tokenizer
from gpt2.tokenizer.bulk import BulkEncoder

BATCH_CHARACTERS = 1 << 18
MAX_WORKERS = 6  # each holds about 60 MB; together they stay below half a gigabyte


class Encoded(NamedTuple):
    """Some texts' ids."""

    ids: bytes
    """Of all texts, one text's after the other's; little-endian, of `BulkEncoder.itemsize` bytes each."""
    counts: list[int]
    """Ids of each text."""
    num_bytes: list[int]
    """UTF-8 bytes of each text."""


def default_workers() -> int:
    """Processors this process may use, at most `MAX_WORKERS`."""
    return min(cores(), MAX_WORKERS)


def encode_stream(tokenizer: Tokenizer, texts: Iterable[str], workers: int) -> Generator[Encoded, None, None]:
    """Encode texts, a batch of some `BATCH_CHARACTERS` at a time; the ids do not depend on `workers`.

    Args:
        tokenizer: whose ids to give.
        texts: read as needed, a few megabytes ahead of the results.
        workers: processes, for all but the first million characters; 1 encodes in this one, and so does gigatoken,
            which is faster than the pipes.

    Raises:
        GPT2Error: a worker died, most likely for want of memory.
    """
    bulk, batches = tokenizer.bulk_encoder, _batches(texts)
    for batch in batches:
        yield _encode(bulk, batch)
        if bulk.has_much and workers > 1 and sys.executable and not bulk.is_fast:
            break
    else:
        return
    with contextlib.ExitStack() as stack:
        idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for _ in range(workers):
            process = _start_worker()
            stack.callback(_stop_worker, process)
            _send(process, tokenizer)
            idle.put(process)
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        # A bounded number of batches under way bounds the memory, whatever the speed of the reader.
        under_way: deque[Future[Encoded]] = deque(
            pool.submit(_ask, idle, batch) for batch in itertools.islice(batches, workers + 2)
        )
        while under_way:
            yield under_way.popleft().result()
            under_way.extend(pool.submit(_ask, idle, batch) for batch in itertools.islice(batches, 1))


def _encode(bulk: BulkEncoder, texts: list[str]) -> Encoded:
    return Encoded(
        *bulk.encode_many(texts), [len(text) if text.isascii() else len(text.encode("utf-8")) for text in texts]
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _start_worker() -> "subprocess.Popen[bytes]":
    # Ctrl-C goes to the whole foreground group; the parent alone decides when a worker ends.
    windows = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    apart = windows if os.name == "nt" else {"start_new_session": True}
    return subprocess.Popen(
        [sys.executable, "-c", "from gpt2.tokenizer.parallel import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        **apart,  # type: ignore[arg-type]
    )


def _stop_worker(process: "subprocess.Popen[bytes]") -> None:
    process.kill()  # it holds nothing that could be lost
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # of what could not be sent any more
                pipe.close()


def _send(process: "subprocess.Popen[bytes]", value: object) -> None:
    assert process.stdin is not None
    try:
        pickle.dump(value, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
    except OSError as error:
        raise _died(process) from error


def _ask(idle: "queue.SimpleQueue[subprocess.Popen[bytes]]", batch: list[str]) -> Encoded:
    process = idle.get()
    try:
        _send(process, batch)
        assert process.stdout is not None
        answer = pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError) as error:
        raise _died(process) from error
    finally:
        idle.put(process)
    if isinstance(answer, Exception):
        raise answer
    return Encoded(*answer)


def _died(process: "subprocess.Popen[bytes]") -> GPT2Error:
    try:
        status = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        status = None
    return GPT2Error(f"a tokenising process died (status {status}); too little memory? Run it again with fewer workers")


def serve() -> None:
    """A worker's life: a tokenizer comes first, then batches of texts until the input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    try:
        bulk = BulkEncoder(pickle.load(source))
        while True:
            batch = pickle.load(source)
            try:
                answer: object = tuple(_encode(bulk, batch))
            except Exception as error:
                answer = error
            pickle.dump(answer, sink, protocol=pickle.HIGHEST_PROTOCOL)
            sink.flush()
    except (EOFError, BrokenPipeError):
        os._exit(0)  # nobody listens: do not try to flush
