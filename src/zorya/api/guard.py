"""Who may use the API over TCP: programs of this host that know the token.

A web page could have its visitor's browser send requests to loopback under a name of its own (DNS rebinding), so the
Host header has to name loopback as well.
"""

import hmac
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from zorya.api import failures, schemas
from zorya.core.model import Secret

_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)

_WRONG_HOST = schemas.Problem(
    code="wrong_host",
    message="The request's Host header does not name this host's loopback.",
    hint="Use 127.0.0.1 or localhost.",
    retry_can_help=False,
)
_UNAUTHORIZED = schemas.Problem(
    code="unauthorized",
    message="The request carries no valid token.",
    hint="Send `Authorization: Bearer TOKEN`; the token is in the file api-token of Zorya's home.",
    retry_can_help=False,
)


class Guard:
    """ASGI middleware that lets only authorized requests pass, whatever their path."""

    def __init__(self, app: ASGIApp, token: Secret) -> None:
        self._app = app
        self._expected = f"Bearer {token.value}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 421 (wrong Host) or 401 (no valid token)."""
        headers = Headers(scope=scope)
        if not _LOOPBACK.fullmatch(headers.get("host", "")):
            await failures.response(421, _WRONG_HOST)(scope, receive, send)
        elif not hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), self._expected):
            challenge = {"WWW-Authenticate": "Bearer"}
            await failures.response(401, _UNAUTHORIZED, challenge)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
