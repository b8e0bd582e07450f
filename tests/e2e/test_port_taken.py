"""An endpoint whose port another program has taken while the server was down."""

import socket
from collections.abc import Iterator

import psycopg
import pytest

from harness import Server
from waiting import wait_until


@pytest.fixture
def server_without_a_port(server: Server) -> Iterator[tuple[Server, socket.socket]]:
    """A server with clusters "main" and "other" that finds the port of "main" taken; and what has taken it."""
    server.allow("endpoint cannot listen")
    server.run("create", "other")
    port = server.show()["endpoint"]["port"]
    server.stop()
    with socket.create_server(("127.0.0.1", port)) as taker:
        server.start()
        yield server, taker


def test_others_are_served_and_show_says_why_when_a_port_is_taken(
    server_without_a_port: tuple[Server, socket.socket],
) -> None:
    server, taker = server_without_a_port
    port = taker.getsockname()[1]
    shown = server.show()
    assert shown["endpoint_problem"] == f"127.0.0.1:{port} is in use by another program or cluster."
    assert shown["endpoint"]["port"] == port
    assert "endpoint problem" in server.run("show", "main")
    assert server.events() == ["0170", "1006"]
    assert server.show("other")["endpoint_problem"] == ""
    assert server.query("SELECT 1", "other") == [(1,)]
    # By hand it starts all the same, and stops.
    assert server.json("resume", "main")["compute"] == "running"
    assert server.json("pause", "main")["compute"] == "stopped"


def test_endpoint_listens_again_when_its_port_is_free(
    server_without_a_port: tuple[Server, socket.socket],
) -> None:
    server, taker = server_without_a_port
    taker.close()
    wait_until(lambda: server.show()["endpoint_problem"] == "", "the endpoint listens again")
    assert server.events() == ["0170", "1006", "1007"]
    assert server.query("SELECT 1") == [(1,)]


def test_cluster_is_deleted_when_its_port_is_taken(server_without_a_port: tuple[Server, socket.socket]) -> None:
    server, _ = server_without_a_port
    server.run("delete", "main", "--yes")
    assert [cluster["name"] for cluster in server.json("list")] == ["other"]


def test_problem_is_told_once_a_start_when_the_port_stays_taken(
    server_without_a_port: tuple[Server, socket.socket],
) -> None:
    server, _ = server_without_a_port
    server.stop()
    server.start()
    assert server.events() == ["0170", "1006", "1006"]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url(), connect_timeout=2)
