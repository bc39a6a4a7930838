"""The application: every route, and what stands before them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from gpt2 import __version__
from gpt2.serving import inspect_routes, page
from gpt2.serving.engine import Engine
from gpt2.serving.served import ServedModel
from gpt2.serving.settings import ServeSettings


def create_app(served: ServedModel, settings: ServeSettings) -> FastAPI:
    """The server's application for one model.

    Args:
        served: the model.
        settings: access and bounds; where it listens is the caller's.
    """
    engine = Engine(served, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            engine.stop()

    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(title="gpt2 serve", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.served, app.state.settings, app.state.engine = served, settings, engine

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok"}

    app.include_router(inspect_routes.router(served, engine))
    app.include_router(page.router())
    return app
