"""What is served, its tokenizer, and how the server is: everything that generates nothing."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gpt2.serving.answering import Asker
from gpt2.serving.api_errors import ApiError, parsed
from gpt2.serving.requests import Ids, Text


class TokenizeRequest(BaseModel):
    """POST /tokenize."""

    model_config = ConfigDict(strict=True, extra="ignore")
    prompt: Text
    add_special_tokens: bool | None = None
    """Put the end-of-text token first, as the server does before it continues a text; true by default."""


class DetokenizeRequest(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(strict=True, extra="ignore")
    tokens: Annotated[Ids, Field(max_length=2**18)]


def router(asker: Asker) -> APIRouter:
    """The routes."""
    routes = APIRouter()
    served, engine, tokenizer = asker.served, asker.engine, asker.tokenizer
    card = {"id": served.name, "object": "model", "created": served.created, "owned_by": "gpt2-from-scratch"}
    card["max_model_len"] = served.context_length

    @routes.get("/v1/models", tags=["OpenAI"])
    async def models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [card]}

    @routes.get("/v1/models/{name:path}", tags=["OpenAI"])
    async def model(name: str) -> dict[str, Any]:
        asker.require_model(name)
        return card

    @routes.post("/tokenize", tags=["tokens"], openapi_extra=_body(TokenizeRequest))
    async def tokenize(request: Request) -> dict[str, Any]:
        """Ids of a text."""
        asked = parsed(TokenizeRequest, await request.body())
        before = [] if asked.add_special_tokens is False else [tokenizer.eos_token_id]
        ids = [*before, *await asker.tokenized(asked.prompt)]
        return {"tokens": ids, "count": len(ids), "max_model_len": served.context_length}

    @routes.post("/detokenize", tags=["tokens"], openapi_extra=_body(DetokenizeRequest))
    async def detokenize(request: Request) -> dict[str, Any]:
        """Text of ids; special tokens are left out."""
        asked = parsed(DetokenizeRequest, await request.body())
        vocab = served.model.config.vocab_size
        if any(not 0 <= token < vocab for token in asked.tokens):
            raise ApiError(400, f"tokens: ids go from 0 to {vocab - 1}", param="tokens")
        return {"prompt": tokenizer.decode(asked.tokens)}

    @routes.get("/tokenizer_info", tags=["tokens"])
    async def tokenizer_info() -> dict[str, Any]:
        """Special tokens; there is no chat template, for the model knows no roles."""
        end = tokenizer.token_bytes(tokenizer.eos_token_id).decode()
        return {
            "tokenizer_class": "GPT2TokenizerFast", "eos_token": end, "bos_token": end, "pad_token": end,
            "eos_token_id": tokenizer.eos_token_id, "vocab_size": tokenizer.vocab_size, "chat_template": None,
            "model_max_length": served.context_length,
        }  # fmt: skip

    @routes.get("/health", tags=["server"])
    async def health() -> Response:
        """200 while requests are taken, 503 while the server is stopping."""
        status, text = (503, "stopping") if engine.draining else (200, "ok")
        return Response(f'{{"status": "{text}"}}', status, media_type="application/json")

    @routes.get("/metrics", tags=["server"])
    async def metrics() -> Response:
        """Counts for Prometheus."""
        gauges = {
            "slots": (asker.settings.slots, "Streams that can be computed at once."),
            "slots_running": (engine.running, "Streams that are being computed."),
            "requests_waiting": (engine.queued, "Requests of which a part waits for a slot."),
        }
        return Response(engine.counters.text(gauges), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def _body(model: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
