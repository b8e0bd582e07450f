"""A server for each way to attach, with MariaDB cluster "shop" asleep before each file: the first client wakes it.

The clients meet each way: handed over, relayed, and with an engine that freezes between their statements.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.mariadb.shop import Shop
from clients.node_package import install
from fix_home import running_for_a_file
from harness import Server
from waiting import wait_until
from zorya.engines.mariadb import installations

NODE = Path(__file__).parent / "node"
FREEZES = {"1008", "1009"}
WAYS = {
    "handoff": {"ZORYA_FREEZE_AFTER": "never"},
    "relay": {"ZORYA_FREEZE_AFTER": "never", "ZORYA_ATTACH": "relay"},
    "freezing": {"ZORYA_FREEZE_AFTER": "0.01"},
}


@pytest.fixture(scope="session", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How the clients meet the engine."""
    return str(request.param)


@pytest.fixture(scope="session")
def started(way: str, templates: Path) -> Iterator[Server]:
    """The server of one way, with cluster "shop"."""
    if not installations.find(None):
        pytest.skip("this host has no MariaDB 10.6 or newer (Debian: mariadb-server)")
    with running_for_a_file(templates, **WAYS[way]) as server:
        server.api.create({"name": "shop", "engine": "mariadb"})
        yield server


@pytest.fixture(scope="session")
def root(started: Server) -> Path:
    """The root that the server's certificates go back to."""
    path = started.home.parent / "root.pem"
    path.write_text(started.run("ca"))
    return path


@pytest.fixture(scope="module")
def server(started: Server, way: str) -> Iterator[Server]:
    """The server, whose cluster "shop" sleeps when the file's first test begins, and starts once for all of them."""
    if started.show("shop")["compute"] != "stopped":
        started.api.pause("shop", force=True)
        started.wait_for("stopped", "shop")
    started.begin_events()
    yield started
    assert started.show("shop")["attach"] == ("relay" if way == "relay" else "handoff")
    if way == "freezing" and started.show("shop")["compute"] != "stopped":
        started.wait_for("frozen", "shop")
    events = started.besides_scaling("shop")
    assert [event for event in events if event not in FREEZES] in ([], ["0147", "0148"])
    assert way == "freezing" or not FREEZES.intersection(events)
    started.check_log()


@pytest.fixture(scope="module")
def shop(server: Server) -> Shop:
    """Where the cluster is."""
    return place(server, "shop")


def place(server: Server, name: str) -> Shop:
    """Answer where a cluster is."""
    credentials = server.api.credentials(name)
    return Shop(
        host=credentials["endpoint"]["host"],
        port=credentials["endpoint"]["port"],
        user=credentials["username"],
        password=credentials["password"],
        database=credentials["database"],
    )


@pytest.fixture(scope="module")
def settle(server: Server, way: str) -> Callable[[], None]:
    """Where the engine freezes between statements, wait until it has; otherwise go on."""

    def wait() -> None:
        if way == "freezing":
            wait_until_told(server, lambda shown: shown["compute"] == "frozen", "the cluster is frozen")

    return wait


@pytest.fixture(scope="module")
def stays_awake(server: Server, way: str) -> Callable[[str], None]:
    """Where the engine freezes between statements, wait until Zorya says that it does not, for this reason."""

    def wait(reason: str) -> None:
        if way == "freezing":
            wait_until_told(server, lambda shown: reason in shown["awake_reason"].lower(), f"a {reason} keeps it awake")

    return wait


def wait_until_told(server: Server, condition: Callable[[Any], bool], what: str) -> None:
    """Wait until `zorya show` says so of the cluster; fails with what it says."""
    try:
        wait_until(lambda: condition(server.show("shop")), what)
    except AssertionError as error:
        raise AssertionError(f"{error}; it says: {server.show('shop')}") from None


@pytest.fixture
def run(shop: Shop) -> Callable[..., str]:
    """Run one of MariaDB's own programs as the cluster's user and answer what it printed; fails when it failed."""
    return runner(shop)


def runner(shop: Shop) -> Callable[..., str]:
    """Answer what runs programs as the user of this cluster."""

    def call(name: str, *args: str, stdin: str = "") -> str:
        if shutil.which(name) is None:
            pytest.skip(f"this host has no {name}")
        done = subprocess.run(
            [name, *connecting(name, shop), *args],
            input=stdin,
            env={**os.environ, "MYSQL_PWD": shop.password},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{name} {' '.join(args)}: {done.stderr} {done.stdout}"
        return done.stdout

    return call


def connecting(name: str, shop: Shop) -> list[str]:
    """Answer the arguments that say where to and as whom; the password is in the environment, but for sysbench's."""
    if name == "sysbench":
        return [
            f"--mysql-host={shop.host}",
            f"--mysql-port={shop.port}",
            f"--mysql-user={shop.user}",
            f"--mysql-password={shop.password}",
            f"--mysql-db={shop.database}",
        ]
    return [
        "--no-defaults",
        f"--host={shop.host}",
        f"--port={shop.port}",
        f"--user={shop.user}",
        *([] if name == "mariadb-slap" else ["--default-character-set=utf8mb4"]),
    ]


@pytest.fixture(scope="session")
def node_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the folder with its packages installed."""
    folder = install(NODE, tmp_path_factory.mktemp("node") / "package")
    yield folder
    shutil.rmtree(folder)
