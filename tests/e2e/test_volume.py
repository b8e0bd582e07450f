"""Six copies of a cluster for real: the commit rule, starts and stops, sleep, conversion, the reader endpoint."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fix_home import running_for_a_file
from harness import Server
from volumes import Volume
from waiting import wait_until
from zorya.core.volume import parse_position
from zorya.engines.postgres import installations
from zorya.engines.postgres.replication import PostgresReplication

OTHERS = ["a_tail", "b_full", "b_tail", "c_full", "c_tail"]


@pytest.fixture(scope="module")
def server(templates: Path) -> Iterator[Server]:
    """A server whose new clusters have six copies."""
    with running_for_a_file(templates, ZORYA_COPIES="6") as started:
        # What psycopg says of an engine that a test has stopped.
        started.allow("query cancellation failed", "query not terminated after cancellation")
        yield started


@pytest.fixture
def volume(server: Server, request: pytest.FixtureRequest) -> Iterator[Volume]:
    """A new cluster of six copies that runs, all of them current; it neither freezes nor pauses."""
    name = f"v{abs(hash(request.node.name)) % 10**6}"
    server.run("create", name, "--freeze-after", "never", "--pause-after", "never")
    server.run("resume", name)
    made = Volume(server, name)
    made.wait_whole()
    yield made
    server.run("delete", name, "--yes")


async def _position(volume: Volume, copy: str) -> int:
    if copy == volume.primary:
        return parse_position(str(volume.ask(copy, "SELECT pg_current_wal_flush_lsn()")))
    if copy.endswith("_full"):
        return volume.received(copy)
    found = await PostgresReplication.of_this_user().tail_end(installations.find(None)[0], volume.folder(copy))
    return found.position if found is not None else 0


@pytest.mark.parametrize("stopped", [("b_full", "c_tail"), ("b_tail", "a_tail"), ("c_full", "b_full")], ids=str)
async def test_commit_is_on_four_copies_when_the_client_hears_of_it(volume: Volume, stopped: tuple[str, str]) -> None:
    with psycopg.connect(volume.server.url(volume.name), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
        for copy in stopped:
            volume.signal(copy, signal.SIGSTOP)
        try:
            for n in range(5):
                with connection.transaction():
                    connection.execute("INSERT INTO t VALUES (%s)", (n,))
                    row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
                assert row is not None
                before = parse_position(row[0])
                reached = [
                    copy for copy in volume.copies if copy not in stopped and await _position(volume, copy) > before
                ]
                assert len(reached) == 4, reached
        finally:
            for copy in stopped:
                volume.signal(copy, signal.SIGCONT)
    volume.wait_whole()


def test_commit_waits_and_can_be_cancelled_when_three_copies_are_left(volume: Volume) -> None:
    stopped = ("b_full", "b_tail", "c_tail")
    with psycopg.connect(volume.server.url(volume.name), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
        for copy in stopped:
            volume.signal(copy, signal.SIGSTOP)
        try:
            notices: list[str] = []
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
            hurry = threading.Timer(1, connection.cancel)
            hurry.start()
            connection.execute("INSERT INTO t VALUES (1)")
            hurry.join()
            # What PostgreSQL says of a commit that is not waited for any more.
            assert any("canceling wait for synchronous replication" in notice for notice in notices)
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
        finally:
            for copy in stopped:
                volume.signal(copy, signal.SIGCONT)
        volume.wait_whole()
        connection.execute("INSERT INTO t VALUES (2)")


def test_show_says_that_commits_wait_until_repair_brings_the_copies_back(volume: Volume) -> None:
    for copy in ("b_full", "c_full", "c_tail"):
        volume.signal(copy, signal.SIGSTOP)
    volume.server.query("SELECT 1", volume.name)
    wait_until(lambda: volume.shown["health"] != "whole", "the volume is seen to be degraded", 30)
    for copy in ("b_full", "c_full", "c_tail"):
        volume.signal(copy, signal.SIGCONT)
    volume.wait_whole()
    wait_until(lambda: volume.shown["health"] == "whole", "the volume is whole")


def test_pause_brings_all_copies_to_the_same_position(volume: Volume) -> None:
    server = volume.server
    server.query("CREATE TABLE t AS SELECT generate_series(1, 10000) AS n", volume.name)
    server.run("pause", volume.name)
    shown = server.api.copies(volume.name)
    assert [one["state"] for one in shown] == ["current"] * 6
    assert len({one["position"] for one in shown}) == 1
    assert shown[0]["position"] is not None
    assert all(not volume.pids(one["name"]) for one in shown)
    told = [event["message"] for event in server.api.events(volume.name, after=0, limit=100, wait_s=0, sleep=True)]
    assert any(f"All 6 are at {shown[0]['position']}" in message for message in told)
    assert server.query("SELECT count(*) FROM t", volume.name) == [(10000,)]


def test_copies_are_found_again_when_the_server_was_killed(volume: Volume) -> None:
    server = volume.server
    server.query("CREATE TABLE t AS SELECT 1 AS n", volume.name)
    standby = volume.pid("b_full")
    server.kill()
    server.start(ZORYA_COPIES="6")
    server.query("INSERT INTO t VALUES (2)", volume.name)
    volume.wait_whole()
    assert volume.pid("b_full") == standby
    assert volume.shown["epoch"] == 1


def test_all_processes_are_frozen_with_the_cluster_and_commits_work_after_it(volume: Volume) -> None:
    server = volume.server
    with psycopg.connect(server.url(volume.name), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
        server.run("modify", volume.name, "--freeze-after", "0.2")
        for n in range(3):
            server.wait_for("frozen", volume.name)
            states = {
                Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
                for copy in volume.copies
                for pid in volume.pids(copy)
            }
            assert "R" not in states
            connection.execute("INSERT INTO t VALUES (%s)", (n,))
        server.run("modify", volume.name, "--freeze-after", "never")
    volume.wait_whole()
    assert "is lost" not in " ".join(one["reason"] for one in volume.copies.values())


def test_readers_are_served_by_the_copies_that_follow(volume: Volume) -> None:
    server = volume.server
    server.query("CREATE TABLE t AS SELECT 7 AS n", volume.name)
    reader = server.show(volume.name)["reader_endpoint"]
    credentials = server.api.credentials(volume.name)
    served = set()
    for _ in range(4):
        with psycopg.connect(
            host=reader["host"],
            port=reader["port"],
            user=credentials["username"],
            password=credentials["password"],
            dbname=credentials["database"],
            autocommit=True,
        ) as connection:
            wait_until(lambda: connection.execute("SELECT to_regclass('t')").fetchone() != (None,), "it has the table")
            row = connection.execute("SELECT n, pg_is_in_recovery(), inet_server_port() FROM t").fetchone()
            assert row is not None
            assert row[:2] == (7, True)
            served.add(connection.execute("SELECT pg_postmaster_start_time()").fetchone())
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("INSERT INTO t VALUES (8)")
    assert len(served) == 2


def test_reader_wakes_the_cluster(volume: Volume) -> None:
    server = volume.server
    server.run("pause", volume.name)
    reader = server.show(volume.name)["reader_endpoint"]
    url = server.url(volume.name).replace(f":{server.show(volume.name)['endpoint']['port']}/", f":{reader['port']}/")
    with psycopg.connect(url, connect_timeout=30) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


@pytest.mark.parametrize("copies", [3, 6])
def test_cluster_of_one_copy_gets_more_while_it_serves(server: Server, copies: int) -> None:
    name = f"one{copies}"
    server.run("create", name, "--copies", "1", "--freeze-after", "never")
    with psycopg.connect(server.url(name), autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
        server.run("modify", name, "--copies", str(copies))
        connection.execute("INSERT INTO t VALUES (0)")
        volume = Volume(server, name)
        volume.wait_whole()
        wait_until(lambda: volume.shown["health"] == "whole", "commits wait for the copies")
        connection.execute("INSERT INTO t VALUES (0)")
        row = connection.execute("SHOW synchronous_standby_names").fetchone()
        assert row is not None
        assert row[0].startswith(f"ANY {copies // 2}")
    server.run("pause", name)
    assert {one["state"] for one in volume.copies.values()} == {"current"}
    server.run("modify", name, "--copies", "1")
    assert server.query("SELECT count(*) FROM t", name) == [(1002,)]
    assert not volume.zone("b").joinpath("data").exists()
    server.run("delete", name, "--yes")
