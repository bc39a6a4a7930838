"""Listening: the application under uvicorn, until a signal ends it."""

import socket
import sys
import time
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from gpt2.errors import UserError
from gpt2.serving.engine import Engine
from gpt2.serving.guard import MAX_HEADERS
from gpt2.serving.protocol import protocol
from gpt2.serving.settings import ServeSettings

_BACKLOG = 1024


class Server(uvicorn.Server):
    """Drains at a signal: new requests get 503, running ones have `grace` seconds; a second signal ends it at once.

    Args:
        app: made by `create_app`.
        settings: bounds and patience.
    """

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        config = uvicorn.Config(
            app,
            http=protocol(settings),
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=cast("int", settings.patience),
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=MAX_HEADERS,
        )
        super().__init__(config)
        self._engine: Engine = app.state.engine
        self._grace, self._until = settings.grace, float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal."""
        if self._engine.draining:
            self.should_exit = self.force_exit = True
        self._engine.draining = True
        self._until = time.monotonic() + self._grace

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        drained = self._engine.draining and (self._engine.idle or time.monotonic() > self._until)
        return await super().on_tick(counter) or drained


def serve(app: FastAPI, settings: ServeSettings) -> int:
    """Serve until SIGTERM or Ctrl-C; gives the exit status, 0.

    Raises:
        UserError: the address cannot be listened on.
    """
    listener = listen(settings)
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, str(host))
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    print(f"{address}     the page\n{address}/v1  for OpenAI's clients; Ctrl-C ends the server", flush=True)
    # The engine's thread needs the interpreter for moments only, but at once.
    sys.setswitchinterval(0.0001)
    Server(app, settings).run(sockets=[listener])
    return 0


def listen(settings: ServeSettings) -> socket.socket:
    """A listening socket.

    Raises:
        UserError: the address is taken, or is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}); choose another --port"
        ) from error
    return listener
