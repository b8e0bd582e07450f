"""What follows the capacity, with real engines: nothing is refused, and no session is disturbed."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest

from engines.base_cluster import ACU
from engines.clusters import MAJORS, Cluster, Workshop
from waiting import wait_until
from zorya.core import commands
from zorya.core.capacity import Acu, Bounds
from zorya.engines.base import Activity
from zorya.engines.postgres import configuration, sizes

SMALL = Acu(memory_bytes=64 * 1024**2, cores=0.25)
LARGE = Acu(memory_bytes=2**50, cores=64)


@pytest.fixture(scope="module", params=MAJORS)
def serving(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Cluster]:
    """The cluster of one major version, with its engine started once for all tests."""
    found = workshop.cluster(request.param)
    found.start()
    yield found
    found.kill()


def set_capacity(cluster: Cluster, capacity: float, *, most: float = 256, acu: Acu = ACU) -> bool:
    """Write it, and answer whether that made a difference."""
    instance = replace(cluster.instance, capacity=capacity, bounds=Bounds(least=0.5, most=most), acu=acu)
    return asyncio.run(cluster.engine.write_capacity(instance))


def one(session: psycopg.Connection, query: str) -> object:
    row = session.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def shows(session: psycopg.Connection, setting: str, value: str) -> bool:
    return one(session, f"SHOW {setting}") == value


def test_settings_follow_in_an_open_session_and_leave_all_else_alone(serving: Cluster) -> None:
    set_capacity(serving, 1)
    serving.reload()
    with serving.connect(autocommit=False) as session:
        session.execute("CREATE TEMPORARY TABLE mine ON COMMIT DROP AS SELECT 42 AS n")
        session.execute("DECLARE mark CURSOR FOR SELECT generate_series(1, 9)")
        session.execute("SELECT pg_advisory_lock(7)")
        session.execute("SET LOCAL maintenance_work_mem = '3MB'")
        before = (one(session, "SELECT pg_backend_pid()"), one(session, "SELECT pg_current_xact_id()::text"))
        wait_until(partial(shows, session, "work_mem", "8MB"), "the session has the settings for 1 ACU")
        mark = serving.log_mark()
        for capacity, work_mem, workers in ((32, "256MB", "16"), (0.5, "4MB", "4")):
            assert set_capacity(serving, capacity)
            assert not set_capacity(serving, capacity)
            serving.reload()
            wait_until(partial(shows, session, "work_mem", work_mem), f"work_mem is {work_mem}")
            assert shows(session, "max_parallel_workers", workers)
            # What a session has chosen for itself stays.
            assert shows(session, "maintenance_work_mem", "3MB")
        assert one(session, "SELECT n FROM mine") == 42
        assert one(session, "FETCH mark") == 1
        assert one(session, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted") == 1
        after = (one(session, "SELECT pg_backend_pid()"), one(session, "SELECT pg_current_xact_id()::text"))
        assert after == before
    said = serving.log(mark)
    assert said.count("received SIGHUP") == 2
    assert not re.search("error|cannot|WARNING", said), said


def test_engine_takes_what_follows_at_any_capacity_without_a_start(serving: Cluster) -> None:
    with serving.connect_as_admin() as session:
        contexts: dict[str, str] = dict(session.execute("SELECT name, context FROM pg_settings").fetchall())
        following, fixed = (
            sizes.following(1, Bounds(least=1, most=1), ACU),
            sizes.at_start(Bounds(least=1, most=1), ACU),
        )
        assert {contexts[name] for name in following} == {"user", "sighup"}
        assert {contexts[name] for name in fixed} == {"postmaster"}
        for acu in (ACU, SMALL, LARGE):
            for capacity, most in ((0.5, 0.5), (0.5, 256), (7.5, 8), (256, 256)):
                set_capacity(serving, capacity, most=most, acu=acu)
                rows = session.execute(
                    "SELECT name, error FROM pg_file_settings WHERE sourcefile LIKE %s OR error IS NOT NULL",
                    (f"%/{configuration.CAPACITY_FILE}",),
                ).fetchall()
                assert dict(rows) == dict.fromkeys(following)


@pytest.mark.parametrize(("acu", "capacity", "buffers"), [(SMALL, 0.5, 1024), (LARGE, 256, 131072)])
def test_engine_takes_what_is_chosen_at_its_start(serving: Cluster, acu: Acu, capacity: float, buffers: int) -> None:
    instance = serving.instance
    chosen = sizes.at_start(Bounds(least=capacity, most=capacity), acu)
    # It reads all settings as at a start, and only says what one of them is, in blocks of 8 KiB.
    said = commands.run_blocking(
        [
            instance.installation.program("postgres"),
            *("-D", instance.folders.data),
            *("-c", f"config_file={instance.folders.conf / configuration.SETTINGS_FILE}"),
            *(f"--{name}={value}" for name, value in chosen.items()),
            *("-C", "shared_buffers"),
        ],
        account=instance.account,
    )
    assert int(said) == buffers


async def test_sessions_at_work_and_those_that_wait_are_counted(serving: Cluster) -> None:
    with serving.connect() as holder, serving.connect() as waiter:
        holder.execute("SELECT pg_advisory_lock(7)")
        async with watching(serving) as look:
            await until(look, lambda seen: (seen.at_work, seen.waiting) == (0, 0))
            asked = asyncio.create_task(asyncio.to_thread(waiter.execute, "SELECT pg_advisory_lock(7)"))
            await until(look, lambda seen: (seen.at_work, seen.waiting) == (1, 1))
            holder.execute("BEGIN")
            await until(look, lambda seen: (seen.at_work, seen.waiting) == (2, 1))
            holder.execute("SELECT pg_advisory_unlock(7)")
            await asked
            await until(look, lambda seen: (seen.at_work, seen.waiting) == (1, 0))


async def test_blocks_are_counted_from_the_first_look_on(serving: Cluster) -> None:
    with serving.connect() as session:
        session.execute("CREATE TABLE IF NOT EXISTS wide AS SELECT repeat('x', 900) FROM generate_series(1, 2000)")
        report(session)
        async with watching(serving) as look:
            first = await look()
            assert (first.blocks_hit, first.blocks_read) == (0, 0)
            session.execute("SELECT count(*) FROM wide")
            report(session)
            await until(look, lambda seen: seen.blocks_hit + seen.blocks_read >= 200)


def test_session_is_not_protected_and_told_without_what_it_did_when_it_is_killed(serving: Cluster) -> None:
    first = serving.process
    assert first is not None
    # Whatever the first process has been given, what it starts has not. To give it less than 0 takes a capability.
    Path(f"/proc/{first.pid}/oom_score_adj").write_text("100")
    mark = serving.log_mark()
    with serving.connect() as session:
        victim = session.info.backend_pid
        assert Path(f"/proc/{victim}/oom_score_adj").read_text() == "0\n"
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 'secret'")
    wait_until(lambda: serving.log(mark).count("ready to accept connections"), "the engine has recovered")
    assert serving.engine.killed_processes(serving.log(mark), first.pid) == ["server process"]
    assert serving.engine.killed_processes(serving.log(mark), victim) == []
    with serving.connect() as session:
        assert one(session, "SELECT 1") == 1


@asynccontextmanager
async def watching(cluster: Cluster) -> AsyncIterator[Callable[[], Awaitable[Activity]]]:
    """Answer what looks at the engine, as Zorya does."""
    assert cluster.process is not None
    first = cluster.process.pid
    watcher = cluster.engine.watcher(cluster.folders)
    try:
        yield lambda: watcher.observe(frozenset(), first)
    finally:
        await watcher.close()


async def until(look: Callable[[], Awaitable[Activity]], holds: Callable[[Activity], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds(await look()):  # noqa: ASYNC110 - the engine does not say when
            await asyncio.sleep(0.01)


def report(session: psycopg.Connection) -> None:
    """Have the session's counts added to the database's, before the next command is done."""
    session.execute("SELECT pg_stat_force_next_flush()")
    session.execute("SELECT 1")
