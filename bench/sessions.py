"""Sessions of clients in Python, of whichever engine a URL names: what a benchmark asks is the same for all.

A URL is as Zorya says it, with `sslmode` `disable` or `require` behind it; one of `mysql` may have `unix_socket`.
"""

import ssl
import time
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
import pymysql

FAILURES = (psycopg.Error, pymysql.err.MySQLError, OSError)
"""What a session may raise that is refused, lost, or told that it has done something wrong."""


class Session:
    """An open session, which commits each statement by itself. Close it, or use it as a context."""

    def __init__(self, url: str) -> None:
        """Connect. Raises one of FAILURES."""
        # Both libraries have what PEP 249 asks.
        self._connection: Any = _mysql(url) if url.startswith("mysql:") else psycopg.connect(url, autocommit=True)

    def value(self, statement: str) -> Any:
        """Run a statement and answer the first value of its first row. Raises one of FAILURES."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0]

    @property
    def port(self) -> int:
        """The TCP port of this end of a `mysql` session."""
        own: int = self._connection._sock.getsockname()[1]
        return own

    def close(self) -> None:
        """End it."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def first_row(url: str, *, within_s: float = 30) -> None:
    """Connect until a row comes back, as a client does that is in a hurry."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            with Session(url) as session:
                session.value("SELECT 1")
                return
        except FAILURES:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def _mysql(url: str) -> Any:
    parts, query = urlsplit(url), parse_qs(urlsplit(url).query)
    context = None
    if query.get("sslmode") == ["require"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return pymysql.connect(
        host=parts.hostname,
        port=parts.port or 0,
        unix_socket=query.get("unix_socket", [None])[0],
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.removeprefix("/"),
        autocommit=True,
        connect_timeout=30,
        ssl=context,
        # Its own default is to use TLS wherever the server has it.
        ssl_disabled=context is None,
    )
