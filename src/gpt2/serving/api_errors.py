"""Errors as OpenAI's API writes them: `{"error": {"message", "type", "param", "code"}}`."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

T = TypeVar("T", bound=BaseModel)

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is told went wrong.

    Args:
        status: of the response; one of 400 to 499 if asking again would not help.
        message: for people.
        param: the field that is meant.
        code: for programs.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        kind = _TYPES.get(self.status, kind)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The response."""
        # ASCII: a message may repeat what the client wrote, control characters and all.
        return Response(json.dumps(self.body()), self.status, self.headers, "application/json")


def parsed(model: type[T], body: bytes) -> T:
    """A request's body.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_context=False, include_input=False)) from None


def from_validation(errors: Any) -> ApiError:
    """The first of pydantic's findings."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    if first["type"] == "json_invalid" or not place:
        return ApiError(400, f"the body is not what it should be: {first['msg']}", code="invalid_json")
    return ApiError(400, f"{place[0]}: {first['msg']}", param=place[0], code="invalid_value")


def install(app: FastAPI) -> None:
    """Let every error of the application leave in this shape."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors()).response()

    async def of_routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{request.method} {request.url.path!r}"
        text = {404: f"there is no {where}", 405: f"{where} is not a way to use this address"}
        message = text.get(error.status_code) or str(error.detail)
        return ApiError(error.status_code, message, headers=error.headers).response()

    async def left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # counted; nobody reads it, and it is no fault for the log

    async def unexpected(request: Request, error: Exception) -> Response:
        return ApiError(500, f"{type(error).__name__} in the server; its log has more").response()

    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_routing)
    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(Exception, unexpected)
