"""GET /docs: the API's description (/openapi.json) as a page without scripts and with nothing from outside."""

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Response

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code{font-family:ui-monospace,monospace}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8884}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


def router(app: FastAPI) -> APIRouter:
    """The route."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> Response:
        return Response(
            "".join(_page(app.openapi())), headers={"Content-Security-Policy": _POLICY}, media_type="text/html"
        )

    return routes


def _page(schema: dict[str, Any]) -> Iterator[str]:
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(schema["info"]["title"])}</title>'
    yield '<meta name="viewport" content="width=device-width"><style>' + _STYLE + "</style>"
    yield '<h1>The API</h1><p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
    for path, methods in schema["paths"].items():
        for method, what in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p>{escape(what.get('description') or what.get('summary', ''))}</p>"
            yield from _fields(what.get("requestBody", {}), schema)


def _fields(body: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    for content in body.get("content", {}).values():
        wanted = content.get("schema", {})
        if "$ref" in wanted:
            wanted = schema["components"]["schemas"][wanted["$ref"].rsplit("/", 1)[-1]]
        yield "<table><tr><th>field<th>type"
        for name, field in wanted.get("properties", {}).items():
            yield f"<tr><td><code>{escape(name)}</code><td>{escape(_kind(field))}"
        yield "</table>"


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(part) for part in field["anyOf"]))
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    limits = [f"{word} {field[key]:g}" for key, word in bounds.items() if key in field]
    kind = f"list of {_kind(field.get('items', {}))}" if field.get("type") == "array" else field.get("type", "object")
    return " ".join([kind, *limits])
