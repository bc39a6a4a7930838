"""What the page asks about the model's inside, as JSON under /api/."""

from fastapi import APIRouter

from gpt2.serving.engine import Engine
from gpt2.serving.served import ServedModel


def router(served: ServedModel, engine: Engine) -> APIRouter:
    """Routes under /api/."""
    return APIRouter(prefix="/api")
