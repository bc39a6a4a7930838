"""Before every request: whom it was sent to, from which page, by whom, and how large it is.

Deny by default: what is not listed as public needs the key, whatever routes are added.
"""

import hashlib
import hmac
import ipaddress
import secrets
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt2.serving.api_errors import ApiError
from gpt2.serving.counters import Counters
from gpt2.serving.settings import ServeSettings

_PUBLIC = ("/", "/health", "/favicon.ico", "/icon.svg")
_PUBLIC_BELOW = "/assets/"
MAX_HEADERS = 16 * 1024
"""Bytes of a request's headers."""
_METHODS = "GET, HEAD, POST, OPTIONS"


class Guard:
    """ASGI middleware, the outermost.

    Args:
        app: what it guards.
        settings: keys, names, origins and bounds.
        counters: counts responses.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, counters: Counters) -> None:
        self._app, self._settings, self._counters = app, settings, counters
        self._key = _digest(settings.api_key) if settings.api_key is not None else None
        self._hosts = {"localhost", settings.host.lower(), *(name.lower() for name in settings.allowed_host)}
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origin}
        self._process = secrets.token_hex(8).encode()  # another one may serve another model under the same address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        extra = [
            (b"x-request-id", secrets.token_hex(8).encode()),
            (b"x-process", self._process),
            (b"x-content-type-options", b"nosniff"),
            *self._cross_origin(origin),
        ]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in present)]
                self._counters.answers[message["status"]] += 1
            await send(message)

        try:
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:  # h11's limit is later
                raise ApiError(
                    431, f"a request's headers have at most {MAX_HEADERS:,} bytes here", code="headers_too_large"
                )
            self._require_host(headers.get(b"host", ""))
            self._require_origin(origin, headers.get(b"host", ""))
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await answer({"type": "http.response.start", "status": 204, "headers": []})
                await answer({"type": "http.response.body", "body": b""})
                return
            self._require_key(scope, headers.get(b"authorization", ""))
            length = headers.get(b"content-length", "0")
            if not length.isdigit() or int(length) > self._settings.max_body:
                raise self._too_large()
            await self._app(scope, self._bounded(receive), answer)
        except ApiError as error:  # of the checks here; those of the application have left already
            await error.response()(scope, receive, answer)

    def _require_host(self, host: str) -> None:
        """A name that somebody else's DNS points here must not make a browser trust us (DNS rebinding)."""
        name = _name_of(host)
        if name in self._hosts or _is_address(name):
            return
        raise ApiError(421, f"this server is not {name[:200]!r}; name it with --allowed-host to allow it", code="host")

    def _require_origin(self, origin: str | None, host: str) -> None:
        """Pages of other origins may not even send what they cannot read the answer of."""
        if origin is None or origin.lower() in self._origins:
            return
        if urlsplit(origin).netloc.lower() != host.lower():
            message = f"pages of {origin[:200]!r} may not use this server; --allowed-origin allows them"
            raise ApiError(403, message, code="origin")

    def _cross_origin(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        if origin is None or origin.lower() not in self._origins:
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", _METHODS.encode()),
            (b"access-control-allow-headers", b"authorization, content-type"),
            (b"access-control-expose-headers", b"x-request-id, retry-after"),
            (b"vary", b"origin"),
        ]

    def _require_key(self, scope: Scope, authorization: str) -> None:
        # The path as it is routed, not what a header says about it.
        path = scope["path"]
        public = scope["method"] in ("GET", "HEAD") and (path in _PUBLIC or path.startswith(_PUBLIC_BELOW))
        if self._key is None or public:
            return
        kind, _, given = authorization.partition(" ")
        # Digests, so that neither the length nor a common beginning takes another time.
        if not hmac.compare_digest(_digest(given.strip()), self._key) or kind.lower() != "bearer":
            headers = {"WWW-Authenticate": "Bearer"}
            message = "this server wants its key: Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key", headers=headers)

    def _bounded(self, receive: Receive) -> Receive:
        """A body without a length may not be endless either."""
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._settings.max_body:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> ApiError:
        message = f"a request's body has at most {self._settings.max_body:,} bytes here"
        return ApiError(413, message, code="body_too_large", headers={"Connection": "close"})


def _name_of(host: str) -> str:
    """The host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    """Whether it is an IP address: those are nobody's DNS names."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
