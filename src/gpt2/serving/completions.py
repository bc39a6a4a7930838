"""POST /v1/completions, field for field as OpenAI's clients know it."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from gpt2.serving.answering import Asker, Choice, new_id, require_healthy, usage
from gpt2.serving.api_errors import ApiError, parsed
from gpt2.serving.events import DONE, EventStream, event_of
from gpt2.serving.requests import CompletionRequest, prompts_of
from gpt2.serving.stream import Score
from gpt2.serving.text import Shown, TokenNames


def router(asker: Asker) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["OpenAI"])
    schema = {"required": True, "content": {"application/json": {"schema": CompletionRequest.model_json_schema()}}}

    @routes.post("/v1/completions", openapi_extra={"requestBody": schema})
    async def completions(request: Request) -> Response:
        """Continue a text, or several."""
        asked = parsed(CompletionRequest, await request.body())
        return await _Completion(asker, request, asked).response()

    return routes


class _Completion:
    """One request and its answer."""

    def __init__(self, asker: Asker, request: Request, asked: CompletionRequest) -> None:
        self.asker, self.request, self.asked = asker, request, asked
        self.n, self.stops = asked.n or 1, asked.stops()
        self.prompts: list[list[int]] = []
        self.head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": asker.served.name,
            "system_fingerprint": asker.served.fingerprint,
        }

    async def response(self) -> Response:
        asked, asker = self.asked, self.asker
        asker.require_model(asked.model)
        if asked.best_of is not None and asked.best_of != self.n:
            raise ApiError(400, "best_of: only as many as n are computed", param="best_of")
        if asked.suffix:
            raise ApiError(400, "suffix: this model writes forwards only", param="suffix")
        given = prompts_of(asked.prompt)
        if len(given) * self.n > asker.settings.max_choices:
            message = f"prompt: {len(given)} prompts, {self.n} of each; at most {asker.settings.max_choices} in all"
            raise ApiError(400, message, param="prompt")
        self.prompts = [await asker.encode(prompt) for prompt in given]
        if asked.stream:
            return EventStream(self._events())
        async with self._running() as (job, choices):
            await asker.finished(job, choices)
        answers = [self._choice(choice, choice.whole, choice.shown, with_prompt=True) for choice in choices]
        return _json({**self.head, "choices": answers, "usage": usage(self.prompts, choices)})

    def _running(self) -> Any:
        asked = self.asked
        most = 16 if asked.max_tokens is None else asked.max_tokens
        scored = bool(asked.echo) and asked.logprobs is not None
        vocab = self.asker.served.model.config.vocab_size
        options = asked.options(vocab, max(1, most), asked.logprobs, scored)
        return self.asker.running(
            self.request, self.prompts, self.n, options, asked.seed, self.stops, silent=most == 0
        )  # fmt: skip

    async def _events(self) -> AsyncGenerator[bytes, None]:
        options = self.asked.stream_options
        counts = bool(options and options.include_usage)
        begin = json.dumps({**self.head, **({"usage": None} if counts else {})})[:-1].encode()
        begin = b"data: " + begin + b', "choices": [{"index": '
        begun: set[int] = set()
        async with self._running() as (job, choices):
            async for new in self.asker.pieces(job, choices):
                parts = []
                for choice, text, shown in new:
                    if choice.failed and not text:
                        continue
                    first = choice.index not in begun
                    begun.add(choice.index)
                    if (first and self.asked.echo) or shown or choice.closed:
                        one = self._choice(choice, text, shown, with_prompt=first)
                        one["finish_reason"] = one["finish_reason"] if choice.closed and not choice.failed else None
                        parts.append(begin[: -len(b'{"index": ')] + json.dumps(one).encode() + b"]}\n\n")
                    else:  # the common case, many thousands a second
                        parts.append(
                            b'%b%d, "text": %b, "logprobs": null, "finish_reason": null}]}\n\n'
                            % (begin, choice.index, json.dumps(text).encode())
                        )
                if parts:
                    yield b"".join(parts)
                for choice, _, _ in new:
                    require_healthy(choice)
            if counts:
                yield event_of({**self.head, "choices": [], "usage": usage(self.prompts, choices)})
            yield DONE

    def _choice(self, choice: Choice, text: str, shown: Sequence[Shown], with_prompt: bool) -> dict[str, Any]:
        """A choice as JSON; with the prompt before it, if that was asked for."""
        block, before = None, ""
        if self.asked.echo:
            before = self.asker.tokenizer.decode(choice.stream.prompt)
        if self.asked.logprobs is not None:
            entries = [(s.id, s.score, s.offset + len(before)) for s in shown]
            if self.asked.echo and with_prompt:
                entries = [*self._of_prompt(choice), *entries]
            block = logprobs_block(self.asker.names, entries)
        text = before + text if with_prompt else text
        return {"index": choice.index, "text": text, "logprobs": block, "finish_reason": choice.finish_reason}

    def _of_prompt(self, choice: Choice) -> list[tuple[int, Score | None, int]]:
        decoder, offset, entries = self.asker.tokenizer.stream_decoder(), 0, []
        scores = [None, *choice.stream.prompt_scores]
        for token, score in zip(choice.stream.prompt, scores, strict=True):
            entries.append((token, score, offset))
            offset += len(decoder.push(token))
        return entries


def logprobs_block(names: TokenNames, entries: Sequence[tuple[int, Score | None, int]]) -> dict[str, Any]:
    """The field `logprobs` of (id, score, offset); the first token of a prompt has no score."""
    return {
        "tokens": [names[token] for token, _, _ in entries],
        "token_logprobs": [score and score.logprob for _, score, _ in entries],
        "top_logprobs": [score and {names[token]: value for token, value in score.top} for _, score, _ in entries],
        "text_offset": [offset for _, _, offset in entries],
    }


def _json(content: object) -> Response:
    return Response(json.dumps(content), media_type="application/json")
