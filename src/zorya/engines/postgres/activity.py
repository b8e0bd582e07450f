"""What a running PostgreSQL is doing, asked over one connection that is kept for as long as the engine runs.

`pg_stat_activity` does not show a client before it is authenticated; it is a process of the engine all the same, and
one that the view does not list.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import psycopg

from zorya.engines.base import Activity
from zorya.engines.postgres import admin

_PROC = Path("/proc")

_BOOTSTRAP_SUPERUSER = 10
"""The role that initdb makes, here Zorya's administrator (BOOTSTRAP_SUPERUSERID of pg_authid.dat)."""

_QUERY = f"""
WITH processes AS (
    SELECT pid, backend_type, state, state_change, wait_event_type, wait_event, client_addr,
           backend_type IN ('client backend', 'walsender')
           AND (usesysid = {_BOOTSTRAP_SUPERUSER} AND application_name = '{admin.APPLICATION}') IS NOT TRUE
           AS is_session
    FROM pg_catalog.pg_stat_activity
)
SELECT pg_catalog.array_agg(pid),
       coalesce(pg_catalog.array_agg(pid) FILTER (WHERE is_session), '{{}}'),
       pg_catalog.count(*) FILTER (WHERE is_session AND client_addr IS NULL),
       pg_catalog.count(*) FILTER (
           WHERE is_session AND (state IS DISTINCT FROM 'idle' OR wait_event IS DISTINCT FROM 'ClientRead')
       ),
       pg_catalog.count(*) FILTER (WHERE is_session AND state LIKE 'idle in transaction%'),
       pg_catalog.min(backend_type) FILTER (
           WHERE backend_type NOT IN ('client backend', 'walsender') AND wait_event_type IS DISTINCT FROM 'Activity'
       ),
       pg_catalog.max(state_change) FILTER (WHERE is_session)::pg_catalog.text,
       pg_catalog.date_part(
           'epoch', pg_catalog.clock_timestamp() - pg_catalog.max(state_change) FILTER (WHERE is_session)
       ),
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::pg_catalog.int8,
       pg_catalog.pg_current_wal_insert_lsn() <= pg_catalog.pg_current_wal_flush_lsn()
FROM processes
"""  # noqa: S608 - both are constants
"""Zorya's own connections are no sessions; nobody else can be its administrator, whatever name they give themselves.

Roles are told by number: by name a table would be read, and a session that has read one has statistics to report, for
which a timer wakes it 10 s later, frozen or not.

A session that waits with the event ClientRead has read all that its client has sent and needs more to do anything.

A process of the engine's own that waits for something to do has the wait event type Activity: all of them do while the
engine rests. Parallel and autovacuum workers and a checkpoint under way do not, nor does replication: a walsender is
never `idle`. (PostgreSQL manual, "Wait Events of Type Activity" and "Client".)
"""

_Row = tuple[list[int], list[int], int, int, int, str | None, str | None, float | None, int, bool]


class Watcher:
    """Asks one engine. Implements `engines.base.Watcher`."""

    def __init__(self, socket: Path, port: int) -> None:
        """Connect at the first question."""
        self._socket = socket
        self._port = port
        self._connection: psycopg.AsyncConnection | None = None

    async def observe(self, pids: Iterable[int], first: int) -> Activity:
        """See engines.base.Watcher.observe."""
        known = frozenset(pids) - {first}
        listed, sessions, local, active, waiting, worker, newest, idle_s, position, flushed = await self._ask()
        newcomers = {pid for pid in known.difference(listed) if not _is_helper(pid)}
        return Activity(
            clients=newcomers.union(sessions),
            helpers=known.union(listed) - newcomers.union(sessions),
            busy=_busy(active, waiting, len(newcomers), worker, local),
            mark=f"{len(sessions)} {newest}",
            idle_s=idle_s,
            log_position=position,
            log_flushed=flushed,
        )

    async def _ask(self) -> _Row:
        try:
            if self._connection is None:
                self._connection = await admin.connect(self._socket, self._port)
            cursor = await self._connection.execute(_QUERY)
            return cast(_Row, await cursor.fetchone())
        except psycopg.Error as error:
            await self.close()
            raise admin.explain(error) from error
        except BaseException:
            # Given up in the middle of an answer, the connection is of no use any more.
            await self.close()
            raise

    async def close(self) -> None:
        """See engines.base.Watcher.close."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _busy(active: int, waiting: int, newcomers: int, worker: str | None, local: int) -> str:
    """Say what keeps it from resting. `active` sessions do not rest; `waiting` of them wait within a transaction."""
    if newcomers:
        return "A client is being let in."
    if active > waiting:
        return f"Sessions that are at work: {active - waiting}."
    if waiting:
        return f"Sessions that wait within a transaction: {waiting}."
    if worker:
        return f"Its {worker} works."
    return "A session of the host's administrator is open beside the endpoint." if local else ""


def _is_helper(pid: int) -> bool:
    """Whether the process is one that the view never lists (the statistics collector of PostgreSQL 14), or is gone."""
    try:
        title = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return True
    return not title or title.rstrip(b"\0 ").endswith(b": stats collector")
