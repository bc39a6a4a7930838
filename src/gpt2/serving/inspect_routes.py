"""What the page asks about the model's inside, as JSON under /api/."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from gpt2.checkpoint import RunFolder
from gpt2.errors import ConfigError, UserError
from gpt2.inspection import effect, embedding_map, head_kinds, neighbours
from gpt2.inspection.result import Result
from gpt2.inspection.tokens import token_texts
from gpt2.serving.engine import Engine
from gpt2.serving.history import history
from gpt2.serving.looking import Ask, Looker, packed, snapshots_of, tiles
from gpt2.serving.served import ServedModel

_WAITING = 16
"""Questions that may wait; more get status 429."""
_WORDS = (" dog", " girl", " day", " time", " the")
_EXAMPLES = (
    "Once upon a time there was a little girl named Lily. She had a red ball.",
    "Tom had a dog. The dog was named Max. One day Tom and",
    "One day, a bird found a shiny stone. The bird wanted to",
)


class Words(BaseModel):
    """A text to cut into tokens."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(max_length=20_000)


class Continue(BaseModel):
    """A text to go on with by a snapshot; the served weights write through /v1/completions."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field("", max_length=20_000)
    snapshot: int | None = Field(None, ge=0)
    length: int = Field(60, ge=1, le=400)
    temperature: float = Field(0.8, ge=0, le=4)
    top_k: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=2**63)


VIEWS: dict[str, Callable[[Looker, Ask], Result]] = {
    "checks": lambda looker, ask: looker.run(ask).checks,
    "surprise": lambda looker, ask: looker.run(ask).surprise(ask.k or 5),
    "odds": lambda looker, ask: looker.run(ask).odds(ask.position, (1.0,), ask.k or 40),
    "lens": lambda looker, ask: looker.run(ask).logit_lens(ask.k or 3),
    "attribution": lambda looker, ask: looker.run(ask).dla(
        ask.target, ask.against, unit=ask.unit or "component", position=ask.position
    ),
    "attention": lambda looker, ask: looker.run(ask).attention(ask.layer or 0, ask.head or 0),
    "head": lambda looker, ask: looker.run(ask).head(ask.layer or 0, ask.head or 0, ask.position),
    "residual": lambda looker, ask: looker.run(ask).residual_norms(),
    "kinds": lambda looker, ask: head_kinds(looker.model(ask.snapshot), looker.served.tokenizer),
    "neighbours": lambda looker, ask: _neighbours(looker, ask),
    "words": lambda looker, ask: embedding_map(
        looker.model(ask.snapshot), looker.served.tokenizer, count=ask.k or 160
    ),
    "effect": lambda looker, ask: effect(
        looker.model(ask.snapshot), looker.served.tokenizer, ask.text, looker.taken_out(ask),
        against=looker.whole(ask.snapshot),
    ),
}  # fmt: skip
"""What can be looked at, by name."""


def router(served: ServedModel, engine: Engine) -> APIRouter:
    """Routes under /api/. Every question is computed in a thread, one after another, so that streams go on.

    Args:
        served: the model.
        engine: unused: what is looked at goes through the model by itself.
    """
    routes = APIRouter(prefix="/api")
    looker = Looker(served)
    thread = ThreadPoolExecutor(1, thread_name_prefix="inspection")
    waiting = [0]

    async def answer(work: Callable[[], Any]) -> Response:
        if waiting[0] >= _WAITING:
            return _error(429, f"{_WAITING} questions wait already; ask again in a moment")
        waiting[0] += 1
        try:
            return _json(await asyncio.get_running_loop().run_in_executor(thread, work))
        except UserError as error:
            return _error(400, str(error))
        finally:
            waiting[0] -= 1

    @routes.get("/model")
    async def model() -> Response:
        """What is served: name, shape, limits, snapshots."""
        return _json(await asyncio.to_thread(about, served))

    @routes.get("/history")
    async def record() -> Response:
        """Curves and samples of the run."""
        return _json(await asyncio.to_thread(history, served.folder))

    @routes.post("/tokens")
    async def tokens(words: Words) -> Response:
        """The text as the model reads it: at once, whatever else is being computed."""
        return _json(await asyncio.to_thread(_tokens, served, words.text))

    @routes.post("/look/{view}")
    async def look(view: str, ask: Ask) -> Response:
        """A view of `gpt2.inspection` as its `to_json` gives it."""
        if view not in VIEWS:
            return _error(404, f"there is no view {view!r}; there are {', '.join(VIEWS)}")
        return await answer(lambda: VIEWS[view](looker, ask).to_json())

    @routes.post("/logits")
    async def logits(ask: Ask) -> Response:
        """All logits after one position, float32 in base64, with the names of the likeliest."""
        return await answer(lambda: _logits(looker, ask))

    @routes.post("/atlas")
    async def atlas(ask: Ask) -> Response:
        """The patterns of all heads as bytes to paint; exact values come from the view `attention`."""
        return await answer(lambda: _atlas(looker, ask))

    @routes.post("/continue")
    async def go_on(ask: Continue) -> Response:
        """A continuation by the weights of a snapshot."""
        return await answer(lambda: _continue(looker, ask))

    return routes


def _json(content: Any, status: int = 200) -> Response:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(errors="replace")
    return Response(body, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _error(status: int, message: str) -> Response:
    return _json({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}, status)


def about(served: ServedModel) -> dict[str, Any]:
    """What is served: name, shape, limits, snapshots."""
    config, folder = served.model.config, served.folder
    return {
        "mode": "model",
        "name": served.name,
        "source": str(folder) if folder else f"hf:{served.name}",
        "parameters": served.model.num_parameters(),
        "config": {
            name: getattr(config, name)
            for name in ("vocab_size", "context_length", "d_model", "num_layers", "num_heads")
        },
        "vocabulary": served.tokenizer.vocab_size,
        "device": str(served.device),
        "run": folder is not None and RunFolder(folder).metrics.is_file(),
        "snapshots": [{"step": item.step, "tokens": item.tokens} for item in snapshots_of(served)],
        "examples": list(_EXAMPLES),
    }


def _tokens(served: ServedModel, text: str) -> dict[str, Any]:
    tokenizer = served.tokenizer
    ids = tokenizer.encode(text)
    decoder = tokenizer.stream_decoder(keep_special=True)
    pieces = [decoder.push(token) for token in ids]
    return {
        "ids": ids,
        "tokens": token_texts(tokenizer, ids),
        "pieces": pieces,
        "limit": served.context_length - 1,  # <|endoftext|> stands before the text
    }


def _logits(looker: Looker, ask: Ask) -> dict[str, Any]:
    run = looker.run(ask)
    odds = run.odds(ask.position, (1.0,), ask.k or 60)
    # Of ids without a token, too: where a vocabulary is padded, the model gives them a share, and so does the sampler.
    return {"logits": packed(run.logits[odds.position].float()), "odds": odds.to_json()}


def _atlas(looker: Looker, ask: Ask) -> dict[str, Any]:
    view = looker.run(ask).attention()
    small = tiles(view.patterns)
    return {
        "kind": view.kind, "title": view.title, "summary": view.summary, "tokens": view.tokens,
        "layers": small.shape[0], "heads": small.shape[1], "size": small.shape[2], "tiles": packed(small),
        "first": view.patterns[:, :, 1:, 0].mean(dim=-1).nan_to_num(1.0).tolist(),
        "check": {"ok": view.check.ok, "text": str(view.check), "residual": view.check.residual},
    }  # fmt: skip


def _neighbours(looker: Looker, ask: Ask) -> Result:
    """Of a token, or of the first usual word that is one."""
    tokenizer, target = looker.served.tokenizer, ask.target
    if target is None:
        target = next((word for word in _WORDS if len(tokenizer.encode(word)) == 1), tokenizer.vocab_size - 1)
    return neighbours(looker.model(ask.snapshot), tokenizer, target, ask.k or 12)


def _continue(looker: Looker, ask: Continue) -> dict[str, Any]:
    tokenizer, model = looker.served.tokenizer, looker.model(ask.snapshot)
    ids = [tokenizer.eos_token_id, *tokenizer.encode(ask.text)]
    if len(ids) > model.config.context_length:
        raise ConfigError(f"the text has {len(ids)} tokens, the context holds {model.config.context_length}")
    context = torch.tensor([ids], device=next(model.parameters()).device)
    output = model.generate(
        context, ask.length, ask.temperature, top_k=ask.top_k, top_p=ask.top_p, seed=ask.seed
    )  # fmt: skip
    new = output[0, len(ids) :].tolist()
    new = new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new
    return {"text": tokenizer.decode(new), "ids": new}
