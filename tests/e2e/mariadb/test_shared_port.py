"""One port for all MariaDB clusters: a client names its cluster by TLS's host name or as `user@cluster`."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from e2e.mariadb.clients import one, run
from fix_home import running_for_a_file
from harness import Server

STATES = ("running", "frozen", "stopped")
FORMS = ("host name", "user")


@pytest.fixture(scope="module")
def server(templates: Path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"ZORYA_MYSQL_SHARED_PORT": str(port), "ZORYA_FREEZE_AFTER": "0.05"}
    with running_for_a_file(templates, **env) as started:
        started.env |= env
        for name in ("shop", "other"):
            started.api.create({"name": name, "engine": "mariadb"})
        yield started


def connect(server: Server, name: str, form: str, *, tls: bool, **more: Any) -> Any:
    """Connect to the shared port as a client of this cluster."""
    credentials = server.api.credentials(name)
    options: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": int(server.env["ZORYA_MYSQL_SHARED_PORT"]),
        "user": credentials["username"],
        "password": credentials["password"],
        "database": credentials["database"],
        "connect_timeout": 30,
        "ssl_disabled": not tls,
    }
    if tls:
        options |= {"ssl_ca": str(server.home / "tls" / "ca.pem"), "ssl_verify_cert": True}
    if form == "user":
        options["user"] += f"@{name}"
    elif form == "host name":
        options |= {"host": f"{name}.zorya.localhost", "ssl_verify_identity": True}
    return pymysql.connect(**{**options, **more})


@pytest.fixture(autouse=True)
def _names_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every host's resolver knows that what ends in `localhost` is this host (RFC 6761)."""
    real = socket.create_connection

    def create(address: tuple[str, int], *args: Any, **more: Any) -> socket.socket:
        host = "127.0.0.1" if address[0].endswith(".localhost") else address[0]
        return real((host, address[1]), *args, **more)

    monkeypatch.setattr(socket, "create_connection", create)


@contextlib.contextmanager
def in_state(server: Server, name: str, state: str) -> Iterator[None]:
    """Have the cluster in this state at the beginning of the block."""
    if state == "stopped":
        server.api.pause(name, force=True)
        server.wait_for("stopped", name)
        yield
        return
    server.run("modify", name, "--freeze-after", "never" if state == "running" else "0.05")
    with server.mysql(name):
        server.wait_for(state, name)
        yield


@contextlib.contextmanager
def asleep(server: Server, *names: str) -> Iterator[None]:
    """Have these clusters stopped for the block, and fail if they were woken."""
    for name in names:
        server.api.pause(name, force=True)
        server.wait_for("stopped", name)
    before = {name: server.events(name) for name in names}
    yield
    assert {name: server.events(name) for name in names} == before
    assert {server.show(name)["compute"] for name in names} == {"stopped"}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("form", "tls"), [("host name", True), ("user", True), ("user", False)])
def test_client_reaches_the_cluster_that_it_names(server: Server, form: str, tls: bool, state: str) -> None:
    with (
        in_state(server, "shop", state),
        asleep(server, "other"),
        connect(server, "shop", form, tls=tls) as session,
    ):
        assert one(session, "SELECT CONCAT(DATABASE(), ' ', CURRENT_USER())") == "shop zorya@%"
        cipher = "SELECT VARIABLE_VALUE FROM information_schema.session_status WHERE VARIABLE_NAME='Ssl_cipher'"
        assert bool(one(session, cipher)) is tls
        with pytest.raises(pymysql.err.ProgrammingError):
            run(session, "SELECT * FROM nothing")
        assert one(session, "SELECT REPEAT('x', 20000000)") == "x" * 20_000_000


@pytest.mark.parametrize("tls", [False, True])
def test_client_is_told_when_it_names_no_cluster_that_is_there(server: Server, tls: bool) -> None:
    with asleep(server, "shop", "other"):
        for user, told in (
            ("zorya", "this port serves several clusters: say which one"),
            ("zorya@nowhere", 'cluster "nowhere" does not exist'),
            # What can be no cluster's name belongs to the user.
            ("zorya@-x-", "this port serves several clusters: say which one"),
            ("zorya@main", "main"),
        ):
            with pytest.raises(pymysql.err.OperationalError) as refused:
                connect(server, "shop", "", tls=tls, user=user)
            assert told in refused.value.args[1], refused.value.args
        if tls:
            with pytest.raises(pymysql.err.OperationalError, match='cluster "nowhere" does not exist'):
                connect(server, "shop", "host name", tls=True, host="nowhere.zorya.localhost")


@pytest.mark.parametrize("state", ["running", "stopped"])
@pytest.mark.parametrize("form", FORMS)
def test_password_of_one_cluster_opens_no_other(server: Server, form: str, state: str) -> None:
    password = server.api.credentials("shop")["password"]
    with in_state(server, "other", state), asleep(server, "shop"):
        with pytest.raises(pymysql.err.OperationalError) as refused:
            connect(server, "other", form, tls=True, password=password)
        assert refused.value.args == (1045, "Access denied for user 'zorya'@'127.0.0.1' (using password: YES)")
        assert state != "stopped" or server.show("other")["compute"] == "stopped"


def test_accounts_for_an_address_and_users_with_an_at_sign_work(server: Server) -> None:
    with server.mysql() as session:
        run(
            session,
            "CREATE USER app@'127.0.5.%' IDENTIFIED BY 'five', `a@b` IDENTIFIED BY 'at'",
            "GRANT SELECT ON shop.* TO app@'127.0.5.%', `a@b`",
        )
    for state in ("running", "stopped"):
        with in_state(server, "shop", state):
            options = {"user": "app@shop", "password": "five", "bind_address": "127.0.5.9"}
            with connect(server, "shop", "", tls=False, **options) as session:
                assert one(session, "SELECT USER()") == "app@127.0.5.9"
            with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
                connect(server, "shop", "", tls=False, **{**options, "bind_address": "127.0.0.1"})
        with (
            in_state(server, "shop", state),
            connect(server, "shop", "", tls=False, user="a@b@shop", password="at") as session,
        ):
            assert one(session, "SELECT CURRENT_USER()") == "a@b@%"


def test_rules_of_the_cluster_hold(server: Server) -> None:
    with in_state(server, "shop", "stopped"):
        server.run("modify", "shop", "--require-tls")
        with asleep(server, "shop"), pytest.raises(pymysql.err.OperationalError, match=r"TLS|secure transport"):
            connect(server, "shop", "user", tls=False)
        with connect(server, "shop", "user", tls=True) as session:
            assert one(session, "SELECT 1") == 1
        server.run("modify", "shop", "--no-require-tls", "--allow", "192.0.2.0/24")
        with asleep(server, "shop"), pytest.raises(pymysql.err.OperationalError, match=r"allows no connections from"):
            connect(server, "shop", "user", tls=False)
        server.run("modify", "shop", "--allow", "127.0.0.0/8")


def test_sessions_end_when_their_cluster_is_deleted(server: Server) -> None:
    server.api.create({"name": "brief", "engine": "mariadb"})
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(connect(server, "brief", "user", tls=True))
        assert one(session, "SELECT 1") == 1
        server.run("delete", "brief", "--yes")
        with pytest.raises((pymysql.err.OperationalError, pymysql.err.InterfaceError)):
            one(session, "SELECT 1")
        with pytest.raises(pymysql.err.OperationalError, match='cluster "brief" does not exist'):
            connect(server, "shop", "", tls=True, user="zorya@brief")
