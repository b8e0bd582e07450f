"""Who may use the API over TCP: programs that know the token.

A web page could have its visitor's browser send requests to this server under a name of its own (DNS rebinding), so the
Host header has to be a name of this server: one of loopback's, or where the API is served over TLS, one that the server
certificate is good for.
"""

import hmac
import re
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from zorya.api import failures, schemas
from zorya.core.model import Secret
from zorya.trust import names

_HOST = re.compile(r"(\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[^\s:\[\]]+))(:\d+)?", re.IGNORECASE)

_WRONG_HOST = schemas.Problem(
    code="wrong_host",
    message="The request's Host header does not name this server.",
    hint="Use 127.0.0.1 or localhost, or from elsewhere a name that the server certificate is good for.",
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

    def __init__(self, app: ASGIApp, token: Secret, read_names: Callable[[], Collection[str]]) -> None:
        """Guard `app`. `read_names` answers the server's present names, as `trust.names` writes them."""
        self._app = app
        self._read_names = read_names
        self._expected = f"Bearer {token.value}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 421 (wrong Host) or 401 (no valid token)."""
        headers = Headers(scope=scope)
        if not self._is_own(headers.get("host", "")):
            await failures.response(421, _WRONG_HOST)(scope, receive, send)
        elif not hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), self._expected):
            challenge = {"WWW-Authenticate": "Bearer"}
            await failures.response(401, _UNAUTHORIZED, challenge)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_own(self, header: str) -> bool:
        found = _HOST.fullmatch(header)
        return found is not None and names.are_good_for(self._read_names(), found["ipv6"] or found["name"])
