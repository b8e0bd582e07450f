"""Clients that arrive while their MariaDB cluster is being paused: none ever fails."""

import random
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pymysql
import pytest

from e2e.mariadb.clients import WaitingClient, login, run, start_with_shop
from e2e.visitor import Visitor, visit_until_done
from harness import Server
from held import Held
from waiting import wait_until

CLUSTERS = 3
VISITS = 8


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
    start_with_shop(server, **held.env, ZORYA_PAUSE_AFTER="1")
    server.mysql_query("CREATE TABLE t AS SELECT 7 AS n")
    held.wait()
    # A pause before this one may have been given up: the first client's session can take its time to end.
    before = server.besides_scaling("shop")
    assert before[-1] == "0144"
    # It stays until the events are read, or it would be paused again.
    with WaitingClient(server, "SELECT n, SLEEP(0.5) FROM t") as client:
        wait_until(lambda: server.show("shop")["sessions"] == 1, "the client is held")
        held.release()
        assert client.error() == ""
    assert server.besides_scaling("shop")[len(before) :][: len(then)] == then


def test_pause_by_hand_gives_way_when_a_client_comes(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "pause.checkpointed")
    start_with_shop(server, **held.env)
    server.run("resume", "shop")
    refused: list[str] = []
    pausing = threading.Thread(target=lambda: refused.append(server.cli("pause", "shop").stderr))
    pausing.start()
    held.wait()
    with server.mysql() as session:
        held.release()
        pausing.join(30)
        run(session, "CREATE TABLE t (n int)")
    assert "1 open session" in refused[0]
    assert server.show("shop")["compute"] == "running"


def visit(login: Mapping[str, Any]) -> None:
    with pymysql.connect(**login) as session:
        run(session, "UPDATE visits SET n = n + 1")


def test_no_client_ever_fails_when_clients_come_and_go_around_the_moment_of_the_pause(server: Server) -> None:
    seed = random.randrange(2**32)
    names = [f"c{number}" for number in range(CLUSTERS)]
    for name in names:
        server.api.create({"name": name, "engine": "mariadb", "pause_after": "1"})
        server.mysql_query("CREATE TABLE visits AS SELECT 0 AS n", name)
    visitors = [
        Visitor(partial(visit, login(server, name)), pymysql.err.MySQLError, visits=VISITS, seed=seed + number)
        for number, name in enumerate(names)
    ]
    visit_until_done(visitors, seed=seed)
    events = [event for name in names for event in server.events(name)]
    assert events.count("0145") >= CLUSTERS, f"seed {seed}: hardly anything was paused"
    for name, visitor in zip(names, visitors, strict=True):
        assert server.mysql_query("SELECT n FROM visits", name) == ((visitor.served,),), f"seed {seed}"
