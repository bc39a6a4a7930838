"""`gpt2 serve`: an OpenAI-compatible API and a page to look inside, for one model."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated

import tyro
from tyro.conf import Positional

from gpt2.serving.settings import ServeSettings


@dataclass(frozen=True)
class Serve:
    """Serve a model: an API that OpenAI's clients speak, and a page to watch it think."""

    model: Positional[str]
    """A run folder, any Hugging Face GPT-2 folder, hf:owner/name, a .pt beside tokenizer.json, or demo."""
    settings: Annotated[ServeSettings, tyro.conf.arg(name="")] = field(default_factory=ServeSettings)
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def main(argv: Sequence[str]) -> int:
    """Run `gpt2 serve`."""
    options = tyro.cli(Serve, args=argv, prog="gpt2 serve")
    from gpt2.errors import MissingExtraError

    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"serving needs {' and '.join(missing)}: pip install 'gpt2-from-scratch[serve]'")
    from gpt2.cli.models import say_which
    from gpt2.serving.app import create_app
    from gpt2.serving.served import ServedModel, set_threads
    from gpt2.serving.server import serve

    settings = options.settings
    if settings.api_key is None and os.environ.get("GPT2_API_KEY"):
        settings = dataclasses.replace(settings, api_key=os.environ["GPT2_API_KEY"])
    settings.require_key()
    say_which(options.model)
    served = ServedModel.load(options.model, options.device)
    note = set_threads(served, settings.threads)
    print(f"{served.name}: {note}")
    return serve(create_app(served, settings), settings)
