"""POST /v1/chat/completions for programs that speak nothing else. A model of stories knows no roles."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from gpt2.serving.answering import Asker, Choice, new_id, require_healthy, usage
from gpt2.serving.api_errors import ApiError, parsed
from gpt2.serving.events import DONE, EventStream, event_of
from gpt2.serving.requests import ChatRequest, Message
from gpt2.serving.text import Shown

TEMPLATE = "plain-text"
NOTE = (
    "This is a base model: it continues text and knows no roles. The contents of all messages, parted by blank "
    "lines, are the text that it continues."
)


def router(asker: Asker) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["OpenAI"])
    schema = {"required": True, "content": {"application/json": {"schema": ChatRequest.model_json_schema()}}}

    @routes.post("/v1/chat/completions", openapi_extra={"requestBody": schema}, description=NOTE)
    async def chat(request: Request) -> Response:
        asked = parsed(ChatRequest, await request.body())
        return await _Chat(asker, request, asked).response()

    return routes


def story(messages: Sequence[Message]) -> str:
    """The text that a chat becomes: contents alone, parted by blank lines.

    Raises:
        ApiError: 400: something that is not text.
    """
    return "\n\n".join(text for text in (_text(message) for message in messages) if text)


def _text(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    parts = []
    for part in message.content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(400, "messages: the model reads text alone", param="messages")
        parts.append(part["text"])
    return "".join(parts)


class _Chat:
    """One request and its answer."""

    def __init__(self, asker: Asker, request: Request, asked: ChatRequest) -> None:
        self.asker, self.request, self.asked = asker, request, asked
        self.stops = asked.stops()
        self.prompt: list[int] = []
        self.head = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion.chunk" if asked.stream else "chat.completion",
            "created": int(time.time()),
            "model": asker.served.name,
            "system_fingerprint": asker.served.fingerprint,
            "chat_template": TEMPLATE,
        }

    async def response(self) -> Response:
        asked, asker = self.asked, self.asker
        asker.require_model(asked.model)
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs to be true", param="top_logprobs")
        if (asked.n or 1) > asker.settings.max_choices:
            raise ApiError(400, f"n: at most {asker.settings.max_choices}", param="n")
        self.prompt = await asker.encode(story(asked.messages))
        note = {"X-Chat-Template": f"{TEMPLATE}; a base model that knows no roles"}
        if asked.stream:
            return EventStream(self._events(), note)
        async with self._running() as (job, choices):
            await asker.finished(job, choices)
        answers = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.whole, "refusal": None},
                "logprobs": self._logprobs(choice.shown),
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ]
        content = {**self.head, "choices": answers, "usage": usage([self.prompt], choices)}
        return Response(json.dumps(content), headers=note, media_type="application/json")

    def _running(self) -> Any:
        asked = self.asked
        most = asked.max_completion_tokens or asked.max_tokens or self.asker.served.context_length
        scored = (asked.top_logprobs or 0) if asked.logprobs else None
        options = asked.options(self.asker.served.model.config.vocab_size, most, scored)
        return self.asker.running(self.request, [self.prompt], asked.n or 1, options, asked.seed, self.stops)

    async def _events(self) -> AsyncGenerator[bytes, None]:
        options = self.asked.stream_options
        counts = bool(options and options.include_usage)
        head = {**self.head, "usage": None} if counts else self.head
        begun: set[int] = set()
        async with self._running() as (job, choices):
            async for new in self.asker.pieces(job, choices):
                parts = []
                for choice, text, shown in new:
                    if choice.failed and not text:
                        continue
                    delta = {"content": text} if choice.index in begun else {"role": "assistant", "content": text}
                    begun.add(choice.index)
                    parts.append(event_of({**head, "choices": [self._delta(choice, delta, shown)]}))
                if parts:
                    yield b"".join(parts)
                for choice, _, _ in new:
                    require_healthy(choice)
            if counts:
                yield event_of({**self.head, "choices": [], "usage": usage([self.prompt], choices)})
            yield DONE

    def _delta(self, choice: Choice, delta: dict[str, str], shown: Sequence[Shown]) -> dict[str, Any]:
        finish = choice.finish_reason if choice.closed and not choice.failed else None
        return {"index": choice.index, "delta": delta, "logprobs": self._logprobs(shown), "finish_reason": finish}

    def _logprobs(self, shown: Sequence[Shown]) -> dict[str, Any] | None:
        if not self.asked.logprobs:
            return None
        most = self.asked.top_logprobs or 0
        entries = [
            {**self._token(s.id, s.score.logprob), "top_logprobs": [self._token(*top) for top in s.score.top[:most]]}
            for s in shown
        ]
        return {"content": entries, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self.asker.tokenizer.token_bytes(token)
        return {"token": self.asker.names[token], "logprob": logprob, "bytes": list(raw)}
