"""Server-sent events: chunks of JSON as they come, and how an error ends them."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpt2.serving.api_errors import ApiError

DONE = b"data: [DONE]\n\n"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class EventStream(Response):
    """A response whose body is an iterator of events.

    An error before the first one leaves as a response with its status; after it, as an event, and the stream ends.

    Args:
        events: bytes to send, each of whole events.
        headers: further headers.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str] | None = None) -> None:
        self._events = events
        super().__init__(headers={**_HEADERS, **(headers or {})})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        started = False
        async with aclosing(self._events) as events:
            try:
                async for event in events:
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        started = True
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except ApiError as error:
                if not started:
                    raise
                await send({"type": "http.response.body", "body": event_of(error.body()) + DONE, "more_body": True})
        if not started:  # the client went before there was anything
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event_of(content: object) -> bytes:
    """One event: JSON in ASCII, so without raw line ends."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
