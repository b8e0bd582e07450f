"""How a failed request is answered: always a `schemas.Failure`, with one status for each kind of fault.

    caller's fault      400, also for a body or parameter that does not parse
    missing             404
    state               409
    host                500, but 507 when the disk is full
    engine              503

An exception from outside the tree of `core.errors` is a bug: it is logged once, with its traceback, and the caller
learns only that it happened.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypedDict

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zorya.api import schemas
from zorya.core import errors, logging

_STATUS = {
    errors.Fault.CALLER: 400,
    errors.Fault.MISSING: 404,
    errors.Fault.STATE: 409,
    errors.Fault.HOST: 500,
    errors.Fault.ENGINE: 503,
}
_PLAIN_CODES = {404: "not_found", 405: "method_not_allowed"}

INTERNAL_ERROR = schemas.Problem(
    code="internal_error", message="Internal error.", hint="The server's log has the details.", retry_can_help=False
)
STOPPING = schemas.Problem(
    code="server_stopping",
    message="The server is stopping and did not wait for this request.",
    hint="What it had begun goes on.",
    retry_can_help=True,
)

_log = logging.get("zorya.api")


class _Mistake(TypedDict):
    """What is used here of an item of RequestValidationError.errors()."""

    loc: Sequence[str | int]
    msg: str


def status_of(error: errors.ZoryaError) -> int:
    """Answer the HTTP status for an error."""
    return 507 if isinstance(error, errors.DiskFull) else _STATUS[error.fault]


def response(status: int, problem: schemas.Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Answer the response that tells a problem."""
    return JSONResponse(schemas.Failure(error=problem).model_dump(), status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Make `app` answer the errors of this program, of validation and of routing in this file's form."""

    @app.exception_handler(errors.ZoryaError)
    async def refused(_request: Request, error: errors.ZoryaError) -> JSONResponse:
        return response(status_of(error), schemas.Problem.of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        message = "; ".join(dict.fromkeys(_describe(mistake) for mistake in error.errors()))
        problem = schemas.Problem(
            code=errors.InvalidInput.code,
            message=f"The request is not valid: {message}.",
            hint="/openapi.json describes every request.",
            retry_can_help=False,
        )
        return response(400, problem)

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> JSONResponse:
        problem = schemas.Problem(
            code=_PLAIN_CODES.get(error.status_code, "http_error"),
            message=f"{request.method} {request.url.path}: {error.detail}.",
            hint="/openapi.json lists every route.",
            retry_can_help=False,
        )
        return response(error.status_code, problem, error.headers)


def _describe(mistake: _Mistake) -> str:
    where = ".".join(str(part) for part in mistake["loc"] if part not in {"body", "query", "path"})
    what = mistake["msg"].removeprefix("Value error, ")
    what = what[0].lower() + what[1:]
    return f"{where}: {what}" if where else what


class LastResort:
    """ASGI middleware that answers what would otherwise escape: a bug with 500, a cancellation with 503.

    Requests are cancelled only by `serve.Api`, when the server stops and cannot wait for them any longer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            answer = response(503, STOPPING)
        except Exception:  # noqa: BLE001 - what it is goes to the log and stays out of the answer
            _log.exception("request failed", method=scope["method"], path=scope["path"])
            answer = response(500, INTERNAL_ERROR)
        else:
            return
        if not started:
            await answer(scope, receive, send)
