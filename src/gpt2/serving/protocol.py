"""HTTP/1.1 connections that do not wait for ever: uvicorn's h11 protocol with timers.

uvicorn itself waits without end for headers, for a body and for a client that does not read.
"""

import asyncio
import json
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpt2.serving.settings import ServeSettings


def protocol(settings: ServeSettings) -> Any:
    """The class of connections, for `uvicorn.Config(http=...)`."""
    return partial(GuardedProtocol, patience=settings.patience, most=settings.max_connections)


class GuardedProtocol(H11Protocol):
    """A connection.

    Args:
        patience: seconds for the headers, from the first moment; for the body; and to read on when much is unread.
        most: connections; one more is closed at once.
    """

    def __init__(self, *args: Any, patience: float, most: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience, self._most = patience, most
        self._timer: asyncio.TimerHandle | None = None
        self._awaited = ""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for headers."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            transport.abort()
            return
        self._await("headers")

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        super().data_received(data)
        state = self.conn.their_state
        # A timer runs from the beginning of what it waits for: a byte now and then does not prolong it.
        self._await({h11.IDLE: "headers", h11.SEND_BODY: "body"}.get(state, ""))

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._await("reader")

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._await("")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._await("")
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, whether the client has read everything or not."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(self._patience, self.transport.abort)

    def shutdown(self) -> None:
        """The server ends."""
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(self._patience, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an answer in the shape of all others."""
        error = {"message": msg, "type": "invalid_request_error", "param": None, "code": "invalid_http"}
        body = json.dumps({"error": error}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        try:
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer is under way already
            pass
        self.transport.close()
        self.loop.call_later(self._patience, self.transport.abort)

    def _await(self, what: str) -> None:
        if what == self._awaited:
            return
        self._awaited = what
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if what:
            self._timer = self.loop.call_later(self._patience, self._too_slow)

    def _too_slow(self) -> None:
        if self._awaited == "headers" and self.conn.our_state is not h11.IDLE:
            return  # an answer is being sent; the next request may wait for it
        self.transport.abort()
