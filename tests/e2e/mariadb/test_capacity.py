"""The capacity of MariaDB clusters: it changes under sessions that have everything open, and costs nobody anything."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from e2e.engine_groups import count_killed, expected, needs_limits, read_held
from e2e.mariadb.clients import Asked, Load, begin, number_of, one, rows, run, start_with_shop
from e2e.turned import Turned, told
from harness import Server, is_gone, kill_engine, running
from held import Held
from waiting import wait_until
from zorya.core.capacity import Acu

MIB = 1024**2
ACU = Acu(memory_bytes=2048 * MIB, cores=0.25)
CHANGES = (2, 0.5, 3, 1, 4, 0.5, 2.5)


@pytest.fixture
def server(stopped_server: Server) -> Server:
    """A server that the test starts; its clusters do not sleep by themselves."""
    stopped_server.env |= {"ZORYA_PAUSE_AFTER": "never", "ZORYA_FREEZE_AFTER": "never"}
    return stopped_server


def buffer_pool(session: Any) -> int:
    return int(one(session, "SELECT @@innodb_buffer_pool_size"))


def has_settled(session: Any) -> bool:
    """Whether InnoDB is done with its last change of the buffer pool."""
    said = one(
        session,
        "SELECT VARIABLE_VALUE FROM information_schema.global_status"
        " WHERE VARIABLE_NAME = 'Innodb_buffer_pool_resize_status'",
    )
    return not said or "ompleted" in said


@needs_limits
def test_nothing_of_a_session_is_disturbed_by_changes_of_capacity(server: Server) -> None:
    start_with_shop(server)
    with server.mysql() as other, server.mysql(autocommit=False) as rich:
        run(other, "CREATE TABLE told (n int)", "CREATE TABLE `lines` (line text)")
        run(
            rich,
            "SET @mine = 7, SESSION sort_buffer_size = 1000000, SESSION tmp_table_size = 5242880",
            "CREATE TEMPORARY TABLE mine AS SELECT seq AS n FROM seq_1_to_1000",
            "PREPARE next FROM 'SELECT ? + 1'",
            "SELECT GET_LOCK('mine', 0)",
            "INSERT INTO `lines` VALUES ('before')",
            "SAVEPOINT here",
            "INSERT INTO `lines` VALUES ('undone')",
        )
        pid = server.show("shop")["engine_pid"]
        with Asked(server, "SELECT SUM(a.seq) FROM seq_1_to_4000 a, seq_1_to_4000 b") as working:
            for capacity in CHANGES:
                shown = server.api.set_capacity("shop", capacity)
                assert shown["capacity"] == capacity
                assert read_held(pid) == expected(ACU, capacity, 4, burst=True)
                assert one(other, "SELECT GET_LOCK('mine', 0)") == 0
            assert working.answer() == 4000 * 4001 // 2 * 4000
        assert rows(rich, "SELECT @mine, @@sort_buffer_size, @@tmp_table_size") == ((7, 1000000, 5242880),)
        assert rows(rich, "SELECT COUNT(*), SUM(n) FROM mine") == ((1000, 500500),)
        run(rich, "SET @x = 41")
        assert one(rich, "EXECUTE next USING @x") == 42
        run(rich, "ROLLBACK TO here")
        rich.commit()
        assert rows(other, "SELECT line FROM `lines`") == (("before",),)
        assert one(rich, "SELECT RELEASE_LOCK('mine')") == 1
        assert server.show("shop")["engine_pid"] == pid
    shown = server.json("show", "shop")
    last = shown["last_scaling"]
    assert (last["from_acu"], last["to_acu"], last["part"]) == (*CHANGES[-2:], "hand")
    assert "0142" in server.events("shop")


@needs_limits
def test_buffer_pool_follows_the_capacity_and_sessions_work_meanwhile(server: Server) -> None:
    start_with_shop(server)
    with server.mysql() as session:
        run(
            session,
            "CREATE TABLE t (id int PRIMARY KEY, x varchar(1000))",
            "INSERT INTO t SELECT seq, REPEAT('x', 1000) FROM seq_1_to_20000",
        )
        sizes: dict[float, set[int]] = {}
        with Load(server, "SELECT COUNT(*) FROM t WHERE x LIKE 'x%'", 20000, sessions=2):
            for capacity in (4, 0.5, 2, 4, 0.5):
                assert server.api.set_capacity("shop", capacity)["capacity"] == capacity
                wait_until(partial(has_settled, session), "the buffer pool has its size")
                sizes.setdefault(capacity, set()).add(wait_until(lambda: buffer_pool(session), "it has a size"))
        assert all(len(found) == 1 for found in sizes.values()), sizes
        by_capacity = [next(iter(sizes[capacity])) for capacity in (0.5, 2, 4)]
        assert by_capacity == sorted(set(by_capacity)), sizes
        assert by_capacity[0] <= ACU.memory_of(0.5) * 0.9
        assert by_capacity[-1] >= ACU.memory_of(4) * 0.2
    # It starts with what its capacity asks for.
    server.run("pause", "shop")
    with server.mysql() as session:
        assert buffer_pool(session) == by_capacity[0]


@needs_limits
def test_capacity_follows_the_load_within_bounds_that_change_meanwhile(server: Server) -> None:
    turned = Turned(server)
    start_with_shop(server)
    server.run("scale", "shop", "--max-capacity", "8")
    server.api.resume("shop")
    seen: list[tuple[float, float]] = []

    def show() -> Any:
        shown = server.show("shop")
        seen.append((shown["capacity"], shown["max_capacity"]))
        return shown

    with Load(server, "SELECT BENCHMARK(3000000, MD5('x'))", 0, sessions=1):
        # What the last change was is told once the engine has followed.
        grown = wait_until(
            lambda: (found := show())["capacity"] >= 2 and found["last_scaling"] and found, "it grows with the load"
        )
        assert grown["last_scaling"]["part"] == "cpu"
        assert "cores" in grown["last_scaling"]["reason"]
        wait_until(lambda: (load := show()["load"]) and load["at_work"] == 1, "its session is seen at work")
        shown = server.json("scale", "shop", "--max-capacity", "1.5")
        assert shown["capacity"] == 1.5
        assert read_held(shown["engine_pid"]) == expected(ACU, 1.5, 1.5, burst=True)
        wait_until(lambda: (load := show()["load"]) and load["cores"] < 0.5, "it is held to 1.5 ACUs")
    assert all(0.5 <= capacity <= most for capacity, most in seen)
    turned.pass_s(70)
    shown = wait_until(lambda: (found := show())["capacity"] == 0.5 and found, "it shrinks when it was quiet")
    assert read_held(shown["engine_pid"]) == expected(ACU, 0.5, 1.5, burst=True)


@needs_limits
def test_nothing_is_ended_for_memory_when_capacity_shrinks_below_what_sessions_hold(home: Path) -> None:
    with running(home, ZORYA_ACU_MEMORY_MIB="256", ZORYA_FREEZE_AFTER="never") as server:
        server.api.create({"name": "shop", "engine": "mariadb"})
        with server.mysql() as keeping, server.mysql() as reading:
            server.api.set_capacity("shop", 4)
            pid = server.show("shop")["engine_pid"]
            run(
                keeping,
                "SET SESSION max_heap_table_size = 300000000, SESSION tmp_table_size = 300000000",
                "CREATE TEMPORARY TABLE mine (n int, x varchar(1000)) ENGINE=MEMORY",
                "INSERT INTO mine SELECT seq, REPEAT('y', 250) FROM seq_1_to_30000",
            )
            run(reading, "CREATE TABLE t AS SELECT seq AS n, REPEAT('x', 1000) AS x FROM seq_1_to_60000")
            sql = "SELECT COUNT(*) FROM (SELECT n FROM t ORDER BY MD5(CONCAT(n, x)) LIMIT 50000) s"
            with Load(server, sql, 50000, sessions=2):
                for capacity in (0.5, 4, 1, 0.5, 2, 0.5):
                    assert server.api.set_capacity("shop", capacity)["capacity"] == capacity
            server.api.modify("shop", {"max_capacity": 0.5})
            wait_until(lambda: server.show("shop")["capacity"] == 0.5, "it has what it may")
            assert rows(keeping, "SELECT COUNT(*), SUM(n), SUM(LENGTH(x)) FROM mine") == (
                (30000, 30000 * 30001 // 2, 30000 * 250),
            )
            assert one(reading, "SELECT SUM(LENGTH(x)) FROM t") == 60_000_000
            assert count_killed(pid) == 0
            assert server.show("shop")["engine_pid"] == pid
        assert "1014" not in server.events("shop")
        assert told(server, "1003", name="shop") == []


@needs_limits
def test_many_sessions_stay_and_short_connections_are_served_when_capacity_changes(server: Server) -> None:
    start_with_shop(server)
    opened = [server.mysql() for _ in range(150)]
    try:
        wait_until(lambda: server.show("shop")["sessions"] == 150, "all sessions are seen")
        for capacity in (4, 0.5, 2, 3, 0.5):
            assert server.api.set_capacity("shop", capacity)["capacity"] == capacity
            for number in range(10):
                assert server.mysql_query(f"SELECT {number}") == ((number,),)
        ids = [one(session, "SELECT CONNECTION_ID()") for session in opened]
        assert ids == [number_of(session) for session in opened]
        assert server.show("shop")["sessions"] == 150
    finally:
        for session in opened:
            session.close()


def test_scale_and_capacity_are_told_as_for_postgres(server: Server) -> None:
    start_with_shop(server)
    refused = server.cli("capacity", "shop", "2")
    assert refused.returncode == 1
    assert "shop" in refused.stderr
    server.api.resume("shop")
    server.run("capacity", "shop", "2")
    assert server.show("shop")["capacity"] == 2
    printed = server.run("scale", "shop", "--min-capacity", "1", "--max-capacity", "3")
    assert re.search(r"1.*3", printed)
    shown = server.show("shop")
    assert (shown["min_capacity"], shown["max_capacity"]) == (1, 3)
    for words in (("capacity", "shop", "0.3"), ("scale", "shop", "--min-capacity", "9"), ("capacity", "shop", "x")):
        assert server.cli(*words).returncode != 0, words
    assert server.show("shop")["capacity"] in {1, 2}
    server.run("pause", "shop")
    assert server.show("shop")["capacity"] == 0


@pytest.mark.parametrize("end", ["delete", "kill"])
def test_an_engine_that_ends_while_its_settings_change_is_no_trouble(server: Server, end: str) -> None:
    held = Held(server, "capacity.telling")
    start_with_shop(server, **held.env)
    server.mysql().close()
    pid = server.show("shop")["engine_pid"]
    with begin(server, "capacity", "shop", "2"):
        held.wait()
        if end == "delete":
            with begin(server, "delete", "shop", "--yes"):
                wait_until(lambda: is_gone(pid), "the engine is gone")
                held.release()
        else:
            server.allow("engine lost")
            kill_engine(pid)
            held.release()
            assert server.mysql_query("SELECT 1") == ((1,),)
