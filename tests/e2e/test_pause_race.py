"""Clients that arrive while their cluster is being paused: none ever fails."""

import random
import subprocess
import threading
from collections.abc import Sequence
from functools import partial

import psycopg
import pytest

from e2e.visitor import Visitor, visit_until_done
from harness import Server, WaitingClient
from held import Held
from waiting import wait_until

CLUSTERS = 4
VISITS = 10


@pytest.mark.parametrize(
    ("step", "then"),
    [("begun", ["0146"]), ("checkpointed", ["0146"]), ("signalled", ["0145", "0147", "0148"])],
    ids=str,
)
def test_client_is_served_when_it_arrives_at_a_step_of_the_pause(
    stopped_server: Server, step: str, then: Sequence[str]
) -> None:
    server = stopped_server
    held = Held(server, f"pause.{step}")
    server.start(**held.env, ZORYA_PAUSE_AFTER="1")
    server.query("CREATE TABLE t AS SELECT 7 AS n")
    held.wait()
    # A pause before this one may have been given up: the first client's session can take its time to end.
    before = server.besides_scaling()
    assert before[-1] == "0144"
    # It stays until the events are read, or it would be paused again.
    with WaitingClient(server.url(), "SELECT n, pg_sleep(0.5) FROM t") as client:
        wait_until(lambda: server.show()["sessions"] == 1, "the client is held")
        held.release()
        assert client.error() == ""
    assert server.besides_scaling()[len(before) :][: len(then)] == then


def test_pause_goes_on_when_the_client_that_came_leaves_again(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "pause.begun")
    server.start(**held.env, ZORYA_PAUSE_AFTER="1")
    server.query("SELECT 1")
    held.wait()
    client = subprocess.Popen(["psql", "--no-psqlrc", server.url()], stdin=subprocess.DEVNULL, env=server.env)
    wait_until(lambda: server.show()["sessions"] == 1, "the client is held")
    client.kill()
    client.wait()
    wait_until(lambda: server.show()["sessions"] == 0, "the client is counted out")
    held.release()
    server.wait_for("stopped")
    assert server.besides_scaling() == ["0170", "0147", "0148", "0144", "0145"]


def test_pause_by_hand_gives_way_when_a_client_comes(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "pause.checkpointed")
    server.start(**held.env)
    server.run("resume", "main")
    refused: list[str] = []
    pausing = threading.Thread(target=lambda: refused.append(server.cli("pause", "main").stderr))
    pausing.start()
    held.wait()
    with psycopg.connect(server.url()):
        held.release()
        pausing.join(30)
    assert "1 open session" in refused[0]
    assert server.show()["compute"] == "running"


def test_pause_by_hand_waits_for_a_session_that_it_met_and_that_is_just_leaving(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "pause.begun")
    server.start(**held.env)
    server.run("resume", "main")
    answers: list[int] = []
    pausing = threading.Thread(target=lambda: answers.append(server.cli("pause", "main").returncode))
    pausing.start()
    held.wait()
    # One that the endpoint has not let in, as it has not the one that it no longer counts.
    with server.administrator():
        held.release()
        wait_until(lambda: server.show()["compute"] == "running", "the pause has met the session")
    pausing.join(30)
    assert answers == [0]
    assert server.besides_scaling() == ["0170", "0147", "0148", "0144", "0146", "0144", "0145"]


def visit(url: str) -> None:
    with psycopg.connect(url, connect_timeout=60, autocommit=True) as connection:
        connection.execute("UPDATE visits SET n = n + 1")


def test_no_client_ever_fails_when_clients_come_and_go_around_the_moment_of_the_pause(server: Server) -> None:
    seed = random.randrange(2**32)
    names = [f"c{number}" for number in range(CLUSTERS)]
    for name in names:
        server.run("create", name, "--pause-after", "1")
        server.query("CREATE TABLE visits AS SELECT 0 AS n", name)
    visitors = [
        Visitor(partial(visit, server.url(name)), psycopg.Error, visits=VISITS, seed=seed + number)
        for number, name in enumerate(names)
    ]
    visit_until_done(visitors, seed=seed)
    events = [event for name in names for event in server.events(name)]
    assert events.count("0145") >= CLUSTERS, f"seed {seed}: hardly anything was paused"
    for name, visitor in zip(names, visitors, strict=True):
        assert server.query("SELECT n FROM visits", name) == [(visitor.served,)]
