import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gpt2.errors import GPT2Error, TokenizerError
from gpt2.tokenizer import Tokenizer, bulk, parallel


@pytest.fixture(autouse=True)
def workers_after_the_first_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigatoken needs no other processes, and a small text none either."""
    monkeypatch.setenv("GPT2_FAST", "0")
    monkeypatch.setattr(bulk, "_WORTH_PROVING", 0)
    monkeypatch.setattr(parallel, "BATCH_CHARACTERS", 1)


@pytest.fixture
def tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    return pickle.loads(pickle.dumps(tokenizer))  # without what it found out before


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_and_equal_encode(
    workers: int, tokenizer: Tokenizer, stories: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parallel, "BATCH_CHARACTERS", 3000)
    texts = [*stories[:60], "", "é中🙂"]
    results = list(parallel.encode_stream(tokenizer, texts, workers))
    assert len(results) > workers
    assert [n for result in results for n in result.num_bytes] == [len(text.encode()) for text in texts]
    expected = [tokenizer.encode(text) for text in texts]
    assert [n for result in results for n in result.counts] == list(map(len, expected))
    assert b"".join(result.ids for result in results) == np.array([i for e in expected for i in e], "<u2").tobytes()


def test_reads_only_a_bounded_stretch_ahead(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "BATCH_CHARACTERS", 100)
    taken = []
    texts = (taken.append(n) or f"text number {n:089d}" for n in range(1000))
    stream = parallel.encode_stream(tokenizer, texts, 2)
    next(stream)
    next(stream)  # by a worker
    assert len(taken) <= 7
    stream.close()


def test_errors_of_a_worker_are_raised_here(tokenizer: Tokenizer):
    with pytest.raises(TokenizerError, match="lone surrogate"):
        list(parallel.encode_stream(tokenizer, ["fine", "\udc00"], 2))


def test_a_small_text_starts_no_worker(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bulk, "_WORTH_PROVING", 20)
    started = []
    start = parallel._start_worker
    monkeypatch.setattr(parallel, "_start_worker", lambda: started.append(start()) or started[-1])
    assert len(list(parallel.encode_stream(tokenizer, ["ten letters"], 2))) == 1
    assert not started
    results = list(parallel.encode_stream(tokenizer, ["ten letters"] * 9, 2))
    assert len(started) == 2
    assert {result.ids for result in results} == {results[0].ids}


def test_errors_of_the_text_source_come_through_and_no_worker_is_left(tokenizer: Tokenizer):
    started = []
    start = parallel._start_worker

    def texts():
        yield "fine"
        raise ValueError("source")

    def recording():
        started.append(start())
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "_start_worker", recording)
        with pytest.raises(ValueError, match="source"):
            list(parallel.encode_stream(tokenizer, texts(), 2))
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_killed_worker_is_an_error_not_a_hang(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "BATCH_CHARACTERS", 10)
    start = parallel._start_worker
    started = []
    monkeypatch.setattr(parallel, "_start_worker", lambda: started.append(start()) or started[-1])
    stream = parallel.encode_stream(tokenizer, (f"some text {n}" for n in range(10_000)), 2)
    next(stream)
    next(stream)  # by a worker
    os.kill(started[0].pid, signal.SIGKILL)
    with pytest.raises(GPT2Error, match="tokenising process died"):
        list(stream)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_workers_end_when_the_parent_is_killed():
    code = """
import itertools, time
from gpt2.tokenizer import Tokenizer, bulk, parallel
bulk._WORTH_PROVING = 0
parallel.BATCH_CHARACTERS = 10
start = parallel._start_worker
def noisy():
    process = start()
    print(process.pid, flush=True)
    return process
parallel._start_worker = noisy
for result in parallel.encode_stream(Tokenizer.train(["ab"], 257), itertools.repeat("some text here"), 2):
    pass
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        time.sleep(0.3)
        parent.kill()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # a zombie nobody waits for is dead
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_script_without_main_guard_works(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from gpt2.tokenizer import Tokenizer, bulk, parallel\n"
        "print('once')\n"
        "bulk._WORTH_PROVING = 0\n"
        "parallel.BATCH_CHARACTERS = 1\n"
        "t = Tokenizer.train(['ab'], 257)\n"
        "print(len(list(parallel.encode_stream(t, ['a', 'b'], 2))))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["once", "2"]
