"""What Zorya asks of a running PostgreSQL, as its administrator over the Unix socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from zorya.core import errors
from zorya.engines.postgres import configuration

CONNECT_TIMEOUT_S = 10

_CANNOT_CONNECT_NOW = "FATAL:  the database system is "
"""How each message of SQLSTATE 57P03 begins: starting up, in recovery mode, shutting down, not accepting connections.

libpq does not tell the SQLSTATE of a refused connection; the messages are in English by Zorya's configuration.
"""


async def checkpoint(socket: Path, port: int) -> None:
    """Write all changed pages. Takes as long as there is to write; if the caller is cancelled, it is cancelled."""
    async with _connection(socket, port) as connection:
        await connection.execute("CHECKPOINT")


async def connect(socket: Path, port: int) -> psycopg.AsyncConnection:
    """Answer a new connection. Raises psycopg.Error; see `explain`."""
    return await psycopg.AsyncConnection.connect(
        host=str(socket),
        port=port,
        user=configuration.ADMIN,
        dbname="postgres",
        application_name="zorya",
        connect_timeout=CONNECT_TIMEOUT_S,
        autocommit=True,
    )


def explain(error: psycopg.Error) -> errors.EngineProblem:
    """Answer the error of the tree: NotReady where the engine says that it takes nobody now, else EngineProblem."""
    if _CANNOT_CONNECT_NOW in str(error):
        return errors.NotReady(f"The engine takes no connections now: {error}.")
    return errors.EngineProblem(f"The engine does not answer its administrator: {error}.")


@asynccontextmanager
async def _connection(socket: Path, port: int) -> AsyncIterator[psycopg.AsyncConnection]:
    try:
        async with await connect(socket, port) as connection:
            yield connection
    except psycopg.Error as error:
        raise explain(error) from error
