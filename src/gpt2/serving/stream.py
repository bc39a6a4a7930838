"""What the engine is asked for: a job of one or several streams, and what has come of them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gpt2.generation.sampling import Sampling


class Score(NamedTuple):
    """How likely a token was, before temperature and everything else that bends the odds."""

    logprob: float
    """ln p of the token that was taken."""
    top: list[tuple[int, float]]
    """The likeliest ids with theirs, best first; the taken one is among them or stands last."""


@dataclass(frozen=True)
class Options:
    """How a stream is continued."""

    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    frequency_penalty: float = 0.0
    """Taken from a logit for each time the token was generated."""
    presence_penalty: float = 0.0
    """Taken once if it was generated at all."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to logits, by id."""
    logprobs: int | None = None
    """Score every new token, with so many of the likeliest."""
    score_prompt: bool = False
    """Score the prompt's tokens as well."""
    past_end: bool = False
    """Go on after the end-of-text token."""

    @property
    def bends(self) -> bool:
        """Whether logits are changed one stream at a time."""
        penalties = self.frequency_penalty or self.presence_penalty or self.sampling.repetition_penalty != 1.0
        return bool(penalties or self.logit_bias)


@dataclass(eq=False)
class Stream:
    """One continuation. The engine's thread appends to it, the job's owner reads."""

    prompt: list[int]
    """1 to `context_length` ids."""
    options: Options
    seed: int
    ids: list[int] = field(default_factory=list)
    """New ids, the one that ends the text included."""
    scores: list[Score] = field(default_factory=list)
    """One per new id, if they were asked for; appended before the id is."""
    prompt_scores: list[Score] = field(default_factory=list)
    """One per id of the prompt after its first."""
    finish: str | None = None
    """Set once, after the last id: "end", "stop", "length", "time", "cancelled" or "error"."""
    error: str = ""


@dataclass(eq=False)
class Job:
    """The streams of one request.

    Attributes:
        deadline: by `time.monotonic()`; what is unfinished then ends with what it has.
        first_token: by the same clock, when the first new id came.
    """

    streams: Sequence[Stream]
    deadline: float
    begun: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    started: int = 0
    """Streams that have had a slot."""
    lengths: dict[Stream, int] = field(default_factory=dict)
    """New ids of each stream when the client's leaving was known."""
    gone: bool = False
    """The client has closed the connection."""
    waiter: asyncio.Future[None] | None = None

    async def news(self) -> None:
        """Wait until a stream grows or ends. Look first whether one has: what came before is not told again."""
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter

    def wake(self) -> None:
        """Let `news` return; of the event loop."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
