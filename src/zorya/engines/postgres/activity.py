"""What a running PostgreSQL is doing, asked over one connection that is kept for as long as the engine runs.

`pg_stat_activity` does not show a client before it is authenticated; it is a process of the engine all the same, and
one that the view does not list.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.rows import class_row

from zorya.engines.base import Activity
from zorya.engines.postgres import admin

_PROC = Path("/proc")

_BOOTSTRAP_SUPERUSER = 10
"""The role that initdb makes, here Zorya's administrator (BOOTSTRAP_SUPERUSERID of pg_authid.dat)."""

_QUERY = f"""
WITH processes AS (
    SELECT pid, datid, backend_type, state, state_change, wait_event_type, wait_event, client_addr,
           backend_type IN ('client backend', 'walsender')
           AND (usesysid = {_BOOTSTRAP_SUPERUSER} AND application_name = '{admin.APPLICATION}') IS NOT TRUE
           AND (backend_type = 'walsender' AND client_addr IS NULL) IS NOT TRUE
           AS is_session
    FROM pg_catalog.pg_stat_activity
)
SELECT pg_catalog.array_agg(pid) AS listed,
       coalesce(pg_catalog.array_agg(pid) FILTER (WHERE is_session), '{{}}') AS sessions,
       pg_catalog.count(*) FILTER (WHERE is_session AND client_addr IS NULL) AS local,
       pg_catalog.count(*) FILTER (
           WHERE is_session AND (state IS DISTINCT FROM 'idle' OR wait_event IS DISTINCT FROM 'ClientRead')
       ) AS at_work,
       pg_catalog.count(*) FILTER (WHERE is_session AND state LIKE 'idle in transaction%') AS in_transaction,
       pg_catalog.count(*) FILTER (WHERE is_session AND wait_event_type = 'Lock') AS locked_out,
       pg_catalog.min(backend_type) FILTER (
           WHERE backend_type NOT IN ('client backend', 'walsender') AND wait_event_type IS DISTINCT FROM 'Activity'
       ) AS worker,
       pg_catalog.max(state_change) FILTER (WHERE is_session)::pg_catalog.text AS newest,
       pg_catalog.date_part(
           'epoch', pg_catalog.clock_timestamp() - pg_catalog.max(state_change) FILTER (WHERE is_session)
       ) AS idle_s,
       (
           SELECT coalesce(pg_catalog.array_agg(ARRAY[
               datid::pg_catalog.int8,
               pg_catalog.pg_stat_get_db_blocks_fetched(datid),
               pg_catalog.pg_stat_get_db_blocks_hit(datid)
           ]), '{{}}')
           FROM (SELECT DISTINCT datid FROM processes WHERE is_session AND datid IS NOT NULL) AS databases
       ) AS blocks,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN true
            ELSE pg_catalog.pg_current_wal_insert_lsn() <= pg_catalog.pg_current_wal_flush_lsn() END AS log_flushed
FROM processes
"""  # noqa: S608 - both are constants
"""Zorya's own connections are no sessions; nobody else can be its administrator, whatever name they give themselves.

Roles and databases are told by number: by name a table would be read, and a session that has read one has statistics to
report, for which a timer wakes it 10 s later, frozen or not. The counters of blocks are in shared memory.

A session that waits with the event ClientRead has read all that its client has sent and needs more to do anything.

A process of the engine's own that waits for something to do has the wait event type Activity: all of them do while the
engine rests. Parallel and autovacuum workers and a checkpoint under way do not, nor does replication: a walsender is
never `idle`. (PostgreSQL manual, "Wait Events of Type Activity" and "Client".)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What the question is answered with. Those that wait `in_transaction` for their client are also `at_work`."""

    listed: list[int]
    sessions: list[int]
    local: int
    at_work: int
    in_transaction: int
    locked_out: int
    worker: str | None
    newest: str | None
    idle_s: float | None
    blocks: list[list[int]]
    """For each database with sessions its number, the blocks that were needed, and of them those that were there."""
    log_flushed: bool


@dataclass(kw_only=True, slots=True)
class BlockCount:
    """Blocks that were needed since it was made, of all databases together, from what each of them has counted."""

    hit: int = 0
    read: int = 0
    _last: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, database: int, needed: int, hit: int) -> None:
        """Count what a database has come to since it was last told of; the first time it is only noted.

        What it had counted before its first session came would else pass for work of this moment. A count that fell was
        reset, and has begun anew.
        """
        last_hit, last_read = self._last.get(database, (hit, needed - hit))
        read = needed - hit
        self.hit += hit - last_hit if hit >= last_hit else hit
        self.read += read - last_read if read >= last_read else read
        self._last[database] = (hit, read)


class Watcher:
    """Asks one engine. Implements `engines.base.Watcher`."""

    def __init__(self, socket: Path, port: int) -> None:
        """Connect at the first question."""
        self._socket = socket
        self._port = port
        self._connection: psycopg.AsyncConnection | None = None
        self._blocks = BlockCount()

    async def observe(self, workers: Set[int], first: int) -> Activity:
        """See engines.base.Watcher.observe. The workers are processes."""
        known = frozenset(workers) - {first}
        answer = await self._ask()
        newcomers = {pid for pid in known.difference(answer.listed) if not _is_helper(pid)}
        for database, needed, hit in answer.blocks:
            self._blocks.add(database, needed, hit)
        return Activity(
            clients=newcomers.union(answer.sessions),
            helpers=known.union(answer.listed) - newcomers.union(answer.sessions),
            busy=_busy(answer, len(newcomers)),
            mark=f"{len(answer.sessions)} {answer.newest}",
            idle_s=answer.idle_s,
            at_work=answer.at_work,
            waiting=answer.locked_out,
            blocks_hit=self._blocks.hit,
            blocks_read=self._blocks.read,
            # A process of its own that works is seen to. A record that it logs now and then (the background writer
            # does, up to 15 s after a session has written) is no work to wait for, here or in the copies that get it.
            own_work=0,
            log_flushed=answer.log_flushed,
        )

    async def end_sessions(self, clients: Set[int], workers: Callable[[], Set[int]]) -> None:
        """See engines.base.Watcher.end_sessions. SIGTERM is how a process is asked to end its work in order."""
        for pid in clients:
            _ask_to_end(pid, workers)
        await asyncio.sleep(0)

    async def _ask(self) -> _Answer:
        try:
            if self._connection is None:
                self._connection = await admin.connect(self._socket, self._port)
            cursor = self._connection.cursor(row_factory=class_row(_Answer))
            answer = await (await cursor.execute(_QUERY)).fetchone()
        except psycopg.Error as error:
            await self.close()
            raise admin.explain(error) from error
        except BaseException:
            # Given up in the middle of an answer, the connection is of no use any more.
            await self.close()
            raise
        assert answer is not None, "an aggregate answers one row"
        return answer

    async def close(self) -> None:
        """See engines.base.Watcher.close."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _ask_to_end(pid: int, workers: Callable[[], Set[int]]) -> None:
    try:
        # Opened before it is looked at, so that what is looked at is what is signalled.
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if pid in workers():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGTERM)
    finally:
        os.close(process)


def _busy(answer: _Answer, newcomers: int) -> str:
    """Say what keeps it from resting."""
    if newcomers:
        return "A client is being let in."
    if answer.at_work > answer.in_transaction:
        return f"Sessions that are at work: {answer.at_work - answer.in_transaction}."
    if answer.in_transaction:
        return f"Sessions that wait within a transaction: {answer.in_transaction}."
    if answer.worker:
        return f"Its {answer.worker} works."
    return "A session of the host's administrator is open beside the endpoint." if answer.local else ""


def _is_helper(pid: int) -> bool:
    """Whether the process is one that the view never lists (the statistics collector of PostgreSQL 14), or is gone."""
    try:
        title = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return True
    return not title or title.rstrip(b"\0 ").endswith(b": stats collector")
