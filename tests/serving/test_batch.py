"""Streams computed together, several tokens at a time, beside the same streams one token at a time and alone."""

import threading
import time
from collections.abc import Sequence

import pytest
import torch

from gpt2 import native
from gpt2.generation.sampling import Sampling
from gpt2.serving.batch import Batch
from gpt2.serving.burst import Burst
from gpt2.serving.counters import Counters
from gpt2.serving.served import ServedModel
from gpt2.serving.stream import Job, Options, Stream
from tests.serving.conftest import CONTEXT

SAMPLINGS = [Sampling(), Sampling(temperature=0.0), Sampling(temperature=0.8, top_k=20), Sampling(top_p=0.9)]


def streams(count: int, vocab: int) -> list[Stream]:
    """Prompts of several lengths; some end early, some at the context's end."""
    drawn = torch.randint(vocab, (count, 30), generator=torch.Generator().manual_seed(2)).tolist()
    return [
        Stream(ids[: 1 + number % 30], Options(CONTEXT - 7 * (number % 12), SAMPLINGS[number % 4]), seed=number)
        for number, ids in enumerate(drawn)
    ]


def run(served: ServedModel, given: Sequence[Stream], threads: int) -> list[tuple[list[int], str | None]]:
    """Compute them together; the last three come later."""
    batch, job = Batch(served, len(given), threads, Counters()), Job(given, time.monotonic() + 1e6)
    for number, stream in enumerate(given):
        if number == len(given) - 3:
            batch.step()
            batch.step()
        batch.begin(job, stream)
    while not batch.empty:
        batch.step()
    return [(stream.ids, stream.finish) for stream in given]


@pytest.mark.skipif(native.library()[0] is None, reason=native.library()[1])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bursts_give_the_tokens_of_single_steps(
    served: ServedModel, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab = served.model.config.vocab_size
    bursts = run(served, streams(37, vocab), threads)
    alone = [run(served, [stream], threads)[0] for stream in streams(37, vocab)[:6]]
    assert bursts[:6] == alone
    monkeypatch.setattr(Burst, "possible", lambda slots: False)
    assert run(served, streams(37, vocab), 1) == bursts
    assert {finish for _, finish in bursts} == {"end", "length"}


@pytest.mark.skipif(native.library()[0] is None, reason=native.library()[1])
def test_whoever_leaves_during_a_burst_gets_no_more(served: ServedModel) -> None:
    """The mark is set while tokens are made; what was made by then is counted as the stream's."""
    given = [Stream([5], Options(CONTEXT, past_end=True), seed=number) for number in range(32)]
    jobs = [Job([stream], time.monotonic() + 1e6) for stream in given]
    batch = Batch(served, 32, 1, counters := Counters())
    for job, stream in zip(jobs, given, strict=True):
        batch.begin(job, stream)
    batch.step()
    going = threading.Thread(target=lambda: [batch.step() for _ in range(12)])
    going.start()
    for job in jobs[::2]:
        batch.abandon(job)
    going.join()
    for job in jobs[::2]:
        batch.leave(job)
    assert counters.overrun <= 2
    assert all(len(stream.ids) <= job.lengths[stream] + 2 for job in jobs[::2] for stream in job.streams)
    while not batch.empty:
        batch.step()
    assert [len(stream.ids) for stream in given[1::2]] == [CONTEXT] * 16
