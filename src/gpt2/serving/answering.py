"""From a request to the jobs of the engine, and from their streams to texts: what completions and chat share."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from gpt2.serving.api_errors import ApiError
from gpt2.serving.engine import BusyError, Engine, StoppingError
from gpt2.serving.stream import Job, Options, Stream
from gpt2.serving.text import ChoiceText, Shown, TokenNames

_LONG = 4096  # characters that are tokenised in a thread, lest the others wait

FINISH = {"end": "stop", "stop": "stop", "length": "length", "time": "length"}
"""OpenAI's word for the engine's."""


@dataclass
class Choice:
    """One continuation on its way to a client."""

    index: int
    stream: Stream
    text: ChoiceText
    silent: bool = False
    """No new token was asked for; the engine made one all the same."""
    read: int = 0
    """Ids taken from the stream."""
    closed: bool = False
    whole: str = ""
    """All text so far."""
    shown: list[Shown] = field(default_factory=list)

    def take(self) -> tuple[str, list[Shown]]:
        """What is new since the last call; sets `closed` after the last piece."""
        finish = self.stream.finish  # before the ids: none can come after it
        ids = self.stream.ids[self.read :]
        scores = self.stream.scores[self.read : self.read + len(ids)]
        self.read += len(ids)
        text, shown = self.text.push(ids, scores) if ids and not self.silent else ("", [])
        if self.text.stopped or finish is not None:
            self.closed = True
            rest, more = self.text.close()
            text, shown = text + rest, shown + more
        self.whole += text
        self.shown += shown
        return text, shown

    @property
    def failed(self) -> bool:
        """Whether the engine could not go on, or never began."""
        finish = self.stream.finish
        return finish == "error" or (finish == "time" and not self.stream.ids)

    @property
    def finish_reason(self) -> str:
        """Why it ended, in OpenAI's words."""
        finish = "length" if self.silent else self.stream.finish or ""
        return "stop" if self.text.stopped else FINISH.get(finish, "length")


class Asker:
    """Runs requests on the engine.

    Args:
        engine: of the server.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.served, self.settings = engine, engine.served, engine.settings
        self.tokenizer = self.served.tokenizer
        self.names = TokenNames(self.tokenizer, self.served.model.config.vocab_size)
        longest = max(len(self.tokenizer.token_bytes(i)) for i in range(self.tokenizer.vocab_size))
        self._most_characters = 4 * self.served.context_length * longest

    def require_model(self, name: str | None) -> None:
        """Refuse a request for another model.

        Raises:
            ApiError: 404.
        """
        if name is not None and name != self.served.name:
            message = f"there is no model {name[:200]!r} here, only {self.served.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    async def encode(self, prompt: str | list[int]) -> list[int]:
        """Ids of a prompt: of text as a document begins, with the end-of-text token first; ids as they are.

        Raises:
            ApiError: 400: an id that does not exist, or too long for the context.
        """
        context, vocab = self.served.context_length, self.served.model.config.vocab_size
        eos = self.tokenizer.eos_token_id
        if isinstance(prompt, str):
            if len(prompt) > self._most_characters:
                raise self._too_long(f"{len(prompt):,} characters")
            ids = [eos, *await self.tokenized(prompt)]
        else:
            ids = list(prompt) or [eos]
            bad = next((i for i in ids if not 0 <= i < vocab), None)
            if bad is not None:
                raise ApiError(
                    400, f"prompt: there is no token id {bad}; they go from 0 to {vocab - 1}", param="prompt"
                )
        if len(ids) > context:
            raise self._too_long(f"{len(ids):,} tokens")
        return ids

    async def tokenized(self, text: str) -> list[int]:
        """Ids of a text, nothing before it.

        Raises:
            ApiError: 400: it is longer than any prompt may be.
        """
        if len(text) > _LONG:
            return await asyncio.to_thread(self.tokenizer.encode, text)
        return self.tokenizer.encode(text)

    def _too_long(self, what: str) -> ApiError:
        message = f"the prompt has {what}, the model's context holds {self.served.context_length:,} tokens; shorten it"
        return ApiError(400, message, param="prompt", code="context_length_exceeded")

    @asynccontextmanager
    async def running(
        self,
        request: Request,
        prompts: Sequence[list[int]],
        n: int,
        options: Options,
        seed: int | None,
        stops: list[str],
        silent: bool = False,
    ) -> AsyncIterator[tuple[Job, list[Choice]]]:
        """The job of a request, given up when the block or the client leaves.

        Args:
            request: whose connection is watched.
            prompts: ids of each.
            n: continuations of each.
            options: of all of them.
            seed: of the first; the others count on. None: another each time.
            stops: strings that end a text.
            silent: show no new token.

        Raises:
            ApiError: 429 or 503.
        """
        base = random.getrandbits(62) if seed is None else seed
        streams = [Stream(ids, options, base + k) for ids in prompts for k in range(n)]
        job = Job(streams, time.monotonic() + self.settings.time_limit)
        try:
            self.engine.submit(job)
        except BusyError as error:
            raise ApiError(429, str(error), code="queue_full", headers={"Retry-After": "1"}) from None
        except StoppingError as error:
            raise ApiError(503, str(error), code="stopping", headers={"Retry-After": "5"}) from None
        watch = asyncio.create_task(self._until_gone(request, job))
        try:
            yield job, [Choice(i, s, ChoiceText(self.names, stops), silent) for i, s in enumerate(streams)]
        finally:
            watch.cancel()
            self.engine.cancel(job)
            self.engine.counters.request.observe(time.monotonic() - job.begun)

    async def pieces(self, job: Job, choices: Sequence[Choice]) -> AsyncIterator[list[tuple[Choice, str, list[Shown]]]]:
        """What is new of the choices, whenever there is something, until all are closed or the client has gone."""
        opened = list(choices)
        while opened and not job.gone:
            new = []
            for choice in opened:
                text, shown = choice.take()
                if choice.text.stopped:
                    self.engine.finish(choice.stream)
                if text or shown or choice.closed:
                    new.append((choice, text, shown))
            opened = [choice for choice in opened if not choice.closed]
            if new:
                yield new
            else:
                await job.news()

    async def finished(self, job: Job, choices: Sequence[Choice]) -> None:
        """Wait for the end of all choices.

        Raises:
            ApiError: one of them failed.
        """
        async for _ in self.pieces(job, choices):
            pass
        for choice in choices:
            require_healthy(choice)

    async def _until_gone(self, request: Request, job: Job) -> None:
        """When the client closes the connection, its job ends."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.gone = True
        self.engine.cancel(job)
        job.wake()


def require_healthy(choice: Choice) -> None:
    """Refuse to go on with a continuation that failed.

    Raises:
        ApiError: 500 or 503.
    """
    if choice.stream.finish == "error":
        raise ApiError(500, choice.stream.error or "the engine failed", code="engine_error")
    if choice.stream.finish == "time" and not choice.stream.ids:
        raise ApiError(503, "no slot became free in time", code="timeout", headers={"Retry-After": "5"})


def new_id(kind: str) -> str:
    """A response's id."""
    return f"{kind}-{secrets.token_hex(12)}"


def usage(prompts: Sequence[list[int]], choices: Sequence[Choice]) -> dict[str, Any]:
    """Counts of tokens."""
    given, new = sum(map(len, prompts)), sum(choice.text.num_tokens for choice in choices)
    return {"prompt_tokens": given, "completion_tokens": new, "total_tokens": given + new}
