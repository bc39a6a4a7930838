"""The application: every route, and what stands before them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gpt2 import __version__
from gpt2.serving import api_errors, chat, completions, inspect_routes, model_routes, page, reference
from gpt2.serving.answering import Asker
from gpt2.serving.engine import Engine
from gpt2.serving.guard import Guard
from gpt2.serving.served import ServedModel
from gpt2.serving.settings import ServeSettings


def create_app(served: ServedModel, settings: ServeSettings) -> FastAPI:
    """The server's application for one model.

    Args:
        served: the model.
        settings: access and bounds; where it listens is the caller's.
    """
    engine = Engine(served, settings)
    asker = Asker(engine)

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
    app.add_middleware(Guard, settings=settings, counters=engine.counters)
    api_errors.install(app)
    for routes in (
        completions.router(asker),
        chat.router(asker),
        model_routes.router(asker),
        reference.router(app),
        inspect_routes.router(served, engine),
        page.router(about=None if settings.api_key else lambda: inspect_routes.about(served)),
    ):
        app.include_router(routes)
    return app
