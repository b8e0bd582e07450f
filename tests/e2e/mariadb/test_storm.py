"""Very many clients at the same moment: at a stopped cluster, during its pause, and more than it may have."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pymysql
import pytest

from e2e.mariadb.clients import begin, login, one, start_with_shop
from harness import Server
from held import Held
from waiting import wait_until

STORM = 100


def storm(
    server: Server, clients: int = STORM, held: Callable[[], object] | None = None, name: str = "shop", **options: Any
) -> tuple[int, Sequence[tuple[Any, ...]]]:
    """Connect so many clients at once; answer how many were served, and the errors of the others.

    Those that are served stay until every one has its answer, so that none makes room for another. `held` is done while
    they wait.
    """
    together = threading.Barrier(clients)
    how = {**login(server, name), **options}

    def connect(_: int) -> Any:
        together.wait(60)
        try:
            return pymysql.connect(**how)
        except pymysql.err.MySQLError as error:
            return error

    with ThreadPoolExecutor(clients) as threads:
        coming = threads.map(connect, range(clients))
        if held is not None:
            held()
        found = list(coming)
    sessions = [session for session in found if not isinstance(session, Exception)]
    try:
        assert [one(session, "SELECT 1") for session in sessions] == [1] * len(sessions)
    finally:
        for session in sessions:
            session.close()
    return len(sessions), [error.args for error in found if isinstance(error, Exception)]


def test_every_client_is_served_by_one_start_when_hundred_come_to_a_stopped_cluster(shop: Server) -> None:
    assert storm(shop) == (STORM, [])
    assert shop.besides_scaling("shop") == ["0170", "0147", "0148"]
    wait_until(lambda: shop.show("shop")["sessions"] == 0, "every client is counted out")


def test_those_that_are_too_many_are_told_so_by_the_engine(shop: Server) -> None:
    shop.run("create", "small", "--engine", "mariadb", "--max-capacity", "0.5")
    with shop.mysql("small") as session:
        most = one(session, "SELECT @@max_connections")
    served, refused = storm(shop, most + 40, name="small")
    assert served + len(refused) == most + 40
    assert served >= most - 10
    assert {error[0] for error in refused} == {1040}
    assert shop.besides_scaling("small") == ["0170", "0147", "0148"]
    assert shop.mysql_query("SELECT 1", "small") == ((1,),)


@pytest.mark.parametrize(
    ("step", "then"), [("checkpointed", ["0146"]), ("signalled", ["0145", "0147", "0148"])], ids=str
)
def test_no_client_fails_when_hundred_come_during_a_pause(stopped_server: Server, step: str, then: list[str]) -> None:
    server = stopped_server
    held = Held(server, f"pause.{step}")
    start_with_shop(server, **held.env)
    server.run("resume", "shop")
    pausing = begin(server, "pause", "shop")
    held.wait()

    def release_when_held() -> None:
        wait_until(lambda: server.show("shop")["sessions"] == STORM, "every client is held")
        held.release()

    assert storm(server, held=release_when_held) == (STORM, [])
    pausing.wait(30)
    assert server.besides_scaling("shop") == ["0170", "0147", "0148", "0144", *then]


def test_clients_that_leave_while_they_wait_are_counted_out_and_the_start_goes_on(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "resume.started")
    start_with_shop(server, **held.env)
    credentials = server.api.credentials("shop")
    with ThreadPoolExecutor(5) as threads:
        waiting = [threads.submit(partial(server.mysql, read_timeout=1.5)) for _ in range(5)]
        wait_until(lambda: server.show("shop")["sessions"] == 5, "they are held")
        for one_of_them in waiting:
            with pytest.raises(pymysql.err.OperationalError):
                one_of_them.result(30)
    wait_until(lambda: server.show("shop")["sessions"] == 0, "they are counted out")
    assert server.show("shop")["compute"] == "resuming"
    held.release()
    server.wait_for("running", "shop")
    assert credentials == server.api.credentials("shop")
    assert server.mysql_query("SELECT 1") == ((1,),)
    assert server.besides_scaling("shop") == ["0170", "0147", "0148"]
