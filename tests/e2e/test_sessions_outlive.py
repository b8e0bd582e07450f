"""Sessions that were handed over, and connections that are made, while no server is there."""

import os
import socket
import threading
from pathlib import Path

import psycopg
import pytest

from harness import Server, WaitingClient, is_gone
from held import Held
from waiting import wait_until


def one(connection: psycopg.Connection, sql: str) -> object:
    row = connection.execute(sql).fetchone()
    return row[0] if row else None


@pytest.mark.parametrize("tls", ["disable", "require"])
def test_session_and_its_transaction_go_on_when_the_server_is_killed(server: Server, tls: str) -> None:
    if tls == "require":
        server.run("resume", "main")  # the session that wakes a cluster with TLS is relayed
    with psycopg.connect(server.url(), sslmode=tls) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        server.kill()
        connection.execute("UPDATE t SET n = 8")
        server.start()
        assert server.show()["sessions"] == 1
        connection.execute("UPDATE t SET n = n + 1")
        connection.commit()
        assert one(connection, "SELECT n FROM t") == 9
    assert server.query("SELECT n FROM t") == [(9,)]


def test_client_that_connects_while_no_server_is_there_is_served_by_the_next(server: Server) -> None:
    server.query("SELECT 1")
    url = server.url()
    server.kill()
    with WaitingClient(url) as client:
        # It is in the queue of the endpoint's socket: connected, and not answered yet.
        wait_until(lambda: waits_to_be_accepted(server), "the connection is in the queue")
        server.start()
        assert client.error() == ""


def test_client_that_is_accepted_before_the_next_server_has_found_the_engine_is_served(server: Server) -> None:
    server.query("SELECT 1")
    url = server.url()
    held = Held(server, "takeover.found")
    server.kill()
    with WaitingClient(url) as client:
        wait_until(lambda: waits_to_be_accepted(server), "the connection is in the queue")
        server.begin(**held.env)
        wait_until(lambda: not waits_to_be_accepted(server), "the server has accepted it")
        held.wait()
        held.release()
        assert client.error() == ""


def waits_to_be_accepted(server: Server) -> bool:
    """Whether a connection to the first endpoint is established that no process has accepted."""
    port = int(server.env["ZORYA_PORT_RANGE"].split("-")[0])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # Of a listening socket (state 0A), the receive queue is the number of connections that wait (proc(5), net/tcp).
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" and int(row[4].split(":")[1], 16) for row in rows)


def test_clients_are_refused_when_no_server_came_in_time(server: Server) -> None:
    server.query("SELECT 1")
    server.stop()
    server.start(ZORYA_KEEP_ENDPOINTS_S="0.2")
    server.query("SELECT 1")
    url, pid, keeper = server.url(), server.show()["engine_pid"], server.keeper_pid()
    server.kill()
    wait_until(lambda: is_gone(keeper), "the keeper has ended")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(url)
    assert not is_gone(pid)
    server.start()
    assert server.show()["engine_pid"] == pid
    assert server.query("SELECT 1") == [(1,)]


def test_server_is_replaced_without_a_session_noticing(server: Server) -> None:
    url = f"{server.url()}?sslmode=disable"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE mine AS SELECT 42 AS n")
        backend = one(connection, "SELECT pg_backend_pid()")
        said = server.run("down", "--leave-running")
        assert "1 engine goes on" in said
        assert server.process is not None
        assert server.process.wait(60) == 0
        assert one(connection, "SELECT n FROM mine") == 42
        with WaitingClient(url) as client:
            server.start()
            assert client.error() == ""
        assert one(connection, "SELECT pg_backend_pid()") == backend
        wait_until(lambda: server.show()["sessions"] == 1, "the other client is counted out")
    assert server.besides_scaling() == ["0170", "0147", "0148", "1004"]


def test_server_that_sleeps_is_replaced_too(server: Server) -> None:
    assert server.run("down", "--leave-running") == "Zorya is down.\n"
    assert server.process is not None
    assert server.process.wait(60) == 0
    server.start()
    assert server.show()["compute"] == "stopped"
    assert server.query("SELECT 1") == [(1,)]


def test_relayed_session_ends_with_the_server_and_is_relayed_again(server: Server) -> None:
    server.stop()
    server.start(ZORYA_ATTACH="relay")
    shown = server.show()
    assert (shown["attach"], shown["attach_reason"]) == ("relay", "The setting attach says so.")
    connection = psycopg.connect(server.url(), autocommit=True)
    assert one(connection, "SELECT host(client_addr) FROM pg_stat_activity WHERE pid = pg_backend_pid()") == "127.0.0.1"
    wait_until(lambda: server.show()["sessions"] == 1, "the engine's own processes are told from sessions")
    server.kill()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    server.start(ZORYA_ATTACH="relay")
    assert server.query("SELECT 1") == [(1,)]
    wait_until(lambda: server.show()["sessions"] == 0, "the relayed session is over")


def test_engine_sees_the_clients_own_address_and_port(server: Server) -> None:
    sql = "SELECT host(client_addr), client_port FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    with psycopg.connect(server.url(), sslmode="disable") as connection:
        found = connection.execute(sql).fetchone()
        with socket.socket(fileno=os.dup(connection.fileno())) as own:
            assert found == own.getsockname()[:2]


def test_sessions_are_counted_as_they_come_and_go(server: Server) -> None:
    connections = [psycopg.connect(server.url()) for _ in range(20)]
    assert server.show()["sessions"] == 20
    for connection in connections[:15]:
        connection.close()
    wait_until(lambda: server.show()["sessions"] == 5, "those that left are counted out")
    assert server.json("status")["sessions"] == 5
    killed = connections[19].info.backend_pid
    server.query(f"SELECT pg_terminate_backend({killed})")
    wait_until(lambda: server.show()["sessions"] == 4, "the one that was ended is counted out")
    for connection in connections[15:]:
        connection.close()


def test_cancel_request_reaches_the_engine(server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        cancel = threading.Thread(target=lambda: cancel_when_it_runs(server, connection))
        cancel.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")
        cancel.join()


def cancel_when_it_runs(server: Server, connection: psycopg.Connection) -> None:
    sql = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {connection.info.backend_pid} AND wait_event = 'PgSleep'"
    wait_until(lambda: server.query(sql) == [(1,)], "the statement runs")
    connection.cancel_safe()


def test_pause_right_after_the_last_client_has_left_is_not_refused(server: Server) -> None:
    for _ in range(10):
        server.query("SELECT 1")
        server.api.pause("main", force=False)
        assert server.show()["compute"] == "stopped"
