"""`gpt2 train --watch`: the page's view of a run in progress, from a process of its own.

It reads the run's files and nothing else, loads no torch, runs at the lowest priority, and ends with the training:
whatever happens here, the training neither waits nor fails.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpt2.errors import MissingExtraError

_LAST_LOOK = 4.0
"""Seconds that the page has at the end to fetch the last figures."""


@contextmanager
def watched(folder: str) -> Iterator[None]:
    """Run the watching process for as long as the body runs, and a moment longer.

    Args:
        folder: the run folder, existing or not yet.

    Raises:
        MissingExtraError: FastAPI or uvicorn is not installed.
    """
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"--watch needs {' and '.join(missing)}: pip install 'gpt2-from-scratch[serve]'")
    command = [sys.executable, "-m", "gpt2.serving.watch", folder]
    # It ends when its standard input does, so that it outlives no training, however suddenly that ends.
    # A session of its own: Ctrl-C is for the training.
    child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        assert child.stdin is not None
        with suppress(OSError):
            child.stdin.close()


def app_of(folder: Path) -> Any:
    """The application: the page, and the record of the run."""
    from fastapi import FastAPI, Response

    from gpt2.serving import page
    from gpt2.serving.api_errors import install
    from gpt2.serving.counters import Counters
    from gpt2.serving.guard import Guard
    from gpt2.serving.history import history
    from gpt2.serving.settings import ServeSettings

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, settings=ServeSettings(), counters=Counters())
    install(app)

    def answer(content: Any) -> Response:
        return Response(json.dumps(content), media_type="application/json", headers={"Cache-Control": "no-store"})

    def about() -> dict[str, Any]:
        here = {"mode": "watch", "name": folder.resolve().name, "source": str(folder), "run": True}
        return {**here, "snapshots": [], "examples": []}

    @app.get("/api/model")
    async def model() -> Response:
        return answer(about())

    @app.get("/api/history")
    async def record() -> Response:
        return answer(await asyncio.to_thread(history, folder))

    app.include_router(page.router(about=about))
    return app


def main(folder: str) -> int:
    """Serve until standard input ends."""
    import uvicorn

    with suppress(OSError, AttributeError):
        os.nice(10)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/#live"
        server = uvicorn.Server(uvicorn.Config(app_of(Path(folder)), log_level="error"))

        def end_with_parent() -> None:
            sys.stdin.buffer.read()
            time.sleep(_LAST_LOOK)
            server.should_exit = True

        threading.Thread(target=end_with_parent, daemon=True).start()
        print(f"watch it learn: {address}", file=sys.stderr, flush=True)
        with suppress(webbrowser.Error, OSError):
            webbrowser.open(address)
        server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
