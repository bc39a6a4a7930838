"""The streams that have a slot: their beginning, their steps, their end. All of it in the engine's thread."""

import threading
import time

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gpt2.model.slots import Slots
from gpt2.serving.burst import Burst
from gpt2.serving.choosing import Chooser, log_probabilities, score
from gpt2.serving.counters import Counters
from gpt2.serving.plan import Plan
from gpt2.serving.prefixes import Prefixes
from gpt2.serving.served import ServedModel
from gpt2.serving.stream import Job, Stream

_PACE = 0.001
"""Seconds between two pieces of a stream for each other one: sending a piece takes about a tenth of that."""
_FAULT = "the model gave no finite number; its weights may be damaged"


class Batch:
    """Streams that are computed together, one slot of the cache each.

    Args:
        served: the model.
        count: slots.
        threads: of the processor, to deal streams to.
        counters: what is counted.

    Attributes:
        free: slots without a stream.
        present: jobs with a stream in a slot.
    """

    def __init__(self, served: ServedModel, count: int, threads: int, counters: Counters) -> None:
        config = served.model.config
        self.slots, self._counters = Slots(served.model, count), counters
        self._chooser, self._prefixes = Chooser(count, config.vocab_size), Prefixes(count, config.context_length)
        self._plan = Plan(count, self.slots.stretch, whole=not self.slots.exact_in_parts)
        self._burst: Burst | None = None
        if Burst.possible(self.slots):
            self._burst = Burst(self.slots, self._plan, self._chooser, threads)
        self._lock = threading.Lock()  # whose slot it is, and how many tokens it has
        self._context, self._eos = config.context_length, served.tokenizer.eos_token_id
        self._streams: list[Stream | None] = [None] * count
        self._jobs: dict[int, Job] = {}
        self.free = set(range(count))
        self.present: list[Job] = []
        self._deadline = float("inf")
        self._changed = False
        self._fresh: dict[Job, None] = {}  # jobs with tokens that their clients have not been told of
        self._eager: dict[Job, None] = {}  # those of them with a first or last one
        self._round = 0.0  # when all are told next

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compute."""
        return self._plan.empty

    def begin(self, job: Job, stream: Stream) -> None:
        """Give the stream a free slot; what an earlier prompt has in common with its own is not computed again."""
        prompt, options = stream.prompt, stream.options
        source, kept = -1, 0
        if self.slots.exact_in_parts and not options.score_prompt:
            source, kept = self._prefixes.find(prompt)
        slot = source if source in self.free else self._prefixes.oldest(self.free)
        if kept and source != slot:
            self.slots.copy(source, slot, kept)
            self._prefixes.copy(source, slot, kept)
        self.free.discard(slot)
        self._prefixes.begin(slot, kept)
        with self._lock:
            self._streams[slot], self._jobs[slot] = stream, job
            if self._burst is not None:
                self._burst.leaving[slot] = stream in job.lengths  # its client may have left while it waited
                self._burst.broken[slot] = 0
        self._chooser.assign(slot, stream)
        # The last token of all need not be stored, so one more than there is room for.
        most = min(options.max_tokens, self._context - len(prompt) + 1)
        self._plan.add(slot, prompt, kept, most, -1 if options.past_end else self._eos, options.score_prompt)
        self._counters.reused_tokens += kept
        self._counters.prompt_tokens += len(prompt) - kept
        self._changed = True

    def step(self) -> None:
        """A stretch of prompts, and a token for each stream whose prompt is done, or several."""
        burst = self._burst if self._chooser.plain else None
        if burst is None:
            self._one_step(self._plan.writing)
        else:
            if self._plan.reading:
                self._one_step(self._plan.writing[:0])
            if len(self._plan.writing):
                self._several(burst, self._plan.writing)
        now = time.monotonic()
        if now >= self._deadline:
            for slot in [slot for slot, job in self._jobs.items() if job.deadline <= now]:
                self._end(slot, "time")

    def _several(self, burst: Burst, writing: NDArray[np.int64]) -> None:
        places = self._plan.places.copy()
        slots = burst(writing)
        places = places[slots]
        tokens, counts = burst.tokens[slots], burst.made[slots]
        number = np.arange(tokens.shape[1])
        computed = number < counts[:, None]  # each token but the last was the next one's input
        inputs, columns = np.column_stack([places["newest"], tokens[:, :-1]]), places["column"][:, None] + number
        self._prefixes.store(inputs[computed], np.repeat(slots, counts), columns[computed])
        self._counters.steps += int(counts.max())
        self._give(slots, tokens, counts, burst.broken[slots] == 0)

    def _one_step(self, writing: NDArray[np.int64]) -> None:
        step = self._plan.next_step(writing)
        logits = self.slots.step(step.ids, step.slots, step.columns, step.answers)
        self._prefixes.store(step.ids, step.slots, step.columns)
        self._counters.steps += 1
        for row in step.scored:
            self._score_prompt(int(step.slots[row]), int(step.columns[row]), logits[row])
        if not len(step.asked):
            return
        raw = logits[: len(step.asked)].cpu()
        healthy = np.isfinite(raw.amax(dim=-1).numpy())
        tokens = self._chooser.choose(raw, step.asked)
        self._plan.advance(step.asked, tokens)
        for slot in step.begun:
            job = self._jobs[slot]
            if job.first_token is None:
                job.first_token = time.monotonic()
                self._eager[job] = self._fresh[job] = None
                self._counters.first_token.observe(job.first_token - job.begun)
        self._give(step.asked, tokens[:, None], np.ones(len(tokens), dtype=np.int64), healthy)

    def news(self) -> list[Job]:
        """Jobs whose clients are to be told now of what is new: of first and last tokens at once, of others at a pace
        at which a single stream's leave one by one, and many streams' several in a piece.
        """
        now, told = time.monotonic(), self._eager
        if now >= self._round:
            told = self._fresh
            self._round = now + _PACE * (len(self._jobs) - 1)
        self._eager = {}
        self._fresh = {job: None for job in self._fresh if job not in told}
        return list(told)

    def settle(self) -> None:
        """After streams came or went: who is there."""
        if self._changed:
            self._changed = False
            self.present = list(dict.fromkeys(self._jobs.values()))
            self._deadline = min((job.deadline for job in self.present), default=float("inf"))

    def abandon(self, job: Job) -> None:
        """The job's client has left: count what its streams have, and give them nothing more. From any thread."""
        with self._lock:
            job.lengths = {stream: len(stream.ids) for stream in job.streams}
            for slot, stream in enumerate(self._streams):
                if self._burst is not None and stream is not None and stream in job.lengths:
                    self._burst.leaving[slot] = 1
                    job.lengths[stream] += int(self._burst.made[slot])

    def leave(self, job: Job) -> None:
        """End a job's streams; its client has left."""
        for slot, stream in enumerate(self._streams):
            if stream is not None and stream in job.lengths:
                self._counters.overrun = max(self._counters.overrun, len(stream.ids) - job.lengths[stream])
                self._end(slot, "cancelled")

    def finish(self, stream: Stream) -> None:
        """End a stream whose text came to a stop string."""
        if stream in self._streams:
            self._end(self._streams.index(stream), "stop")

    def end_all(self, error: str) -> None:
        """End all streams, for this reason."""
        for slot in list(self._jobs):
            self._end(slot, "error", error)

    def _score_prompt(self, slot: int, column: int, logits: Tensor) -> None:
        stream = self._streams[slot]
        if stream is not None:
            exact = log_probabilities(logits.cpu())
            stream.prompt_scores.append(score(exact, stream.prompt[column + 1], stream.options.logprobs or 0))

    def _give(
        self,
        slots: NDArray[np.int64],
        tokens: NDArray[np.int64],
        counts: NDArray[np.int64],
        healthy: NDArray[np.bool_],
    ) -> None:
        """New tokens, the first `counts` of each row, to their streams; those that end leave their slots."""
        with self._lock:
            for slot, new, count in zip(slots.tolist(), tokens.tolist(), counts.tolist(), strict=True):
                stream = self._streams[slot]
                if stream is not None and count:
                    stream.ids += new[:count]
                    self._fresh[self._jobs[slot]] = None
            if self._burst is not None:
                self._burst.made[slots] = 0
        self._counters.new_tokens += int(counts.sum())
        done, ended = self._plan.over(slots)
        for index in np.flatnonzero(done | ~healthy).tolist():
            if healthy[index]:
                self._end(int(slots[index]), "end" if ended[index] else "length")
            else:
                self._end(int(slots[index]), "error", _FAULT)

    def _end(self, slot: int, finish: str, error: str = "") -> None:
        stream = self._streams[slot]
        if stream is not None:
            job = self._jobs.pop(slot)
            stream.error, stream.finish = error, finish
            with self._lock:
                self._streams[slot] = None
            self._chooser.release(slot)
            self._eager[job] = self._fresh[job] = None
            self._plan.remove(slot)
            self.free.add(slot)
            self._counters.finished[finish] += 1
            self._changed = True
