"""What a real server says that it does: sessions, rest, and what keeps it from resting."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Set
from typing import Any

import pytest

from engines.mariadb.clusters import Cluster, rows
from zorya.engines.base import Activity
from zorya.engines.mariadb.activity import Watcher

WITHIN_S = 20


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Cluster]:
    """One running engine for all these tests."""
    cluster.start()
    with cluster.connect() as session:
        rows(session, "CREATE TABLE t (id INT PRIMARY KEY, word TEXT)")
        rows(session, "INSERT INTO t VALUES (1, 'one'), (2, 'two')")
    yield cluster
    cluster.kill()


@pytest.fixture
async def watcher(server: Cluster) -> AsyncIterator[Watcher]:
    made = server.engine.watcher(server.folders)
    await _until(server, made, lambda seen: not seen.clients)
    yield made
    await made.close()


async def _until(server: Cluster, watcher: Watcher, is_it: Callable[[Activity], bool]) -> Activity:
    """Answer the first thing it says of which that holds."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            seen = await server.observe(watcher)
            if is_it(seen):
                return seen
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def _meanwhile(session: Any, statement: str) -> Iterator[None]:
    """Have a statement run beside the block."""
    thread = threading.Thread(target=rows, args=(session, statement))
    thread.start()
    yield
    thread.join()


async def test_it_rests_without_clients_when_nobody_is_there(server: Cluster, watcher: Watcher) -> None:
    seen = await _until(server, watcher, lambda seen: seen.log_flushed)
    assert (seen.clients, seen.busy, seen.idle_s, seen.at_work, seen.mark) == (frozenset(), "", None, 0, "")
    assert seen.helpers
    assert server.pid not in seen.helpers


async def test_the_thread_that_asks_is_a_helper_from_the_first_question_on(server: Cluster) -> None:
    watcher = Watcher(server.folders)
    try:
        seen = await server.observe(watcher)
        # Its connection is younger than the threads that the question was put with.
        assert server.engine.workers({server.pid}, server.pid) <= seen.helpers | seen.clients | {server.pid}
    finally:
        await watcher.close()


async def test_it_rests_with_a_client_when_the_session_waits(server: Cluster, watcher: Watcher) -> None:
    with server.connect() as session:
        rows(session, "SELECT 1")
        seen = await _until(server, watcher, lambda seen: not seen.busy)
        (client,) = seen.clients
        assert client in server.engine.workers({server.pid}, server.pid)
        assert client not in seen.helpers
        assert seen.idle_s is not None
    await _until(server, watcher, lambda seen: not seen.clients)


async def test_the_mark_changes_when_a_session_does_something_and_only_then(server: Cluster, watcher: Watcher) -> None:
    with server.connect() as session:
        before = await _until(server, watcher, lambda seen: not seen.busy)
        assert (await _until(server, watcher, lambda seen: (seen.idle_s or 0) > 0.5)).mark == before.mark
        rows(session, "SELECT 1")
        after = await _until(server, watcher, lambda seen: not seen.busy)
        assert after.mark != before.mark
        await _until(server, watcher, lambda seen: (seen.idle_s or 0) > 0.5)
        session.ping()
        assert (await _until(server, watcher, lambda seen: not seen.busy)).mark != after.mark


async def test_it_is_busy_when_a_statement_runs(server: Cluster, watcher: Watcher) -> None:
    with server.connect() as session, _meanwhile(session, "SELECT SLEEP(1)"):
        # Before the list says so, the thread may be seen at work.
        seen = await _until(server, watcher, lambda seen: seen.at_work == 1)
        assert (seen.busy, seen.idle_s) == ("Sessions that are at work: 1.", 0.0)


async def test_it_is_busy_when_the_client_does_not_take_the_result(server: Cluster, watcher: Watcher) -> None:
    with server.connect() as session:
        # More than the kernel's buffers take.
        session.query = None
        session._execute_command(3, "SELECT REPEAT('x', 30000000)")
        await _until(server, watcher, lambda seen: seen.at_work == 1)
        assert (await server.observe(watcher)).busy == "Sessions that are at work: 1."
        session._read_query_result()


@pytest.mark.parametrize(
    ("begin", "busy"),
    [
        (["BEGIN", "SELECT * FROM t"], "Sessions that wait within a transaction: 1."),
        (["BEGIN", "UPDATE t SET word = 'x' WHERE id = 1"], "Sessions that wait within a transaction: 1."),
        (["START TRANSACTION WITH CONSISTENT SNAPSHOT"], "Sessions that wait within a transaction: 1."),
        (["SET autocommit = 0", "SELECT * FROM t"], "Sessions that wait within a transaction: 1."),
        (["LOCK TABLES t READ"], "Sessions that hold a lock: 1."),
        (["LOCK TABLES t WRITE"], ("Sessions that hold a lock: 1.", "Sessions that wait within a transaction: 1.")),
        (["SELECT GET_LOCK('x', 1)"], "Sessions that hold a lock: 1."),
        (["HANDLER t OPEN"], "Sessions that hold a lock: 1."),
    ],
)
async def test_it_is_busy_when_a_waiting_session_holds_something(
    server: Cluster, watcher: Watcher, begin: list[str], busy: str | tuple[str, ...]
) -> None:
    with server.connect() as session:
        for statement in begin:
            rows(session, statement)
        assert (await server.observe(watcher)).busy
        # It may be known of a transaction that it has a lock before it is known what it is.
        await _until(server, watcher, lambda seen: seen.busy in ((busy,) if isinstance(busy, str) else busy))
        for _ in range(20):
            assert (await server.observe(watcher)).busy


async def test_a_session_waits_when_another_has_the_lock(server: Cluster, watcher: Watcher) -> None:
    with server.connect() as holder, server.connect() as other:
        rows(holder, "BEGIN")
        rows(holder, "UPDATE t SET word = 'x' WHERE id = 1")
        with _meanwhile(other, "UPDATE t SET word = 'y' WHERE id = 1"):
            seen = await _until(server, watcher, lambda seen: seen.waiting == 1)
            assert seen.at_work == 2
            rows(holder, "COMMIT")


async def test_a_client_is_counted_when_it_has_not_said_who_it_is(server: Cluster, watcher: Watcher) -> None:
    with socket.create_connection((server.address.host, server.address.port)):
        seen = await _until(server, watcher, lambda seen: bool(seen.clients))
        assert len(seen.clients) == 1
        assert seen.busy == "A client is being let in."
    await _until(server, watcher, lambda seen: not seen.clients)


async def test_sessions_end_when_they_are_told_to(server: Cluster, watcher: Watcher) -> None:
    with server.connect() as kept:
        gone = server.connect()
        seen = await _until(server, watcher, lambda seen: len(seen.clients) == 2)
        with server.connect_as_admin() as admin:
            numbers = dict(rows(admin, "SELECT ID, TID FROM information_schema.PROCESSLIST"))
        ending = {numbers[gone.thread_id()]}

        def workers() -> Set[int]:
            return server.engine.workers({server.pid}, server.pid)

        await watcher.end_sessions(ending | {-1}, workers)
        seen = await _until(server, watcher, lambda seen: len(seen.clients) == 1)
        assert seen.clients == {numbers[kept.thread_id()]}
        assert rows(kept, "SELECT 1") == [(1,)]
        await watcher.end_sessions(ending, workers)
        with contextlib.suppress(OSError):
            gone.close()


async def test_a_watcher_asks_anew_when_its_connection_was_lost(server: Cluster, watcher: Watcher) -> None:
    await server.observe(watcher)
    assert watcher._connection is not None
    watcher._connection._writer.transport.abort()
    with contextlib.suppress(Exception):
        await server.observe(watcher)
    assert (await server.observe(watcher)).busy == ""


async def test_pages_and_log_are_counted_when_there_is_work(server: Cluster, watcher: Watcher) -> None:
    before = await server.observe(watcher)
    with server.connect() as session:
        rows(session, "INSERT INTO t SELECT seq, REPEAT('x', 1000) FROM seq_10_to_2000")
    after = await _until(server, watcher, lambda seen: seen.log_flushed)
    assert after.own_work > before.own_work
    assert after.blocks_hit > before.blocks_hit
    assert after.cache_bytes >= before.cache_bytes > 0
    assert after.blocks_missed == 0
