"""Capacity changes under sessions that have everything open, follows the load, and never costs anybody anything."""

import re
import resource
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from e2e.engine_groups import count_killed, expected, has_settings, needs_limits, read_held
from e2e.loads import counting, make_quick_role
from e2e.turned import Turned, told
from fix_home import DISK, running_for_a_file
from harness import Server
from waiting import wait_until
from zorya.core.capacity import Acu, round_up
from zorya.scaling import needs

MIB = 1024**2
ACU = Acu(memory_bytes=2048 * MIB, cores=0.25)
SMALL = Acu(memory_bytes=128 * MIB, cores=0.25)

CHANGES = [
    up if is_up else down
    for up, down in zip((2, 2.5, 3, 3.5, 4) * 4, (0.5, 1, 1.5, 1) * 5, strict=True)
    for is_up in (True, False)
]


SESSIONS = 1000
SHORT_CONNECTIONS = 320

WORK_UNTIL_TOLD = """
CREATE TABLE told (); CREATE TABLE lines (line text);
CREATE FUNCTION work_until_told() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint := 0;
BEGIN
    WHILE NOT EXISTS (SELECT FROM told) LOOP
        FOR i IN 1..1000 LOOP n := n + 1; END LOOP;
    END LOOP;
    RETURN n;
END $$
"""


@pytest.fixture
def server(stopped_server: Server) -> Server:
    """A server that the test starts; its clusters do not sleep by themselves."""
    stopped_server.env |= {"ZORYA_PAUSE_AFTER": "never", "ZORYA_FREEZE_AFTER": "never"}
    return stopped_server


@pytest.fixture
def _enough_descriptors() -> Iterator[None]:
    """Let this process, and the server that it starts, open as many files as the host allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * SESSIONS:
        pytest.skip(f"this host allows a process {hard} open files; {2 * SESSIONS} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Belongings:
    """A session that has something of everything that a session can have, in an open transaction."""

    def __init__(self, url: str) -> None:
        self.session = psycopg.connect(url)
        self.pid = self.session.info.backend_pid
        run = self.session.execute
        run("SET work_mem = '17MB'; SET application_name = 'rich'; SELECT pg_advisory_lock(4711)")
        run("CREATE TEMPORARY TABLE mine AS SELECT g FROM generate_series(1, 1000) AS g")
        run("PREPARE next (int) AS SELECT $1 + 1")
        run("DECLARE held CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 1000) AS g")
        self.session.commit()
        run("FETCH 10 FROM held")
        run("INSERT INTO lines VALUES ('before')")
        run("SAVEPOINT here")
        run("INSERT INTO lines VALUES ('undone')")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def ask(self, sql: str) -> list[Any]:
        return self.session.execute(sql).fetchall()

    def check(self) -> None:
        """Use all of it."""
        assert self.ask("SELECT pg_backend_pid()") == [(self.pid,)]
        assert self.ask("SELECT current_setting('work_mem'), current_setting('application_name')") == [("17MB", "rich")]
        assert self.ask("SELECT count(*), sum(g) FROM mine") == [(1000, 500500)]
        assert self.ask("EXECUTE next (41)") == [(42,)]
        assert self.ask("FETCH ALL FROM held") == [(number,) for number in range(11, 1001)]
        self.session.execute("ROLLBACK TO here")
        self.session.commit()
        assert self.ask("SELECT line FROM lines") == [("before",)]
        assert self.ask("SELECT pg_advisory_unlock(4711)") == [(True,)]


class Asked:
    """A statement that a session works at meanwhile; it is canceled when the block ends before it has its answer."""

    def __init__(self, url: str, sql: str) -> None:
        self._sql = sql
        self._session = psycopg.connect(url, autocommit=True)
        self._answer: tuple[Any, ...] | None = None
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with suppress(psycopg.errors.QueryCanceled):
            self._answer = self._session.execute(self._sql).fetchone()

    @property
    def is_answered(self) -> bool:
        return not self._thread.is_alive()

    def answer(self) -> Any:
        """Wait for the answer."""
        self._thread.join(60)
        assert self._answer is not None
        return self._answer[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._session.cancel()
        self._thread.join(60)
        self._session.close()


@needs_limits
@pytest.mark.parametrize("burst", [True, False], ids=["burst", "no burst"])
def test_nothing_of_a_session_is_disturbed_by_changes_of_capacity(server: Server, burst: bool) -> None:
    server.start(ZORYA_BURST=str(burst).lower())
    with psycopg.connect(server.url(), autocommit=True) as other:
        other.execute(WORK_UNTIL_TOLD)
        with Belongings(server.url()) as rich, Asked(server.url(), "SELECT work_until_told()") as working:
            server.api.set_capacity("main", 1)
            pid = server.show()["engine_pid"]
            for capacity in CHANGES:
                shown = server.api.set_capacity("main", capacity)
                assert shown["capacity"] == capacity
                assert read_held(pid) == expected(ACU, capacity, 4, burst=burst)
                wait_until(partial(has_settings, other, ACU, capacity), "the settings follow")
                assert other.execute("SELECT pg_try_advisory_lock(4711)").fetchone() == (False,)
            assert not working.is_answered
            other.execute("INSERT INTO told DEFAULT VALUES")
            counted = working.answer()
            assert (counted > 0, counted % 1000) == (True, 0)
            rich.check()
        assert server.show()["engine_pid"] == pid
    check_told(server, [1, *CHANGES])


def check_told(server: Server, capacities: Sequence[float]) -> None:
    """Check what `show` and the events say of the last changes, which were these, by hand."""
    shown = server.json("show", "main")
    last = shown["last_scaling"]
    assert shown["capacity"] == capacities[-1]
    assert (last["from_acu"], last["to_acu"], last["part"]) == (*capacities[-2:], "hand")
    assert last["reason"] == "It was set by hand."
    assert 0 < last["took_s"] < 60
    steps = [f"From {before:g} to {after:g} ACUs" for before, after in pairwise(capacities)]
    for kind, words in (("0141", r"(From .* ACUs): It was set"), ("0142", r"(From .* ACUs) in \d+ ms: It was set")):
        wait_until(partial(ends_with, server, kind, words, steps), f"every {kind} is told")


def ends_with(server: Server, kind: str, words: str, steps: Sequence[str]) -> bool:
    return told(server, kind, words)[-len(steps) :] == steps


@needs_limits
def test_capacity_follows_the_load_within_bounds_that_change_meanwhile(server: Server) -> None:
    turned = Turned(server)
    server.start()
    server.run("scale", "main", "--max-capacity", "8")
    server.api.resume("main")
    seen: list[tuple[float, float]] = []

    def show() -> Any:
        shown = server.show()
        seen.append((shown["capacity"], shown["max_capacity"]))
        return shown

    with counting(server.url(), sessions=1):
        grown = wait_until(lambda: (found := show())["capacity"] >= 2 and found, "it grows with the load")
        assert grown["last_scaling"]["part"] == "cpu"
        assert "cores" in grown["last_scaling"]["reason"]
        wait_until(lambda: show()["load"]["at_work"] == 1, "its session is seen at work")
        shown = server.json("scale", "main", "--max-capacity", "1.5")
        assert shown["capacity"] == 1.5
        held = read_held(shown["engine_pid"])
        assert held == expected(ACU, 1.5, 1.5, burst=True)
        wait_until(lambda: show()["load"]["cores"] < 0.5, "it is held to 1.5 ACUs")
        server.api.modify("main", {"max_capacity": 8})
        wait_until(lambda: show()["capacity"] >= 2, "it grows again")
    assert all(0.5 <= capacity <= most for capacity, most in seen)
    turned.pass_s(70)
    shown = wait_until(lambda: (found := show())["capacity"] == 0.5 and found, "it shrinks when it was quiet")
    assert read_held(shown["engine_pid"]) == expected(ACU, 0.5, 8, burst=True)


@needs_limits
@pytest.mark.usefixtures("_enough_descriptors")
def test_thousand_idle_sessions_cost_the_memory_that_they_need_and_stay_when_capacity_changes(server: Server) -> None:
    turned = Turned(server)
    server.start()
    server.run("scale", "main", "--max-capacity", "8")
    login = make_quick_role(server)
    with ThreadPoolExecutor(8) as threads, ExitStack() as sessions:
        opened = list(threads.map(lambda _: psycopg.connect(**login), range(SESSIONS)))
        for session in opened:
            sessions.enter_context(closing(session))
        wait_until(lambda: server.show()["sessions"] == SESSIONS, "all sessions are seen")
        turned.pass_s(70)

        def rests() -> Any:
            shown = server.show()
            needed = round_up(shown["load"]["in_use_bytes"] / needs.MEMORY_CHOSEN / ACU.memory_bytes)
            return shown["capacity"] == needed < 4 and shown["load"]["at_work"] == 0 and shown

        shown = wait_until(rests, "they cost what memory they need")
        for capacity in (8, shown["capacity"], 4, 2, 6):
            assert server.api.set_capacity("main", capacity)["capacity"] == capacity
        expected_pids = [session.info.backend_pid for session in opened]
        answers = threads.map(lambda session: session.execute("SELECT pg_backend_pid()").fetchone()[0], opened)
        assert list(answers) == expected_pids
        assert server.show()["sessions"] == SESSIONS
    serve_fork_storm(server, login)
    assert server.show()["engine_pid"] == shown["engine_pid"]


def serve_fork_storm(server: Server, login: dict[str, Any]) -> None:
    """Check that short connections are all served while the capacity changes all the time."""

    def visit(number: int) -> int:
        with psycopg.connect(**login) as session:
            row = session.execute("SELECT %s::int", [number]).fetchone()
        return int(row[0]) if row else -1

    with ThreadPoolExecutor(16) as threads:
        visits = [threads.submit(visit, number) for number in range(SHORT_CONNECTIONS)]
        changes = 0
        for capacity in cycle((4, 2.5, 8, 3)):
            assert server.api.set_capacity("main", capacity)["capacity"] == capacity
            changes += 1
            if all(one.done() for one in visits):
                break
        assert [one.result() for one in visits] == list(range(SHORT_CONNECTIONS))
    assert changes > 10


def hold_a_sort(url: str, megabytes: int) -> psycopg.Connection[Any]:
    """Answer a session whose sort stays in its memory, all but its first row still to be fetched."""
    session = psycopg.connect(url)
    session.execute("SET work_mem = '1GB'")
    session.execute(
        "DECLARE sorted CURSOR FOR SELECT n, repeat('x', 1000) AS line FROM generate_series(%s, 1, -1) AS n ORDER BY n",
        [megabytes * 1000],
    )
    assert session.execute("FETCH sorted").fetchone() == (1, "x" * 1000)
    return session


def hold_a_temporary_table(url: str, megabytes: int) -> psycopg.Connection[Any]:
    """Answer a session whose temporary table is in its own buffers."""
    session = psycopg.connect(url)
    session.execute(f"SET temp_buffers = '{megabytes + 8}MB'")
    session.execute(
        "CREATE TEMPORARY TABLE mine AS SELECT n, repeat('y', 1000) AS line FROM generate_series(1, %s) AS n",
        [megabytes * 1000],
    )
    return session


@needs_limits
def test_nothing_is_ended_for_memory_when_capacity_shrinks_below_what_sessions_hold(templates: Path) -> None:
    with running_for_a_file(templates, DISK, ZORYA_ACU_MEMORY_MIB="128", ZORYA_FREEZE_AFTER="never") as server:
        check_shrinking(server)


def check_shrinking(server: Server) -> None:
    url = server.url()
    with closing(hold_a_sort(url, 110)) as sorting, closing(hold_a_temporary_table(url, 40)) as keeping:
        shown = server.show()
        pid = shown["engine_pid"]
        server.api.set_capacity("main", 4)
        assert server.api.set_capacity("main", 0.5)["capacity"] == 0.5
        # What is in use does not fit: it has to come back, for its memory.
        shown = wait_until(lambda: (found := server.show())["capacity"] >= 1.5 and found, "memory keeps it up")
        assert shown["last_scaling"]["part"] == "memory"
        # And now it may not.
        server.api.modify("main", {"max_capacity": 1})
        assert server.show()["capacity"] == 1
        assert read_held(pid).hard_bytes > 150 * MIB
        (unevenly,) = wait_until(lambda: told(server, "0149"), "it is told that memory is in the way")
        assert re.search(r"to 1 ACUs in .* MiB are in use, and .* MiB of them cannot be taken back", unevenly)
        # In parts: the engine would keep a second copy of all the rows that are fetched at once.
        fetched: list[int] = []
        while rows := sorting.execute("FETCH 5000 FROM sorted").fetchall():
            fetched += [number for number, _ in rows]
        assert fetched == list(range(2, 110_001))
        assert keeping.execute("SELECT count(*), sum(n), sum(length(line)) FROM mine").fetchone() == (
            40_000,
            800_020_000,
            40_000_000,
        )
        assert count_killed(pid) == 0
    wait_until(lambda: read_held(pid) == expected(SMALL, 1, 1, burst=True), "the limits follow what is given back")
    assert count_killed(pid) == 0
    assert server.show()["engine_pid"] == pid
    assert "1014" not in server.events()
