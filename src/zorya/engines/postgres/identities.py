"""Who may log in to a cluster: read from a running PostgreSQL and kept so, or known because it was just made."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg

from zorya.core import errors
from zorya.core.identity import Database, Identities, Role
from zorya.core.model import Secret
from zorya.engines.postgres import admin, configuration, control_file

HOLD_WITHIN_S = 10.0
"""How long an engine may take to answer; it waits for other transactions for a second each at most."""

CONTROL_FILE = Path("global") / "pg_control"

_UNLIMITED = -1

_WITHOUT_END = {
    # The transaction stays open as long as it is held, and whatever the defaults are.
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "statement_timeout": "0",
    # Names are in the encoding of whatever database they were given in; PostgreSQL checks them no more than this.
    "client_encoding": "SQL_ASCII",
}

_HOLD = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
    "SET LOCAL lock_timeout = '1s'",
    # Whatever makes, alters or drops a role or a database takes ROW EXCLUSIVE, which SHARE excludes.
    "LOCK TABLE pg_catalog.pg_authid, pg_catalog.pg_database IN SHARE MODE",
)

_ROLES = """
SELECT rolname::pg_catalog.text, rolpassword, rolcanlogin, rolsuper, rolconnlimit,
       pg_catalog.date_part('epoch', rolvaliduntil)
FROM pg_catalog.pg_authid
"""

_DATABASES = """
SELECT datname::pg_catalog.text, datallowconn, datconnlimit FROM pg_catalog.pg_database
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Held:
    """Implements `engines.base.HeldIdentities`: a transaction that is left open."""

    def __init__(self, identities: Identities, connection: psycopg.AsyncConnection) -> None:
        """Keep `connection`, whose transaction keeps `identities` from changing."""
        self.identities: Final = identities
        self._connection = connection

    async def close(self) -> None:
        """See HeldIdentities.close."""
        await self._connection.close()


async def hold(socket: Path, port: int, data: Path) -> Held:
    """See Engine.hold_identities. `data` is the folder of the engine that listens at `port` in `socket`."""
    try:
        async with asyncio.timeout(HOLD_WITHIN_S):
            connection = await admin.connect(socket, port)
            try:
                return Held(await _read(connection, data), connection)
            except BaseException:
                await connection.close()
                raise
    except psycopg.Error as error:
        raise admin.explain(error) from error
    except TimeoutError as error:
        raise errors.EngineProblem(f"The engine has not said for {HOLD_WITHIN_S:g} s who may log in.") from error
    except OSError as error:
        raise errors.EngineProblem(f"{data / CONTROL_FILE} does not say the engine's nonce: {error}.") from error


async def _read(connection: psycopg.AsyncConnection, data: Path) -> Identities:
    await admin.configure(connection, _WITHOUT_END)
    for statement in _HOLD:
        await connection.execute(statement)
    roles = await (await connection.execute(_ROLES)).fetchall()
    databases = await (await connection.execute(_DATABASES)).fetchall()
    return Identities(
        roles={name: role for name, role in map(_role, roles) if not _is_built_in(name)},
        databases={
            _text(name): Database(allows_connections=allows, connection_limit=limit)
            for name, allows, limit in databases
        },
        mock_nonce=control_file.read_mock_nonce(data / CONTROL_FILE),
    )


def _role(row: Sequence[object]) -> tuple[str, Role]:
    name, verifier, may_log_in, is_superuser, limit, until = row
    assert isinstance(name, bytes)
    assert isinstance(verifier, bytes | None)
    assert isinstance(limit, int)
    assert isinstance(until, float | None)
    return _text(name), Role(
        verifier=Secret(_text(verifier)) if verifier is not None else None,
        may_log_in=bool(may_log_in),
        is_superuser=bool(is_superuser),
        connection_limit=limit,
        valid_until=moment(until),
    )


def _is_built_in(name: str) -> bool:
    """Whether nobody logs in over TCP as this role: the administrator's, or one of PostgreSQL's own."""
    return name in {configuration.ADMIN, configuration.REPLICA} or name.startswith("pg_")


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


def moment(epoch_s: float | None) -> datetime | None:
    """Answer PostgreSQL's point in time as Python's, whose years are 1 to 9999; None is never, as is any later one."""
    if epoch_s is None:
        return None
    try:
        return _EPOCH + timedelta(seconds=epoch_s)
    except OverflowError:
        return None if epoch_s > 0 else datetime.min.replace(tzinfo=UTC)


def first(username: str, database: str, verifier: Secret, mock_nonce: bytes) -> Identities:
    """Answer who may log in to a cluster that was just made with this user and its database."""
    allowed = dict.fromkeys((database, "postgres", "template1"), True) | {"template0": False}
    return Identities(
        roles={
            username: Role(
                verifier=verifier,
                may_log_in=True,
                is_superuser=False,
                connection_limit=_UNLIMITED,
                valid_until=None,
            )
        },
        databases={
            name: Database(allows_connections=allows, connection_limit=_UNLIMITED) for name, allows in allowed.items()
        },
        mock_nonce=mock_nonce,
    )
