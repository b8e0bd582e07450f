"""What can go wrong around a freeze: deaths in the middle, descriptors, and statements that come in that instant."""

import os
import random
import signal
import threading
from typing import Any

import pymysql
import pytest

from e2e.mariadb.clients import one, rows, run, start_with_shop, wait_frozen
from harness import Server

CLUSTERS = 3
SESSIONS = 3
HAMMER_S = 10.0

FROZEN_WITHIN_S = (0.13, 0.25)
"""When a quiet engine is frozen: InnoDB's word on its transactions is 0.1 s old at the most (engines.mariadb.activity).
Most statements come around then."""


@pytest.fixture
def server(stopped_server: Server) -> Server:
    """A server that the test starts, with clusters that freeze almost at once."""
    stopped_server.env["ZORYA_FREEZE_AFTER"] = "0.05"
    return stopped_server


def resumed(server: Server) -> None:
    """Start the server and cluster "shop": a session that wakes it would be relayed, and end with the server."""
    start_with_shop(server)
    server.api.resume("shop")


@pytest.mark.parametrize("step", ["begun"])
def test_sessions_go_on_when_the_server_is_killed_at_a_step_of_the_freeze(server: Server, step: str) -> None:
    resumed(server)
    with server.mysql() as session:
        assert one(session, "SELECT 0") == 0
        server.kill()
        server.begin(ZORYA_FAILPOINTS=f"freeze.{step}=kill")
        server.wait_killed()
        # No server is there: the keeper has thawed the engine, and the session is the engine's own.
        assert one(session, "SELECT 1") == 1
        server.start()
        assert server.show("shop")["sessions"] == 1
        assert server.show("shop")["compute"] in {"running", "frozen"}
        wait_frozen(server)
        assert one(session, "SELECT 2") == 2


def test_session_goes_on_when_the_server_is_killed_or_replaced_while_frozen(server: Server) -> None:
    resumed(server)
    with server.mysql() as session:
        run(session, "CREATE TEMPORARY TABLE mine AS SELECT 42 AS n")
        wait_frozen(server)
        server.kill()
        assert one(session, "SELECT n FROM mine") == 42
        server.start()
        pid = wait_frozen(server)["engine_pid"]
        server.run("down", "--leave-running")
        assert server.process is not None
        assert server.process.wait(60) == 0
        assert one(session, "SELECT n FROM mine") == 42
        server.start()
        assert wait_frozen(server)["engine_pid"] == pid
        assert one(session, "SELECT n FROM mine") == 42
    assert server.events("shop").count("1004") == 2


def test_session_goes_on_with_the_next_server_when_the_keeper_died_as_well(server: Server) -> None:
    resumed(server)
    with server.mysql() as session:
        wait_frozen(server)
        os.kill(server.keeper_pid(), signal.SIGSTOP)
        server.kill()
        os.kill(server.keeper_pid(), signal.SIGKILL)
        # Nobody is left who could thaw it, until the next server comes.
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(one(session, "SELECT 1")))
        asking.start()
        server.start()
        asking.join(30)
        assert answers == [1]
    assert "1004" in server.events("shop")


class Client(threading.Thread):
    """Somebody who sends statements after random pauses, around the time after which the engine freezes."""

    def __init__(self, server: Server, name: str, seed: int, stop: threading.Event) -> None:
        super().__init__()
        self.choice = random.Random(seed)
        self.stop = stop
        self.session = server.mysql(name, client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS)
        self.asked = self.added = 0
        self.error = ""

    def run(self) -> None:
        try:
            with self.session as session:
                run(session, "CREATE TEMPORARY TABLE mine (n int)", "SET @mine = 0")
                while not self.stop.wait(self.pause_s()):
                    self.ask(session)
                # What the session has of its own is there to the end.
                kept = rows(session, "SELECT COUNT(*), @mine FROM mine")
                assert kept == ((self.added, self.added),), kept
        except (pymysql.err.MySQLError, AssertionError) as error:
            self.error = repr(error)

    def pause_s(self) -> float:
        """Answer how long it thinks."""
        return self.choice.uniform(*FROZEN_WITHIN_S) if self.choice.random() < 0.7 else self.choice.uniform(0, 0.3)

    def ask(self, session: Any) -> None:
        self.asked += 1
        match self.choice.randrange(6):
            case 0:
                run(session, f"UPDATE counts SET n = n + 1 WHERE id = {self.choice.randrange(100)}")
                return
            case 1:
                with session.cursor() as cursor:
                    cursor.execute(f"SELECT {self.asked}; SELECT {self.asked}; SELECT {self.asked}")
                    answers = [cursor.fetchone()[0]]
                    while cursor.nextset():
                        answers.append(cursor.fetchone()[0])
                assert len(answers) == 3
            case 2:
                session.begin()
                self.stop.wait(self.choice.uniform(0, 0.02))
                answers = [one(session, f"SELECT {self.asked}")]
                session.commit()
            case 3:
                self.added += 1
                run(session, f"INSERT INTO mine VALUES ({self.asked})", "SET @mine = @mine + 1")
                return
            case 4:
                session.ping(reconnect=False)
                return
            case _:
                answers = [one(session, f"SELECT {self.asked}")]
        assert set(answers) == {self.asked}, answers


def test_nothing_is_lost_when_statements_come_at_the_moment_of_the_freeze(server: Server) -> None:
    seed = random.randrange(2**32)
    server.start(ZORYA_FREEZE_AFTER="0.01")
    names = [f"c{number}" for number in range(CLUSTERS)]
    stop = threading.Event()
    clients: list[Client] = []
    for name in names:
        server.api.create({"name": name, "engine": "mariadb"})
        server.mysql_query("CREATE TABLE counts AS SELECT seq AS id, 0 AS n FROM seq_0_to_99", name)
        # One alone, so that its cluster freezes often; several on the last.
        count = SESSIONS if name == names[-1] else 1
        clients += [Client(server, name, seed + len(clients) + number, stop) for number in range(count)]
    for client in clients:
        client.start()
    stop.wait(HAMMER_S)
    stop.set()
    for client in clients:
        client.join(60)
    assert [client.error for client in clients] == [""] * len(clients), f"seed {seed}"
    assert not any(client.is_alive() for client in clients), f"seed {seed}: a statement was never answered"
    freezes = sum(server.events(name).count("1008") for name in names)
    assert freezes >= 5, f"seed {seed}: it froze {freezes} times among {sum(one.asked for one in clients)} statements"
    for name in names:
        wait_frozen(server, name)
        assert server.show(name)["sessions"] == 0
