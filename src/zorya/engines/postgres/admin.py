"""What Zorya asks of a running PostgreSQL, as its administrator over the Unix socket."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from zorya.core import errors
from zorya.core.model import Secret
from zorya.engines.postgres import configuration, verifiers

CONNECT_TIMEOUT_S = 10

APPLICATION = "zorya"
"""Zorya's application_name: with it the administrator's connections are Zorya's own, and no sessions."""

_CANNOT_CONNECT_NOW = "FATAL:  the database system is "
"""How each message of SQLSTATE 57P03 begins: starting up, in recovery mode, shutting down, not accepting connections.

libpq does not tell the SQLSTATE of a refused connection; the messages are in English by Zorya's configuration.
"""

_UNSEEN: Mapping[str, str] = {
    # No statement is logged, whatever becomes of it and however long it takes (PostgreSQL manual, "When to Log" and
    # "What to Log"), and none is shown in pg_stat_activity, which the cluster's user may read.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "debug_print_parse": "off",
    "debug_print_rewritten": "off",
    "debug_print_plan": "off",
    "debug_print_raw_parse": "off",
    "track_activities": "off",
    # Who holds the identities, another's transaction, is not waited for without end.
    "lock_timeout": "5s",
    "statement_timeout": "0",
}


async def checkpoint(socket: Path, port: int) -> None:
    """Write all changed pages. Takes as long as there is to write; if the caller is cancelled, it is cancelled."""
    async with _connection(socket, port) as connection:
        await connection.execute("CHECKPOINT")


async def set_password(socket: Path, port: int, role: str, verifier: Secret) -> None:
    """Give a role a password by its verifier; see Engine.set_password.

    Raises ValueError when it is no verifier: PostgreSQL would take it for the password itself.
    """
    verifiers.check(verifier)
    async with _connection(socket, port) as connection:
        await configure(connection, _UNSEEN)
        await connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier.value))
        )


async def connect(socket: Path, port: int) -> psycopg.AsyncConnection:
    """Answer a new connection. Raises psycopg.Error; see `explain`."""
    return await psycopg.AsyncConnection.connect(
        host=str(socket),
        port=port,
        user=configuration.ADMIN,
        dbname="postgres",
        application_name=APPLICATION,
        connect_timeout=CONNECT_TIMEOUT_S,
        autocommit=True,
    )


async def configure(connection: psycopg.AsyncConnection, settings: Mapping[str, str]) -> None:
    """Set for this connection those of the parameters that this version of PostgreSQL has. Raises psycopg.Error."""
    await connection.execute(
        "SELECT pg_catalog.set_config(name, value, false)"
        " FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.text[]), pg_catalog.unnest(%s::pg_catalog.text[]))"
        " AS wanted (name, value)"
        " JOIN pg_catalog.pg_settings USING (name)",
        (list(settings), list(settings.values())),
    )


def explain(error: psycopg.Error) -> errors.EngineProblem:
    """Answer the error of the tree: NotReady where the engine says that it takes nobody now, else EngineProblem."""
    # What libpq says in further lines are its guesses.
    said = str(error).partition("\n")[0].rstrip(".")
    if _CANNOT_CONNECT_NOW in str(error):
        return errors.NotReady(f"The engine takes no connections now: {said}.")
    return errors.EngineProblem(f"The engine does not answer its administrator: {said}.")


@asynccontextmanager
async def _connection(socket: Path, port: int) -> AsyncIterator[psycopg.AsyncConnection]:
    try:
        async with await connect(socket, port) as connection:
            yield connection
    except psycopg.Error as error:
        raise explain(error) from error
