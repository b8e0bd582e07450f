"""What Zorya asks of a running MariaDB, as its administrator over the Unix socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiomysql
from pymysql import err
from pymysql.constants import CLIENT

from zorya.core import errors, logging
from zorya.core.home import ClusterFolders
from zorya.core.model import Secret
from zorya.engines.mariadb import administrator, configuration, privileges, verifiers

CONNECT_TIMEOUT_S = 10

_SHUTTING_DOWN = 1053
"""ER_SERVER_SHUTDOWN."""

_NO_SUCH_THREAD = 1094

_LOST = frozenset({0, _SHUTTING_DOWN, 2006, 2013})
"""CR_SERVER_GONE_ERROR, CR_SERVER_LOST, and what the library says of a connection that it has closed."""

_SETTINGS = (
    # A session that waits for Zorya is not ended, however long the server was frozen.
    "wait_timeout = 31536000",
    # Who holds the accounts, another's transaction, is not waited for without end.
    "lock_wait_timeout = 5",
    "max_statement_time = 0",
    "sql_mode = ''",
)

_RAPID: Mapping[str, str] = {
    "innodb_max_dirty_pages_pct_lwm": "0",
    "innodb_max_dirty_pages_pct": "0",
    "innodb_io_capacity_max": "100000",
    "innodb_io_capacity": "100000",
}
"""With these the page cleaner writes every changed page at once. In an order in which none goes beyond its bound; back
it is the other way round."""

_DIRTY_SHARE = 0.001
"""Of the buffer pool: what may be left to write when the server is told to stop."""

_CHECKPOINT_WITHIN_S = 300.0
_RESIZE_WITHIN_S = 30.0
_POLL_S = 0.02

_log = logging.get("zorya.engines")


class Connection(aiomysql.Connection):  # type: ignore[misc]  # the library has no types
    """A connection that keeps the server's first packet."""

    greeting = b""

    async def _read_packet(self, *args: Any) -> Any:
        packet = await super()._read_packet(*args)
        self.greeting = self.greeting or packet.get_all_data()
        return packet

    async def ask(self, question: str) -> list[dict[str, Any]]:
        """Answer the rows of a question, by the names of their columns."""
        async with self.cursor(aiomysql.DictCursor) as cursor:
            await cursor.execute(question)
            return list(await cursor.fetchall())

    async def ask_all(self, questions: Sequence[str]) -> list[Sequence[Any]]:
        """Answer the rows of each question, asked in one go."""
        answers = []
        async with self.cursor() as cursor:
            await cursor.execute("; ".join(questions))
            answers.append(await cursor.fetchall())
            while await cursor.nextset():
                answers.append(await cursor.fetchall())
        return answers

    async def tell(self, statement: str) -> None:
        """Have a statement done that answers nothing."""
        async with self.cursor() as cursor:
            await cursor.execute(statement)

    async def leave(self) -> None:
        """Take leave of the server, so that it does not log that somebody was lost. May be repeated."""
        try:
            with contextlib.suppress(OSError, err.MySQLError):
                await self.ensure_closed()
        finally:
            self.close()


async def connect(folders: ClusterFolders) -> Connection:
    """Answer a new connection. Raises EngineProblem, NotReady."""
    account = administrator.read(folders.conf)
    connection = Connection(
        unix_socket=str(folders.socket / configuration.SOCKET),
        user=account.name.value,
        password=account.password.value,
        connect_timeout=CONNECT_TIMEOUT_S,
        charset="utf8mb4",
        autocommit=True,
        client_flag=CLIENT.MULTI_STATEMENTS,
        init_command="SET SESSION " + ", ".join(_SETTINGS),
    )
    try:
        await connection._connect()  # what aiomysql.connect does, with a connection of its own class
    except (err.MySQLError, OSError) as error:
        connection.close()
        raise explain(error) from error
    except BaseException:
        connection.close()
        raise
    return connection


async def forget_log_before(folders: ClusterFolders, name: str) -> None:
    """Have the server remove the files of its binary log that are older than this one."""
    async with connected(folders) as connection:
        await connection.tell(f"PURGE BINARY LOGS TO '{name}'")


@asynccontextmanager
async def connected(folders: ClusterFolders) -> AsyncIterator[Connection]:
    """Have a connection for the block, within which the library's errors become EngineProblem and NotReady."""
    connection = await connect(folders)
    try:
        with explained():
            yield connection
    except BaseException:
        # Given up in the middle of an answer, the connection is of no use any more.
        connection.close()
        raise
    await connection.leave()


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the library's errors within the block into EngineProblem and NotReady."""
    try:
        yield
    except (err.MySQLError, OSError) as error:
        raise explain(error) from error


def explain(error: Exception) -> errors.EngineProblem:
    """Answer the error of the tree: NotReady where the engine says that it takes nobody now, else EngineProblem."""
    if error.args and error.args[0] == _SHUTTING_DOWN:
        return errors.NotReady(f"The engine takes no connections now: {error}.")
    return errors.EngineProblem(f"The engine does not answer its administrator: {error}.")


async def checkpoint(folders: ClusterFolders) -> None:
    """Have the changed pages of InnoDB written; see Engine.checkpoint.

    MariaDB has no statement for it. With no page allowed to stay changed, its page cleaner writes them at once, as fast
    as it may, which for this is as fast as it can. If the caller is cancelled the settings are as before.
    """
    async with connected(folders) as connection:
        before = await _variables(connection, tuple(_RAPID))
        try:
            await _set_global(connection, _RAPID)
            async with asyncio.timeout(_CHECKPOINT_WITHIN_S):
                while await _dirty_share(connection) > _DIRTY_SHARE:  # noqa: ASYNC110 - the server tells of no end
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise errors.EngineProblem(
                f"The engine has not written its changed pages for {_CHECKPOINT_WITHIN_S:g} s."
            ) from error
        finally:
            # On a connection of its own: on the other an answer may be outstanding.
            await asyncio.shield(asyncio.ensure_future(_restore(folders, dict(reversed(before.items())))))


async def _restore(folders: ClusterFolders, settings: Mapping[str, str]) -> None:
    async with connected(folders) as connection:
        await _set_global(connection, settings)


async def set_password(folders: ClusterFolders, role: str, verifier: Secret) -> None:
    """Give an account a password by its verifier; see Engine.set_password. Raises ValueError when it is no verifier.

    It goes to the binary log like any change of an account, with the verifier as it is in the account.
    """
    verifiers.check(verifier)
    user = privileges.quote_account(role, "%")
    async with connected(folders) as connection:
        await connection.tell(f"ALTER USER {user} IDENTIFIED VIA mysql_native_password USING '{verifier.value}'")


async def reload(folders: ClusterFolders, wanted: Mapping[str, str], *, renew_tls: bool) -> None:
    """Have the server take these global variables, as far as they differ, and its certificate; see Engine.reload."""
    async with connected(folders) as connection:
        present = await _variables(connection, tuple(wanted))
        for name, value in wanted.items():
            if name in present and present[name].upper() != value.upper():
                await _try(connection, f"SET GLOBAL {name} = {value}")
        if renew_tls:
            await _try(connection, "FLUSH NO_WRITE_TO_BINLOG SSL")
        await _await_resize(connection)


async def end_sessions(folders: ClusterFolders, ids: Sequence[int]) -> None:
    """End the sessions with these numbers of SHOW PROCESSLIST; passes over those that are gone."""
    async with connected(folders) as connection:
        for number in ids:
            try:
                await connection.tell(f"KILL CONNECTION {number}")
            except err.MySQLError as error:
                if error.args[0] != _NO_SUCH_THREAD:
                    raise


async def _try(connection: Connection, statement: str) -> None:
    try:
        await connection.tell(statement)
    except err.MySQLError as error:
        if error.args[0] in _LOST:
            raise
        _log.warning("the engine does not take a setting", statement=statement, error=str(error))


async def _set_global(connection: Connection, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        await connection.tell(f"SET GLOBAL {name} = {value}")


async def _variables(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """Answer the global variables of these names that this version has, in their order."""
    listed = ", ".join(f"'{name}'" for name in names)
    rows = await connection.ask(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({listed})")
    found = {row["Variable_name"]: row["Value"] for row in rows}
    return {name: found[name] for name in names if name in found}


async def _dirty_share(connection: Connection) -> float:
    rows = await connection.ask("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages%'")
    pages = {row["Variable_name"]: int(row["Value"]) for row in rows}
    return pages["Innodb_buffer_pool_pages_dirty"] / max(pages["Innodb_buffer_pool_pages_total"], 1)


async def _await_resize(connection: Connection) -> None:
    """Wait until the buffer pool has the size that it was told to have, where that goes on beside the statement."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_RESIZE_WITHIN_S):
            while await _is_resizing(connection):  # noqa: ASYNC110 - the server tells of no end
                await asyncio.sleep(_POLL_S)


async def _is_resizing(connection: Connection) -> bool:
    rows = await connection.ask("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_resize_status'")
    said = rows[0]["Value"] if rows else ""
    # "Completed resizing buffer pool at …", "Size did not change", or a failure's words; nothing before the first.
    return bool(said) and said.startswith(("Resizing", "Withdrawing", "Latching", "Resizing also", "Disabling"))
