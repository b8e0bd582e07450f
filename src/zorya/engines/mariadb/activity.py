"""What a running MariaDB is doing, asked over one connection that is kept for as long as the engine runs.

A session is known by its thread: with one thread a connection and none kept for later, threads come and go with
sessions, and the list of processes has the kernel's number of each.

**At rest.** No session does anything when

1. its thread waits for its client: it sleeps in poll(2) for one descriptor, which is where it waits for a client and
   nowhere else; then, asked after that,
2. the list says `Sleep`, no transaction is open in InnoDB, and no table, metadata or user lock is held.

Neither alone would do. The list says `Sleep` still in the instant in which a command has been read and not begun, and
a thread sleeps in poll also while it waits within a statement, for its client to take a result or to send a file. What
InnoDB says of transactions may be of a moment before, if it was asked then; a session that has done something since
keeps the server from resting until it was asked anew.

Together with what a freeze compares (`compute.vigil`), no statement can be frozen half done. Take a session when its
thread was seen to wait, in step 1, after the bytes that had come for it were counted. It may have waited for the next
command. Then it needs bytes to begin one, and if any come, before or after step 2, the count has changed or they are
unread, and the freeze is given up. Or it waited within a statement and was done by step 2; then it might have had the
next command already, in a buffer of TLS or of compression, and begun it since. But a freeze also wants the `mark` to be
the same as when the rest began, and the mark has the number of the session's last query, which is given when a
statement begins: the session was asleep with the same number before step 1, so it was within none in step 1. A session
whose thread was not seen in step 1, since it had not begun, is work, and a connection without a thread yet is a new
descriptor of the first process, which the freeze compares too.

Where the plugin METADATA_LOCK_INFO cannot be loaded, sessions that hold locks and nothing else are not seen; frozen,
they keep them, and nobody else of the cluster runs who could wait for them.
"""

import asyncio
import contextlib
import math
import platform
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zorya.core import errors
from zorya.core.home import ClusterFolders
from zorya.engines.base import Activity
from zorya.engines.mariadb import admin, administrator

_PROC = Path("/proc")

_STATUS = (
    "SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'Innodb_lsn_current', 'Innodb_lsn_flushed',"
    " 'Innodb_buffer_pool_read_requests', 'Innodb_buffer_pool_reads', 'Innodb_buffer_pool_bytes_data',"
    " 'Innodb_buffer_pool_pages_free', 'Innodb_buffer_pool_pages_total')"
)
_SESSIONS = (
    "SELECT ID, TID, USER, HOST, COMMAND, STATE, TIME_MS, QUERY_ID, UNIX_TIMESTAMP(NOW(6))"
    " FROM information_schema.PROCESSLIST"
)
_TRANSACTIONS = "SELECT trx_mysql_thread_id, trx_state = 'LOCK WAIT' FROM information_schema.INNODB_TRX"
_LOCKS = "SELECT DISTINCT THREAD_ID FROM information_schema.METADATA_LOCK_INFO"
_HAS_LOCKS = (
    "SELECT COUNT(*) FROM information_schema.PLUGINS"
    " WHERE PLUGIN_NAME = 'METADATA_LOCK_INFO' AND PLUGIN_STATUS = 'ACTIVE'"
)

_ASK_AGAIN = 3
_ASK_AGAIN_S = 0.002
"""A connection that comes or goes is not in the list for far less than this; one of Zorya's own that has just ended
would else pass for a client."""

_FRESH_AFTER_S = 0.15
"""InnoDB answers with its transactions of then, if it was asked within the last 0.1 s (storage/innobase/trx/trx0i_s.cc,
CACHE_MIN_IDLE_TIME_NS). Nobody but Zorya may ask."""

_POLL: Mapping[str, frozenset[str]] = {"x86_64": frozenset({"7", "271", "219"}), "aarch64": frozenset({"73", "128"})}
"""The numbers of poll, ppoll and restart_syscall, by machine (asm/unistd.h).

The last is what the kernel goes on with after a freeze or a signal, with the arguments of the call that it goes on.
"""

_OWN_USERS = frozenset({"system user", "event_scheduler"})
"""Who the server's own threads are listed as; they have no connection."""

_KEPT_FREE = 1664
"""Pages: innodb_lru_scan_depth's default of 1536, and some that are on their way."""

_BLOCKS_A_PAGE = 2
"""Of 8 KiB, by which `Activity` counts, in a page of InnoDB."""

_SAME_MOMENT_S = 0.05
"""Within which two answers say the same of when a session was last active: they are worked out from times in ms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Session:
    """One connection in the list, but for Zorya's own."""

    number: int
    thread: int
    is_let_in: bool
    """Whether it has not yet said who it is."""
    is_local: bool
    sleeps: bool
    waits_for_lock: bool
    """For one that is not InnoDB's."""
    last_query: int
    silent_s: float
    active_at: float
    """When it last did something, in seconds of the server's wall clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    status: Mapping[str, int]
    sessions: Sequence[_Session]
    own: frozenset[int]
    """The threads of Zorya's connections, that which asked among them: it may be newer than the workers it is told."""
    holding: Set[int]
    """The numbers of the sessions that hold a lock."""
    transactions: Mapping[int, bool]
    """By the numbers of the sessions that are in one: whether it waits for a lock."""
    unsure: Set[int]
    """The sessions that have done something since it was known who was in a transaction."""

    @property
    def unlisted(self) -> int:
        """How many connections there are that the list does not have: not yet, or not any more."""
        return max(self.status["Threads_connected"] - len(self.sessions) - len(self.own), 0)

    def is_at_work(self, session: _Session) -> bool:
        return not session.sleeps or session.number in self.transactions


class Watcher:
    """Asks one engine. Implements `engines.base.Watcher`."""

    def __init__(self, folders: ClusterFolders) -> None:
        """Connect at the first question."""
        self._folders = folders
        self._admin = administrator.read(folders.conf).name.value
        self._connection: admin.Connection | None = None
        self._has_locks = False
        self._transactions: dict[int, bool] = {}
        self._asked_at_s = -math.inf
        """When InnoDB was last asked for its transactions."""
        self._known: dict[int, int] = {}
        """Each session's last query when it was."""
        self._active_at: dict[int, float] = {}
        self._numbers: dict[int, int] = {}
        self._read = 0
        self._missed = 0

    async def observe(self, workers: Set[int], first: int) -> Activity:
        """See engines.base.Watcher.observe."""
        waits = {thread: _waits_for_client(first, thread) for thread in workers if thread != first}
        answer = await self._ask()
        for _ in range(_ASK_AGAIN):
            if not answer.unlisted:
                break
            await asyncio.sleep(_ASK_AGAIN_S)
            answer = await self._ask()
        sessions = answer.sessions
        clients = {one.thread for one in sessions} | {-number for number in range(1, answer.unlisted + 1)}
        self._numbers = {one.thread: one.number for one in sessions}
        self._note_activity(sessions)
        return Activity(
            clients=clients,
            helpers=answer.own.union(workers) - clients - {first},
            busy=_busy(answer, waits),
            mark=" ".join(
                f"{one.number}:{one.last_query}:{self._active_at[one.number]:.3f}"
                for one in sorted(sessions, key=lambda one: one.number)
            ),
            idle_s=min((one.silent_s if one.sleeps else 0.0 for one in sessions), default=None),
            at_work=sum(1 for one in sessions if answer.is_at_work(one)),
            waiting=sum(1 for one in sessions if one.waits_for_lock or answer.transactions.get(one.number, False)),
            blocks_hit=_BLOCKS_A_PAGE
            * (answer.status["Innodb_buffer_pool_read_requests"] - answer.status["Innodb_buffer_pool_reads"]),
            blocks_read=_BLOCKS_A_PAGE * answer.status["Innodb_buffer_pool_reads"],
            cache_bytes=answer.status["Innodb_buffer_pool_bytes_data"],
            blocks_missed=_BLOCKS_A_PAGE * self._count_missed(answer.status),
            # Neither the purge of old versions nor its threads can be seen at work, but what they log.
            own_work=answer.status["Innodb_lsn_current"],
            log_flushed=answer.status["Innodb_lsn_flushed"] >= answer.status["Innodb_lsn_current"],
        )

    async def end_sessions(self, clients: Set[int], workers: Callable[[], Set[int]]) -> None:
        """See engines.base.Watcher.end_sessions."""
        there = workers()
        await admin.end_sessions(
            self._folders, [number for thread, number in self._numbers.items() if thread in clients & there]
        )

    async def close(self) -> None:
        """See engines.base.Watcher.close."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.leave()

    def _count_missed(self, status: Mapping[str, int]) -> int:
        """Answer the pages read for which another had to leave, since the watcher first asked.

        The page cleaner keeps some pages free at all times (innodb_lru_scan_depth), so a full pool has these.
        """
        read, total = status["Innodb_buffer_pool_reads"], status["Innodb_buffer_pool_pages_total"]
        kept_free = max(total // 16, min(_KEPT_FREE, total // 4))
        if self._read and status["Innodb_buffer_pool_pages_free"] <= kept_free:
            self._missed += max(read - self._read, 0)
        self._read = read
        return self._missed

    def _note_activity(self, sessions: Sequence[_Session]) -> None:
        """Keep when each session last did something, the same number for as long as it does nothing."""
        before = self._active_at
        self._active_at = {}
        for one in sessions:
            known = before.get(one.number)
            is_same = known is not None and abs(known - one.active_at) <= _SAME_MOMENT_S
            self._active_at[one.number] = known if known is not None and is_same else one.active_at

    async def _ask(self) -> _Answer:
        try:
            if self._connection is None:
                self._connection = await admin.connect(self._folders)
                with admin.explained():
                    self._has_locks = bool((await self._connection.ask_all([_HAS_LOCKS]))[0][0][0])
            now_s = asyncio.get_running_loop().time()
            is_fresh = now_s - self._asked_at_s >= _FRESH_AFTER_S
            # The list comes first: who was in a transaction then still is, or has done something since.
            questions = [_STATUS, _SESSIONS, *([_LOCKS] if self._has_locks else [])]
            with admin.explained():
                status, rows, *more = await self._connection.ask_all(questions + ([_TRANSACTIONS] if is_fresh else []))
        except BaseException:
            # Given up in the middle of an answer, the connection is of no use any more.
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            raise
        connected = [row for row in rows if row[4] != "Daemon" and row[2] not in _OWN_USERS]
        others = [row for row in connected if row[2] != self._admin]
        if len(others) == len(connected):
            raise errors.EngineProblem("The engine does not list its administrator.")
        sessions = [_session(row) for row in others]
        if is_fresh:
            self._asked_at_s = now_s
            self._transactions = {int(number): bool(waits) for number, waits in more.pop()}
            self._known = {one.number: one.last_query for one in sessions}
        return _Answer(
            status={name: int(value) for name, value in status},
            sessions=sessions,
            own=frozenset(int(row[1]) for row in connected if row[2] == self._admin),
            holding={int(row[0]) for found in more for row in found},
            transactions=self._transactions,
            unsure={one.number for one in sessions if self._known.get(one.number) != one.last_query},
        )


def _session(row: Sequence[Any]) -> _Session:
    number, thread, user, host, command, state, silent_ms, last_query, now = row
    silent_s = float(silent_ms) / 1000
    said = str(state or "")
    return _Session(
        number=int(number),
        # One that has no thread yet gets a number that none has.
        thread=int(thread) or -(2**32) - int(number),
        is_let_in=user == "unauthenticated user",
        is_local=host == "localhost",
        sleeps=command == "Sleep",
        waits_for_lock=said == "User lock" or (said.startswith("Waiting for") and "lock" in said),
        last_query=int(last_query),
        silent_s=silent_s,
        active_at=float(now) - silent_s,
    )


def _busy(answer: _Answer, waits: Mapping[int, bool]) -> str:
    """Say what keeps it from resting. `waits` is, for each thread there was, whether it waited for its client."""
    sessions = answer.sessions
    if answer.unlisted or any(one.is_let_in for one in sessions):
        return "A client is being let in."
    if any(one.thread not in waits for one in sessions):
        return "A session has just begun."
    at_work = sum(1 for one in sessions if not one.sleeps or not waits[one.thread])
    if at_work:
        return f"Sessions that are at work: {at_work}."
    in_transaction = sum(1 for one in sessions if one.number in answer.transactions)
    if in_transaction:
        return f"Sessions that wait within a transaction: {in_transaction}."
    holding = sum(1 for one in sessions if one.number in answer.holding)
    if holding:
        return f"Sessions that hold a lock: {holding}."
    if answer.unsure:
        return "A session has just done something."
    if any(one.is_local for one in sessions):
        return "A session of the host's administrator is open beside the endpoint."
    return ""


def _waits_for_client(first: int, thread: int) -> bool:
    """Whether a thread of the process `first` sleeps in poll(2) for one descriptor.

    The kernel says `running` of one that does not sleep (Documentation/filesystems/proc, `syscall`).
    """
    with contextlib.suppress(OSError):
        call, *arguments = (_PROC / str(first) / "task" / str(thread) / "syscall").read_text().split()
        polls = _POLL.get(platform.machine())
        return call != "running" and (polls is None or (call in polls and arguments[1] == "0x1"))
    return False
