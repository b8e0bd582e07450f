"""What each client gets in each of its modes while the cluster runs or is frozen, handed over and relayed."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from clients.mariadb import tls
from clients.mariadb.conftest import place
from clients.mariadb.tls import CONNECTOR, OTHER_ROOTS, OTHERS, PLAIN, WRONG_NAME, Refused, Target
from harness import Server

pytestmark = pytest.mark.parametrize("way", ["handoff", "relay"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def server(started: Server) -> Iterator[Server]:
    """A server with a cluster that freezes soon."""
    started.api.create({"name": "safe", "engine": "mariadb", "freeze_after": "0.05"})
    yield started
    started.api.delete("safe")
    started.check_log()


@pytest.fixture(scope="module")
def target(server: Server, root: Path) -> Target:
    """Where that cluster is."""
    return Target(shop=place(server, "safe"), root=root)


@contextlib.contextmanager
def in_state(server: Server, state: str) -> Iterator[None]:
    """Have the cluster in this state at the beginning of the block."""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(server.mysql("safe"))
        if state == "running":
            done = threading.Event()
            worker = threading.Thread(target=_work, args=(other, done))
            worker.start()
            stack.callback(worker.join)
            stack.callback(done.set)
        server.wait_for(state, "safe")
        yield


def _work(connection: "pymysql.Connection[Any]", done: threading.Event) -> None:
    with connection.cursor() as cursor:
        while not done.is_set():
            cursor.execute("SELECT SLEEP(0.02)")


@pytest.mark.parametrize("state", ["running", "frozen"])
@pytest.mark.parametrize("client", [*CONNECTOR, *OTHERS])
def test_client_gets_what_its_mode_asks_for(server: Server, target: Target, client: str, state: str) -> None:
    connect, gets = (CONNECTOR | OTHERS)[client]
    with in_state(server, state):
        assert connect(target) == (gets != PLAIN)


@pytest.mark.parametrize(("driver", "state"), [("mysql2", "frozen"), ("mariadb", "frozen"), ("mysql2", "running")])
def test_node_gets_tls_that_it_verifies(
    server: Server, target: Target, node_package: Path, driver: str, state: str
) -> None:
    with in_state(server, state):
        assert tls.with_node(node_package, driver, "verified")(target)


@pytest.mark.parametrize("state", ["running", "frozen"])
@pytest.mark.parametrize("mode", ["VERIFY_CA", "VERIFY_IDENTITY"])
def test_client_goes_when_it_does_not_trust_the_certificate(
    server: Server, target: Target, mode: str, state: str
) -> None:
    connect, _gets = CONNECTOR[mode]
    wrong = target.named(WRONG_NAME) if mode == "VERIFY_IDENTITY" else Target(shop=target.shop, root=OTHER_ROOTS)
    if not wrong.root.exists():
        pytest.skip("this host has no other roots")
    with in_state(server, state), pytest.raises(Refused):
        connect(wrong)
