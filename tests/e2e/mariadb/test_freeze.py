"""Frozen MariaDB clusters and the clients that stay: whatever a client does thaws them, and nothing is lost."""

import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest

from e2e.mariadb.clients import LOST, Asked, number_of, one, rows, run, start_with_shop, wait_frozen
from e2e.mariadb.raw_client import RawClient, packet
from harness import Server, is_gone
from waiting import wait_until
from zorya.compute.freezer import Way

UNDISTURBED_S = 1.0
"""Long enough that a cluster which might freeze would have: it is looked at every half second."""


@pytest.fixture
def server(quick_shop: Server) -> Server:
    return quick_shop


@pytest.fixture
def session(server: Server) -> Iterator[Any]:
    """A session that is open while its engine is frozen."""
    with server.mysql() as opened:
        wait_frozen(server)
        yield opened


def raw(server: Server) -> RawClient:
    """Log in by hand, for what no client library would do."""
    credentials = server.api.credentials("shop")
    client = RawClient(credentials["endpoint"]["port"])
    client.log_in(credentials["username"], credentials["password"], "shop")
    return client


def freezes(server: Server) -> int:
    return server.events("shop").count("1008")


def stays_awake(server: Server) -> None:
    """Check that it does not freeze while the test looks on."""
    before, until_s = freezes(server), time.monotonic() + UNDISTURBED_S
    wait_until(lambda: time.monotonic() > until_s, "the time has passed")
    assert (freezes(server), server.show("shop")["compute"]) == (before, "running")


def test_session_and_all_that_it_has_stay_when_it_is_frozen(stopped_server: Server, way: Way) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_FREEZER=way, ZORYA_FREEZE_AFTER="0.05")
    with server.mysql() as session:
        run(
            session,
            "CREATE TEMPORARY TABLE mine AS SELECT 42 AS n",
            "SET @kept = 'mine', SESSION sort_buffer_size = 65536, NAMES latin1",
            "PREPARE ask FROM 'SELECT n + ? FROM mine'",
            "CREATE SEQUENCE counter",
        )
        assert one(session, "SELECT NEXT VALUE FOR counter") == 1
        connection = one(session, "SELECT CONNECTION_ID()")
        for _ in range(3):
            shown = wait_frozen(server)
            assert (shown["capacity"], shown["sessions"], shown["status"]) == (0, 1, "available")
            assert rows(session, "SELECT @kept, @@sort_buffer_size, @@character_set_client, LASTVAL(counter)") == (
                ("mine", 65536, "latin1", 1),
            )
            assert one(session, "EXECUTE ask USING 1") == 43
        wait_frozen(server)
        assert one(session, "SELECT CONNECTION_ID()") == connection
    assert server.besides_scaling("shop")[:5] == ["0170", "0147", "0148", "1008", "1009"]


def test_it_freezes_again_and_again_and_answers_each_time(server: Server, session: Any) -> None:
    for number in range(20):
        assert one(session, f"SELECT {number}") == number
        wait_frozen(server)
    assert server.events("shop").count("1009") >= 20


def test_new_client_thaws_it(server: Server, session: Any) -> None:
    assert server.mysql_query("SELECT 1") == ((1,),)
    wait_frozen(server)
    assert server.show("shop")["sessions"] == 1


def test_resume_by_hand_thaws_it(server: Server, session: Any) -> None:
    server.run("resume", "shop")
    assert "1009" in server.events("shop")


@pytest.mark.parametrize("how", ["politely", "reset", "half-close"])
def test_session_ends_when_its_client_leaves_while_it_is_frozen(server: Server, how: str) -> None:
    with raw(server) as client:
        wait_frozen(server)
        if how == "politely":
            client.send(b"\1", 0)
        elif how == "half-close":
            client.socket.shutdown(socket.SHUT_WR)
        else:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()
        wait_until(lambda: server.show("shop")["sessions"] == 0, "the session is over")
    assert one_session_is_listed(server)


def one_session_is_listed(server: Server) -> bool:
    sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'zorya'"
    return bool(server.mysql_query(sql) == ((1,),))


def has_thawed(server: Server, thaws: int) -> bool:
    return server.events("shop").count("1009") > thaws


def test_half_a_packet_is_waited_for_and_answered_when_the_rest_comes(server: Server) -> None:
    with raw(server) as client:
        wait_frozen(server)
        whole = packet(b"\3SELECT 'whole'", 0)
        for first in (1, 3, 4, 9):
            thaws = server.events("shop").count("1009")
            client.socket.sendall(whole[:first])
            wait_until(partial(has_thawed, server, thaws), "it is thawed by the first bytes")
            client.socket.sendall(whole[first:])
            assert b"whole" in client.rest_of_answer()
            wait_frozen(server)


def test_statements_that_come_together_are_all_answered(server: Server) -> None:
    with raw(server) as client:
        wait_frozen(server)
        client.socket.sendall(b"".join(packet(b"\3SELECT 'n%d'" % number, 0) for number in range(5)))
        answers = [client.rest_of_answer() for _ in range(5)]
        assert all(b"n%d" % number in answer for number, answer in enumerate(answers))


def test_hundred_sessions_stay_and_the_one_that_speaks_is_answered(server: Server) -> None:
    opened = [server.mysql() for _ in range(100)]
    try:
        wait_until(lambda: server.show("shop")["sessions"] == 100, "all are counted")
        wait_frozen(server)
        for session in (opened[0], opened[50], opened[99]):
            assert one(session, "SELECT 1") == 1
            assert wait_frozen(server)["sessions"] == 100
        for session in opened[:40]:
            session.close()
        wait_until(lambda: server.show("shop")["sessions"] == 60, "those that left are counted out")
        wait_frozen(server)
        assert [one(session, "SELECT 1") for session in opened[40:]] == [1] * 60
    finally:
        for session in opened:
            if session.open:
                session.close()


HELD = {
    "transaction": (["START TRANSACTION", "INSERT INTO t VALUES (1)"], ["ROLLBACK"]),
    "transaction that has only read": (["START TRANSACTION WITH CONSISTENT SNAPSHOT", "SELECT * FROM t"], ["COMMIT"]),
    "no autocommit": (["SET autocommit = 0", "INSERT INTO t VALUES (1)"], ["COMMIT"]),
    "XA transaction": (["XA START 'x'", "INSERT INTO t VALUES (1)", "XA END 'x'"], ["XA ROLLBACK 'x'"]),
    "table lock": (["LOCK TABLES t WRITE"], ["UNLOCK TABLES"]),
    "user lock": (["SELECT GET_LOCK('mine', 0)"], ["SELECT RELEASE_LOCK('mine')"]),
}


@pytest.mark.parametrize("held", HELD)
def test_session_that_holds_something_others_may_wait_for_is_never_frozen(server: Server, held: str) -> None:
    takes, gives = HELD[held]
    with server.mysql() as session:
        run(session, "CREATE TABLE t (n int) ENGINE=InnoDB")
        wait_frozen(server)
        run(session, *takes)
        stays_awake(server)
        assert server.show("shop")["awake_reason"]
        run(session, *gives)
        wait_frozen(server)


def test_running_statement_is_never_frozen(server: Server, session: Any) -> None:
    with Asked(server, "SELECT SLEEP(1.5)") as asked:
        asked.wait_begun(session)
        before = freezes(server)
        assert asked.answer() == 0
        assert freezes(server) == before
    wait_frozen(server)


def test_answer_that_its_client_does_not_read_is_not_frozen_half_done(server: Server) -> None:
    with raw(server) as client:
        client.sequence = 0
        # More than the buffers on the way take: two connections' to receive into, of 32 MiB each with Linux 6.18.
        client.send(b"\3SELECT REPEAT('x', 100000) FROM seq_1_to_1000")
        stays_awake(server)
        said = client.rest_of_answer()
    assert said.count(b"x") >= 100_000_000


def test_running_event_is_never_frozen(server: Server) -> None:
    with server.mysql() as session:
        if one(session, "SELECT @@event_scheduler") != "ON":
            pytest.skip("events do not run in Zorya's clusters")
        run(
            session,
            "CREATE TABLE done (n int)",
            "CREATE EVENT e ON SCHEDULE AT CURRENT_TIMESTAMP DO BEGIN DO SLEEP(1.5); INSERT INTO done VALUES (1); END",
        )
        wait_until(lambda: one(session, "SELECT COUNT(*) FROM done") == 1, "the event has run")
        assert one(session, "SELECT COUNT(*) FROM information_schema.events") == 0
    wait_frozen(server)


def test_statement_of_a_session_is_killed_by_another(server: Server, session: Any) -> None:
    with Asked(server, "SELECT SLEEP(100)") as asked:
        asked.wait_begun(session)
        run(session, f"KILL QUERY {asked.id}")
        assert (asked.answer(), asked.error[0]) == (None, 1317)
    wait_frozen(server)


def test_session_that_is_frozen_is_killed_by_another(server: Server, session: Any) -> None:
    with server.mysql() as other:
        wait_frozen(server)
        run(other, f"KILL {number_of(session)}")
        with pytest.raises(LOST):
            one(session, "SELECT 1")
        wait_until(lambda: server.show("shop")["sessions"] == 1, "it is counted out")
        wait_frozen(server)


def test_session_whose_time_is_over_is_ended_at_the_next_thaw(server: Server, session: Any) -> None:
    with server.mysql() as other:
        run(other, "SET SESSION wait_timeout = 1")
        wait_frozen(server)
        stopped_s = time.monotonic()
        wait_until(lambda: time.monotonic() > stopped_s + 1.1, "its time is over")
        assert one(session, "SELECT 1") == 1
        wait_until(lambda: server.show("shop")["sessions"] == 1, "the engine has ended the session")


def test_it_goes_on_to_stopped_when_the_last_session_ends(server: Server) -> None:
    server.run("modify", "shop", "--pause-after", "1")
    with server.mysql() as session:
        wait_frozen(server)
        # Longer than the pause's delay: as long as it has a session it stays frozen.
        assert one(session, "SELECT SLEEP(1.2)") == 0
        wait_frozen(server)
        assert "0144" not in server.events("shop")
    server.wait_for("stopped", "shop")
    assert server.besides_scaling("shop")[-2:] == ["0144", "0145"]
    assert server.mysql_query("SELECT 1") == ((1,),)


def test_pause_is_refused_while_there_is_a_session_and_ends_it_with_force(server: Server, session: Any) -> None:
    refused = server.cli("pause", "shop")
    assert (refused.returncode, "1 open session" in refused.stderr) == (1, True)
    assert one(session, "SELECT 1") == 1
    wait_frozen(server)
    server.run("pause", "shop", "--force")
    with pytest.raises(LOST):
        one(session, "SELECT 1")
    assert server.show("shop")["compute"] == "stopped"


def test_frozen_cluster_is_paused_by_hand_or_deleted_when_it_has_no_session(server: Server) -> None:
    server.mysql_query("SELECT 1")
    wait_frozen(server)
    server.run("pause", "shop")
    assert server.show("shop")["compute"] == "stopped"
    with server.mysql():
        pid = wait_frozen(server)["engine_pid"]
        server.run("delete", "shop", "--yes")
        assert is_gone(pid)


def test_frozen_cluster_is_stopped_cleanly_with_the_server(server: Server, session: Any) -> None:
    server.run("down")
    with pytest.raises(LOST):
        one(session, "SELECT 1")
    assert server.process is not None
    server.process.wait(60)
    server.start()
    assert server.show("shop")["compute"] == "stopped"
    assert (server.home / "clusters" / server.show("shop")["id"] / "identities.json").exists()


def test_next_client_is_served_when_the_engine_was_killed_while_frozen(server: Server, session: Any) -> None:
    server.allow("engine lost")
    os.kill(server.show("shop")["engine_pid"], signal.SIGKILL)
    assert server.mysql_query("SELECT 1") == ((1,),)
    with pytest.raises(LOST):
        one(session, "SELECT 1")
    assert "1003" in server.events("shop")


def test_connection_beside_the_endpoint_thaws_it_and_is_counted(server: Server, session: Any) -> None:
    ports = rows(session, "SELECT @@port, @@extra_port")[0]
    wait_frozen(server)
    (beside,) = [port for port in ports if listens(server.show("shop")["engine_pid"], int(port))]
    with server.mysql(port=int(beside)) as other:
        assert one(other, "SELECT 1") == 1
        wait_until(lambda: server.show("shop")["sessions"] == 2, "it is counted")


def listens(pid: int, port: int) -> bool:
    """Whether an engine's network has a listening socket on this port."""
    table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in table)


def test_cluster_that_never_freezes_does_not(server: Server) -> None:
    server.run("create", "awake", "--engine", "mariadb", "--freeze-after", "never")
    with server.mysql("awake") as session:
        assert one(session, "SELECT SLEEP(1)") == 0
        assert "1008" not in server.events("awake")


def test_many_quick_connections_are_counted_to_the_last(server: Server, session: Any) -> None:
    for number in range(40):
        assert server.mysql_query(f"SELECT {number}") == ((number,),)
    wait_until(lambda: server.show("shop")["sessions"] == 1, "all but one are counted out")
    kept = [server.mysql() for _ in range(7)]
    for _ in range(20):
        server.mysql().close()
    wait_until(lambda: server.show("shop")["sessions"] == 8, "those that stay are counted")
    wait_frozen(server)
    assert server.show("shop")["sessions"] == 8
    for one_of_them in kept:
        one_of_them.close()
    wait_until(lambda: server.show("shop")["sessions"] == 1, "they are counted out")


@pytest.mark.parametrize("attach", ["handoff", "relay"])
def test_either_way_of_attaching_is_frozen_and_thawed(
    stopped_server: Server, attach: str, new_folder: Callable[[], Path]
) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_ATTACH=attach, ZORYA_FREEZE_AFTER="0.05")
    script = new_folder() / "lines.csv"
    script.write_text("1\n2\n3\n")
    # The first wakes the cluster and is relayed in any case.
    with server.mysql(local_infile=True) as waker, server.mysql(local_infile=True) as second:
        run(waker, "CREATE TABLE `lines` (n int)")
        for session in (waker, second):
            wait_frozen(server)
            run(session, f"LOAD DATA LOCAL INFILE '{script}' INTO TABLE `lines`")
            wait_frozen(server)
            with session.cursor(pymysql.cursors.SSCursor) as cursor:
                cursor.execute("SELECT n FROM `lines`")
                assert {row[0] for row in cursor.fetchall()} == {1, 2, 3}
            with pytest.raises(pymysql.err.ProgrammingError):
                run(session, "SELEKT 1")
            wait_frozen(server)
        assert one(second, "SELECT COUNT(*) FROM `lines`") == 6
