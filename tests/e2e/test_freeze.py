"""Frozen clusters and the clients that stay: with each way to freeze, everything that a client can do thaws them."""

import os
import signal
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from fix_freezers import usual_way
from fix_home import DISK
from harness import Server, is_gone, running
from lending import Lender
from waiting import wait_until
from zorya.compute.freezer import Way

QUICKLY = "0.05"


@pytest.fixture
def base() -> Path:
    return DISK


@pytest.fixture(scope="module")
def lenders(templates: Path) -> Iterator[Mapping[Way, Lender]]:
    """A server for each way to freeze."""
    with ExitStack() as stack:
        yield {
            way: stack.enter_context(Lender(templates, ZORYA_FREEZER=way, ZORYA_FREEZE_AFTER=QUICKLY)) for way in Way
        }


@pytest.fixture
def server(lenders: Mapping[Way, Lender], way: Way) -> Iterator[Server]:
    """A server whose cluster "main" freezes almost at once."""
    with lenders[way].lend() as lent:
        yield lent


@pytest.fixture
def session(server: Server) -> Iterator[psycopg.Connection]:
    """A session that is open while its engine is frozen."""
    # Without TLS even the session that wakes the cluster is the engine's own, and its bytes can be sent by hand.
    with psycopg.connect(server.url(), autocommit=True, sslmode="disable") as connection:
        server.wait_for("frozen")
        yield connection


def raw(connection: psycopg.Connection) -> socket.socket:
    """Answer the session's own connection, for what no client library would do."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def send_query(sock: socket.socket, sql: str, *, first: int = 0) -> bytes:
    """Send a query, or only its first bytes; answer the bytes that are left."""
    body = sql.encode() + b"\0"
    message = b"Q" + (4 + len(body)).to_bytes(4) + body
    sock.sendall(message[:first] if first else message)
    return message[first:] if first else b""


def read_to_ready(sock: socket.socket) -> bytes:
    """Read the answer up to ReadyForQuery outside a transaction."""
    sock.settimeout(30)
    answer = b""
    while not answer.endswith(b"Z\0\0\0\5I"):
        data = sock.recv(65536)
        assert data, f"the session was ended after {answer!r}"
        answer += data
    return answer


def one(connection: psycopg.Connection, sql: str) -> object:
    row = connection.execute(sql).fetchone()
    return row[0] if row else None


def test_session_and_all_that_it_has_stay_when_it_is_frozen(server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE mine AS SELECT 42 AS n")
        connection.execute("SET application_name = 'kept'")
        connection.execute("SELECT pg_advisory_lock(7)")
        connection.execute("PREPARE ask AS SELECT n FROM mine")
        connection.execute("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 3)")
        backend = one(connection, "SELECT pg_backend_pid()")
        shown = server.wait_for("frozen")
        assert (shown["capacity"], shown["sessions"], shown["status"]) == (0, 1, "available")
        assert one(connection, "EXECUTE ask") == 42
        assert one(connection, "SHOW application_name") == "kept"
        assert one(connection, "FETCH held") == 1
        assert one(connection, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 1
        server.wait_for("frozen")
        assert one(connection, "SELECT pg_backend_pid()") == backend
    assert server.besides_scaling()[:5] == ["0170", "0147", "0148", "1008", "1009"]


def test_it_freezes_again_and_again_and_answers_each_time(server: Server, session: psycopg.Connection) -> None:
    for number in range(20):
        assert one(session, f"SELECT {number}") == number
        server.wait_for("frozen")
    assert server.events().count("1009") >= 20


@usual_way
def test_new_client_thaws_it(server: Server, session: psycopg.Connection) -> None:
    assert server.query("SELECT 1") == [(1,)]
    server.wait_for("frozen")
    assert server.show()["sessions"] == 1


@usual_way
def test_resume_by_hand_thaws_it(server: Server, session: psycopg.Connection) -> None:
    server.run("resume", "main")
    assert "1009" in server.events()


@pytest.mark.parametrize("how", ["politely", "reset", "half-close"])
def test_session_ends_when_its_client_leaves_while_it_is_frozen(
    server: Server, session: psycopg.Connection, how: str
) -> None:
    with raw(session) as sock:
        if how == "half-close":
            sock.shutdown(socket.SHUT_WR)
        elif how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            session.close()
        else:
            session.close()
    wait_until(lambda: server.show()["sessions"] == 0, "the session is over")
    assert server.query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")[0][0] <= 2


def test_half_a_message_is_waited_for_and_answered_when_the_rest_comes(
    server: Server, session: psycopg.Connection
) -> None:
    with raw(session) as sock:
        for first in (1, 3, 9):
            rest = send_query(sock, "SELECT 'whole'", first=first)
            wait_until(
                lambda: server.besides_scaling()[-1] == "1008" and server.events().count("1009"), "it froze again"
            )
            sock.sendall(rest)
            assert b"whole" in read_to_ready(sock)
            server.wait_for("frozen")


def test_hundred_sessions_stay_and_the_one_that_speaks_is_answered(server: Server) -> None:
    server.run("create", "crowd", "--freeze-after", QUICKLY)
    connections = [psycopg.connect(server.url("crowd"), autocommit=True) for _ in range(100)]
    try:
        assert server.wait_for("frozen", "crowd")["sessions"] == 100
        for connection in (connections[0], connections[50], connections[99]):
            assert one(connection, "SELECT 1") == 1
            server.wait_for("frozen", "crowd")
        for connection in connections[:40]:
            connection.close()
        wait_until(lambda: server.show("crowd")["sessions"] == 60, "those that left are counted out")
        server.wait_for("frozen", "crowd")
        assert [one(connection, "SELECT 1") for connection in connections[40:]] == [1] * 60
    finally:
        for connection in connections:
            connection.close()


@usual_way
def test_session_in_a_transaction_or_at_work_is_never_frozen(server: Server) -> None:
    with psycopg.connect(server.url()) as idle, psycopg.connect(server.url(), autocommit=True) as busy:
        idle.execute("SELECT 1")
        wait_until(lambda: "within a transaction: 1" in server.show()["awake_reason"], "its transaction is seen")
        busy.execute("SELECT pg_sleep(1.5)")
        assert "1008" not in server.events()
        idle.rollback()
        server.wait_for("frozen")


@usual_way
def test_it_goes_on_to_stopped_when_the_last_session_ends(server: Server) -> None:
    server.run("modify", "main", "--pause-after", "1")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        server.wait_for("frozen")
        # Longer than the pause's delay: as long as it has a session it stays frozen.
        connection.execute("SELECT pg_sleep(2)")
        server.wait_for("frozen")
        assert "0144" not in server.events()
    server.wait_for("stopped")
    assert server.besides_scaling()[-2:] == ["0144", "0145"]
    assert server.query("SELECT 1") == [(1,)]


@usual_way
def test_pause_is_refused_while_there_is_a_session_and_ends_it_with_force(
    server: Server, session: psycopg.Connection
) -> None:
    refused = server.cli("pause", "main")
    assert (refused.returncode, "1 open session" in refused.stderr) == (1, True)
    assert one(session, "SELECT 1") == 1
    server.wait_for("frozen")
    server.run("pause", "main", "--force")
    with pytest.raises(psycopg.errors.AdminShutdown):
        session.execute("SELECT 1")
    assert server.show()["compute"] == "stopped"


@usual_way
def test_frozen_cluster_is_paused_by_hand_when_it_has_no_session(server: Server) -> None:
    server.query("SELECT 1")
    server.wait_for("frozen")
    server.run("pause", "main")
    assert server.show()["compute"] == "stopped"


def test_frozen_cluster_is_deleted(server: Server) -> None:
    server.run("create", "gone", "--freeze-after", QUICKLY)
    with psycopg.connect(server.url("gone")):
        pid = server.wait_for("frozen", "gone")["engine_pid"]
        server.run("delete", "gone", "--yes")
        assert is_gone(pid)


def test_frozen_cluster_is_stopped_cleanly_with_the_server(server: Server, session: psycopg.Connection) -> None:
    server.run("down")
    with pytest.raises(psycopg.errors.AdminShutdown):
        session.execute("SELECT 1")
    assert server.process is not None
    server.process.wait(60)
    server.start()
    assert server.show()["compute"] == "stopped"


def test_next_client_is_served_when_the_engine_was_killed_while_frozen(
    server: Server, session: psycopg.Connection, way: Way
) -> None:
    server.allow("engine lost")
    os.kill(server.show()["engine_pid"], signal.SIGKILL)
    if way is not Way.CGROUP1:  # there the kernel carries the signal out at the thaw
        server.wait_for("stopped")
        assert server.besides_scaling()[-1] == "1003"
    assert server.query("SELECT 1") == [(1,)]
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")


def test_timer_of_a_session_is_kept_while_it_is_frozen(server: Server, session: psycopg.Connection) -> None:
    session.execute("SET idle_session_timeout = '300ms'")
    wait_until(lambda: server.show()["sessions"] == 0, "the engine has ended the session")
    with pytest.raises(psycopg.errors.IdleSessionTimeout):
        session.execute("SELECT 1")


def test_signal_of_an_operator_is_kept_while_it_is_frozen(server: Server, session: psycopg.Connection) -> None:
    os.kill(session.info.backend_pid, signal.SIGTERM)
    wait_until(lambda: server.show()["sessions"] == 0, "the engine has ended the session")
    with pytest.raises(psycopg.errors.AdminShutdown):
        session.execute("SELECT 1")


@usual_way
def test_connection_beside_the_endpoint_thaws_it(server: Server, session: psycopg.Connection) -> None:
    data = server.home / "clusters" / server.show()["id"] / "data"
    port = (data / "postmaster.pid").read_text().splitlines()[3]
    url = psycopg.conninfo.make_conninfo(server.url(), port=port)
    with psycopg.connect(url) as beside:
        assert one(beside, "SELECT 1") == 1
        wait_until(lambda: server.show()["sessions"] == 2, "it is counted")


@usual_way
def test_cluster_that_never_freezes_does_not(server: Server) -> None:
    server.run("create", "awake", "--freeze-after", "never")
    with psycopg.connect(server.url("awake"), autocommit=True) as connection:
        connection.execute("SELECT pg_sleep(1)")
        assert "1008" not in server.events("awake")


def test_memory_is_given_back_after_a_while(home: Path, way: Way) -> None:
    settings = {"ZORYA_FREEZER": way, "ZORYA_FREEZE_AFTER": QUICKLY, "ZORYA_RECLAIM_AFTER_S": "0.5"}
    with running(home, **settings) as server, psycopg.connect(server.url(), autocommit=True) as connection:
        (memory,) = [finding["found"] for finding in server.api.doctor() if finding["name"] == "memory"]
        if "given back by" not in memory:
            pytest.skip(f"this host cannot reclaim: {memory}")
        connection.execute("CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
        before = server.show()["resident_bytes"]
        server.wait_for("frozen")
        wait_until(lambda: server.show()["resident_bytes"] < before / 2, "its page cache is given back")
        assert one(connection, "SELECT count(*) FROM big") == 100000
