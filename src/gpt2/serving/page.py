"""The page in the browser: its files and the policy under which a browser runs them."""

import asyncio
import gzip
import hashlib
import json
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from gpt2.errors import GPT2Error

STATIC = Path(__file__).parent / "static"
"""What `make web` builds out of web/."""

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Content-Security-Policy: nothing from outside, nothing inline, no frame around it."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_TEXT = ("text/", "application/json", "image/svg+xml")


@dataclass(frozen=True)
class Asset:
    """A file of the page, read once."""

    content: bytes
    packed: bytes | None
    """gzip of it, where that is smaller."""
    kind: str
    tag: str
    """Its ETag."""
    lasting: bool
    """The name changes with the content."""

    @classmethod
    def read(cls, path: Path, root: Path) -> "Asset":
        """Read a file below `root`."""
        kind = {".js": "text/javascript", ".svg": "image/svg+xml"}.get(path.suffix) or (
            mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        )
        kind += "; charset=utf-8" if kind.startswith("text/") else ""
        return cls.of(path.read_bytes(), kind, path.parent == root / "assets")

    @classmethod
    def of(cls, content: bytes, kind: str, lasting: bool = False) -> "Asset":
        """Pack and name a content."""
        packed = gzip.compress(content, 9, mtime=0) if kind.startswith(_TEXT) else None
        packed = packed if packed is not None and len(packed) < len(content) else None
        return cls(content, packed, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"', lasting)

    def telling(self, about: dict[str, Any]) -> "Asset":
        """The page with what the server says of itself, so that it need not ask before it asks anything else."""
        told = json.dumps(about).replace("<", "\\u003c")
        block = f'<script type="application/json" id="about">{told}</script>\n  </head>'
        return Asset.of(self.content.replace(b"</head>", block.encode(), 1), self.kind)

    def answer(self, request: Request) -> Response:
        """The file, packed if the browser takes that; 304 if it has it already."""
        headers = {
            **_HEADERS,
            "ETag": self.tag,
            "Vary": "Accept-Encoding",
            "Cache-Control": "public, max-age=31536000, immutable" if self.lasting else "no-cache",
        }
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        body = self.content
        if self.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            body, headers["Content-Encoding"] = self.packed, "gzip"
        return Response(body, headers=headers, media_type=self.kind)


def router(static: Path = STATIC, about: Callable[[], dict[str, Any]] | None = None) -> APIRouter:
    """Routes of the page's files.

    Args:
        static: where they are.
        about: what /api/model says, for the page to bring along; None: who opens the page may not know it yet.

    Raises:
        GPT2Error: the page was not built into the package.
    """
    if not (static / "index.html").is_file():
        raise GPT2Error(f"the page is missing: {static} has no index.html; in a checkout, build it with: make web")
    files = {
        path.relative_to(static).as_posix(): Asset.read(path, static)
        for path in sorted(static.rglob("*"))
        if path.is_file()
    }
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def index(request: Request) -> Response:
        page, tell = files["index.html"], about
        # It looks into the run's folder, and packs: meanwhile streams go on.
        told = await asyncio.to_thread(lambda: page.telling(tell())) if tell else page
        return told.answer(request)

    @routes.get("/assets/{name}")
    async def asset(name: str, request: Request) -> Response:
        found = files.get(f"assets/{name}")
        return found.answer(request) if found else Response(status_code=404, headers=_HEADERS)

    @routes.get("/favicon.ico")
    async def icon(request: Request) -> Response:
        return files["icon.svg"].answer(request)

    @routes.get("/icon.svg")
    async def picture(request: Request) -> Response:
        return files["icon.svg"].answer(request)

    return routes
