"""Listening: the application under uvicorn, until a signal ends it."""

import socket

import uvicorn
from fastapi import FastAPI

from gpt2.errors import UserError
from gpt2.serving.settings import ServeSettings


def serve(app: FastAPI, settings: ServeSettings) -> int:
    """Serve until SIGTERM or Ctrl-C; gives the exit status.

    Raises:
        UserError: the address cannot be listened on.
    """
    listener = listen(settings)
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, str(host))
    print(f"Serving on http://{f'[{shown}]' if ':' in shown else shown}:{port}  (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(app, http="h11", ws="none", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])
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
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}); choose another --port"
        ) from error
    return listener
