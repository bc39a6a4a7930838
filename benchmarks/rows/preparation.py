"""Preparing text: documents to ids in memory, and a text file to ids on disk; MB/s."""

import array
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Entry, Missing, Row, Running, agree_exactly
from gpt2.data import iter_documents
from gpt2.documents import SEPARATOR
from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.parallel import default_workers, encode_stream

_VOCABULARY = 4096
_MEGABYTES = 100  # for `file`; in memory, where slow peers would take long, a fifth


def rows(megabytes: int = _MEGABYTES) -> list[Row]:
    """In memory, and from file to disk."""
    return [in_memory(max(1, megabytes // 5)), from_file(megabytes)]


def in_memory(megabytes: int) -> Row:
    """Documents (str) to ids."""
    entries = [
        Entry("gpt2-from-scratch, gigatoken", partial(ours, megabytes, True), True),
        Entry("gpt2-from-scratch without it", partial(ours, megabytes, False), True),
        Entry("tokenizers", partial(huggingface, megabytes)),
        Entry("tiktoken", partial(tiktoken, megabytes)),
        Entry("gigatoken alone", partial(gigatoken, megabytes)),
    ]
    return Row(
        "encoding", f"Documents to ids, {megabytes} MB", "MB/s", entries,
        partial(agree_exactly, what="the number of ids and their sum"),
        settings=f"the bundled stories again and again, vocabulary {_VOCABULARY:,} learned from them",
    )  # fmt: skip


def from_file(megabytes: int) -> Row:
    """A text file to ids on disk, reading, splitting and writing included."""
    entries = [
        Entry("gpt2 data prepare, gigatoken", partial(prepare, megabytes, True), True),
        Entry("gpt2 data prepare without it", partial(prepare, megabytes, False), True),
        Entry("tokenizers, split and written by hand", partial(script, megabytes)),
    ]
    return Row(
        "preparation", f"A text file of {megabytes} MB to ids on disk", "MB/s", entries,
        partial(agree_exactly, what="the number of training ids"),
        settings="ours also surveys, hashes, holds out documents and syncs its shards to the disk; the peer writes "
        "plain 16-bit ids",
    )  # fmt: skip


def _tokenizer() -> Tokenizer:
    return Tokenizer(_definition())  # a new one: each finds out anew which way is fast


@functools.cache
def _definition() -> str:
    return Tokenizer.train(iter_documents(), _VOCABULARY).to_json()


def _documents(megabytes: int) -> list[str]:
    stories = list(iter_documents())
    size = sum(len(story) for story in stories)
    return stories * max(1, round(megabytes * 1e6 / size))


def _running(encode: Callable[[], tuple[int, int]], megabytes: float) -> Running:
    answer = encode()

    def measure() -> float:
        start = time.perf_counter()
        encode()
        return megabytes / (time.perf_counter() - start)

    return Running(answer, measure)


def _size(documents: Iterable[str]) -> float:
    return sum(len(document.encode()) for document in documents) / 1e6


def ours(megabytes: int, fast: bool) -> Running:
    """`encode_stream`, on as many processes as `gpt2 data prepare` would take."""
    documents, tokenizer = _documents(megabytes), _with_gigatoken(fast, _tokenizer)

    def encode() -> tuple[int, int]:
        count = total = 0
        with _environment(fast):
            for encoded in encode_stream(tokenizer, documents, default_workers()):
                ids = np.frombuffer(encoded.ids, "<u2")
                count, total = count + len(ids), total + int(ids.sum(dtype=np.int64))
        return count, total

    return _running(encode, _size(documents))


def huggingface(megabytes: int) -> Running:
    """`encode_batch_fast`, a thousand documents at a time, on all processors."""
    documents, library = _documents(megabytes), _library()

    def encode() -> tuple[int, int]:
        count = total = 0
        for start in range(0, len(documents), 1000):
            for encoded in library.encode_batch_fast(documents[start : start + 1000], add_special_tokens=False):
                count, total = count + len(encoded.ids), total + sum(encoded.ids)
        return count, total

    return _running(encode, _size(documents))


def tiktoken(megabytes: int) -> Running:
    """`encode_ordinary_batch` with the same merges."""
    try:
        import tiktoken as library
    except ImportError as error:
        raise Missing("pip install tiktoken") from error
    documents, tokenizer = _documents(megabytes), _tokenizer()
    ranks = {tokenizer.token_bytes(i): i for i in range(len(tokenizer)) if not tokenizer.is_special(i)}
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    # tiktoken wants ranks from 0 in the order of merging: ours are the ids less <|endoftext|>, which is 0.
    order = library.Encoding(
        "ours", pat_str=pattern, mergeable_ranks={t: i - 1 for t, i in ranks.items()}, special_tokens={}
    )

    def encode() -> tuple[int, int]:
        count = total = 0
        for ids in order.encode_ordinary_batch(documents, num_threads=os.cpu_count() or 1):
            count, total = count + len(ids), total + sum(ids) + len(ids)
        return count, total

    return _running(encode, _size(documents))


def gigatoken(megabytes: int) -> Running:
    """Its own `encode_batch`, all documents in one call."""
    try:
        from gigatoken import Tokenizer as Library
    except ImportError as error:
        raise Missing("pip install gigatoken") from error
    documents, library = _documents(megabytes), Library.from_json(_tokenizer().to_json())

    def encode() -> tuple[int, int]:
        ids = np.asarray(library.encode_batch(documents).layout.content.data)
        return len(ids), int(ids.sum(dtype=np.int64))

    return _running(encode, _size(documents))


def prepare(megabytes: int, fast: bool) -> Running:
    """`gpt2.data.prepare`, from nothing in the cache."""
    from gpt2.data import prepare as prepare_text

    folder = tempfile.TemporaryDirectory()
    path = _file(Path(folder.name), megabytes)
    tokenizer = _with_gigatoken(fast, _tokenizer)

    def encode() -> tuple[int, int]:
        with _environment(fast), tempfile.TemporaryDirectory(dir=folder.name) as cache:
            prepared = prepare_text([path], tokenizer, cache=cache, progress=False)
            return prepared.train.num_tokens + prepared.valid.num_tokens, 0

    running = _running(encode, path.stat().st_size / 1e6)
    return Running(running.answer, running.measure, folder.cleanup)


def script(megabytes: int) -> Running:
    """What people write around `tokenizers`: read, split, encode in batches with an end mark, write 16-bit ids."""
    folder = tempfile.TemporaryDirectory()
    path = _file(Path(folder.name), megabytes)
    library = _library()
    end = library.token_to_id(SEPARATOR)

    def encode() -> tuple[int, int]:
        documents = [d.strip("\n") for d in path.read_text(encoding="utf-8").split(SEPARATOR)]
        documents = [document for document in documents if document]
        count = 0
        with (path.parent / "ids.bin").open("wb") as file:
            for start in range(0, len(documents), 1000):
                for encoded in library.encode_batch_fast(documents[start : start + 1000], add_special_tokens=False):
                    file.write(array.array("H", [end, *encoded.ids]).tobytes())
                    count += len(encoded.ids) + 1
        return count, 0

    running = _running(encode, path.stat().st_size / 1e6)
    return Running(running.answer, running.measure, folder.cleanup)


def _file(folder: Path, megabytes: int) -> Path:
    path = folder / "text.txt"
    path.write_text(f"\n{SEPARATOR}\n".join(_documents(megabytes)), encoding="utf-8")
    return path


def _library() -> Any:
    import tokenizers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    library = tokenizers.Tokenizer.from_str(_tokenizer().to_json())
    library.encode_special_tokens = True
    return library


class _environment:
    """With gigatoken, or without."""

    def __init__(self, fast: bool) -> None:
        self.value = "1" if fast else "0"

    def __enter__(self) -> None:
        os.environ["GPT2_FAST"] = self.value

    def __exit__(self, *_: object) -> None:
        del os.environ["GPT2_FAST"]


def _with_gigatoken(fast: bool, make: Callable[[], Tokenizer]) -> Tokenizer:
    """A tokenizer that has already found out whether there is gigatoken."""
    with _environment(fast):
        tokenizer = make()
        if fast and not tokenizer.bulk_encoder.is_fast:
            raise Missing("pip install gigatoken")
        return tokenizer
