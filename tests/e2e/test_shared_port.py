"""One port for all clusters: whichever way a client names its cluster, it reaches that one and wakes no other.

`shop` has the newest PostgreSQL that is here, `old` the oldest.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from fix_home import running_for_a_file
from harness import Server
from tls import clients
from tls.clients import Refused, Target
from waiting import wait_until

STATES = ("running", "frozen", "stopped")
WAYS = ("handoff", "relay")

FORMS = {
    "host name": {"host": "shop.zorya.localhost"},
    "setting": {"options": "-c zorya.cluster=shop"},
    "cluster option": {"options": "--cluster=shop"},
    "endpoint option": {"options": "endpoint=shop"},
    "database": {"dbname": "shop/shop"},
}
"""How a client of `shop` may name it. All but the first connect to a host name that says nothing."""

WRONG_NAMES = {
    "unknown": ({"options": "-c zorya.cluster=nowhere"}, "shop", 'cluster "nowhere" does not exist'),
    "unknown database": ({}, "nowhere/main", 'cluster "nowhere" does not exist'),
    "impossible": ({"options": "--cluster=-x-"}, "shop", 'cluster "-x-" does not exist'),
    "none": ({}, "shop", "this port serves several clusters: say which one"),
    "two": ({"options": "--cluster=shop"}, "old/old", 'names two clusters, "shop" and "old"'),
}


HANDED_OVER = pytest.mark.parametrize("way", ["handoff"], indirect=True)
"""For tests of what is settled before a client is attached."""


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(way: str, all_templates: Path, majors: list[int]) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"ZORYA_SHARED_PORT": str(port), "ZORYA_ATTACH": way, "ZORYA_FREEZE_AFTER": "0.05"}
    with running_for_a_file(all_templates, **env) as started:
        # For later starts too.
        started.env |= env
        started.run("create", "shop", "--version", str(majors[-1]))
        started.run("create", "old", "--version", str(majors[0]))
        yield started


@pytest.fixture(scope="module")
def root(server: Server) -> Path:
    path = server.home.parent / "root.pem"
    path.write_text(server.run("ca"))
    return path


@pytest.fixture(scope="module")
def shop(server: Server, root: Path) -> Target:
    return at_shared_port(server, root, "shop")


def at_shared_port(server: Server, root: Path, name: str) -> Target:
    """Answer the cluster, named by the host name that is connected to."""
    credentials = server.api.credentials(name)
    return Target(
        host=f"{name}.zorya.localhost",
        port=int(server.env["ZORYA_SHARED_PORT"]),
        user=credentials["username"],
        password=credentials["password"],
        database=credentials["database"],
        root=root,
    )


def nameless(target: Target) -> Target:
    """Have the host name say nothing."""
    return replace(target, host="localhost")


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What a session knows of itself."""

    cluster: str
    setting: str | None
    tls: str
    is_own_connection: bool
    """Whether the engine sees the client's own address and port."""


def reach(target: Target, mode: str, **more: str) -> Reached:
    """Connect, and look where that led."""
    try:
        with psycopg.connect(psycopg.conninfo.make_conninfo(target.conninfo(sslmode=mode), **more)) as connection:
            row = connection.execute(
                "SELECT current_setting('cluster_name'), current_setting('zorya.cluster', true), current_database(),"
                " ssl, client_addr || ':' || client_port"
                " FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE pid = pg_backend_pid()"
            ).fetchone()
            assert row is not None
            cluster, setting, database, engine_encrypts, seen = row
            assert cluster == database
            with socket.socket(fileno=os.dup(connection.fileno())) as own:
                host, port = own.getsockname()
            client_encrypts = bool(connection.pgconn.ssl_in_use)
    except psycopg.OperationalError as error:
        raise Refused(str(error)) from error
    tls = str(clients.Session(client_encrypts=client_encrypts, engine_encrypts=engine_encrypts))
    return Reached(cluster=cluster, setting=setting, tls=tls, is_own_connection=seen == f"{host}/32:{port}")


@contextlib.contextmanager
def in_state(server: Server, name: str, state: str) -> Iterator[None]:
    """Have the cluster in this state at the beginning of the block."""
    with contextlib.ExitStack() as stack:
        if state == "stopped":
            server.api.pause(name, force=True)
            server.wait_for("stopped", name)
        else:
            other = stack.enter_context(psycopg.connect(server.url(name), autocommit=True))
            if state == "running":
                stack.enter_context(at_work(other))
            server.wait_for(state, name)
        yield


@contextlib.contextmanager
def at_work(connection: psycopg.Connection, nap_s: float = 0.02) -> Iterator[threading.Thread]:
    """Keep a session busy for the block, or until it is cancelled or ends."""

    done = threading.Event()

    def work() -> None:
        with contextlib.suppress(psycopg.OperationalError):
            while not done.is_set():
                connection.execute(f"SELECT pg_sleep({nap_s})".encode())

    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_until(lambda: connection.info.transaction_status is psycopg.pq.TransactionStatus.ACTIVE, "it works")
        yield worker
    finally:
        done.set()
        worker.join(30)
    assert not worker.is_alive()


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
@pytest.mark.parametrize(
    ("form", "mode"),
    # A host name is told with TLS alone.
    [(form, mode) for form in FORMS for mode in ("disable", "require") if (form, mode) != ("host name", "disable")],
)
def test_client_reaches_the_cluster_that_it_names(
    server: Server, shop: Target, way: str, form: str, mode: str, state: str
) -> None:
    is_by_host = form == "host name"
    with in_state(server, "shop", state), asleep(server, "old"):
        reached = reach(nameless(shop), mode, **FORMS[form])
    by_engine = is_by_host and state != "stopped"
    assert reached == Reached(
        cluster="shop",
        setting="shop" if form == "setting" else None,
        tls="plain" if mode == "disable" else "TLS by PostgreSQL" if by_engine else "TLS by Zorya",
        is_own_connection=way == "handoff" and (mode == "disable" or by_engine),
    )


@HANDED_OVER
@pytest.mark.parametrize("mode", ["disable", "require"])
@pytest.mark.parametrize("case", WRONG_NAMES)
def test_client_is_told_when_it_names_no_cluster_that_is_there(
    server: Server, shop: Target, case: str, mode: str
) -> None:
    more, dbname, said = WRONG_NAMES[case]
    program = clients.find_psql()
    if program is None:
        pytest.skip("this host has no psql")
    with asleep(server, "shop", "old"):
        with pytest.raises(Refused, match=said) as refused:
            clients.psql(program)(replace(nameless(shop), database=dbname), mode, **more)
        assert refused.value.args[0].count("FATAL") == 1
    if case == "none":
        assert "HINT:  Connect with TLS to CLUSTER.zorya.localhost, or with options=" in refused.value.args[0]


@HANDED_OVER
def test_client_is_told_when_its_host_name_is_of_no_cluster(server: Server, shop: Target) -> None:
    with asleep(server, "shop", "old"):
        with pytest.raises(Refused, match=r'FATAL: +cluster "nowhere" does not exist'):
            reach(replace(shop, host="nowhere.zorya.localhost"), "require")
        # A host name of another domain is none, and a hint is given.
        with pytest.raises(Refused, match="say which one"):
            reach(replace(shop, host="shop.elsewhere.example"), "require")


@HANDED_OVER
@pytest.mark.parametrize("form", ["host name", "setting"])
@pytest.mark.parametrize("state", STATES)
def test_password_of_one_cluster_opens_no_other(
    server: Server, shop: Target, root: Path, form: str, state: str
) -> None:
    host = "old.zorya.localhost" if form == "host name" else "localhost"
    options = {} if form == "host name" else {"options": "-c zorya.cluster=old"}
    with in_state(server, "old", state), asleep(server, "shop"):
        with pytest.raises(Refused, match=r'FATAL: +password authentication failed for user "zorya"'):
            reach(replace(shop, host=host), "require", dbname="old", **options)
        assert state != "stopped" or server.show("old")["compute"] == "stopped"


@pytest.mark.parametrize("state", ["running", "stopped"])
@pytest.mark.parametrize("name", ["shop", "old"])
@pytest.mark.parametrize("form", ["host name", "setting"])
def test_direct_negotiation_works_with_any_engine(server: Server, root: Path, form: str, name: str, state: str) -> None:
    program = clients.find_psql(17)
    if program is None:
        pytest.skip("no psql of PostgreSQL 17 is here")
    target = at_shared_port(server, root, name)
    more = {}
    if form == "setting":
        target, more = nameless(target), {"options": f"-c zorya.cluster={name}"}
    major = int(server.show(name)["engine_version"].partition(".")[0])
    by_engine = form == "host name" and state == "running" and major >= 17
    with in_state(server, name, state):
        session = clients.psql(program)(target, "verify-full", sslnegotiation="direct", **more)  # type: ignore[call-arg]
    assert str(session) == ("TLS by PostgreSQL" if by_engine else "TLS by Zorya")


def cancel(connection: psycopg.Connection, worker: threading.Thread) -> None:
    """Have the query cancelled; a request that comes before the engine has begun with it does nothing."""
    for _ in range(30):
        connection.cancel_safe(timeout=30)
        worker.join(1)
        if not worker.is_alive():
            return
    pytest.fail("the query goes on")


@pytest.mark.parametrize("mode", ["disable", "require"])
def test_query_is_cancelled_through_the_port(server: Server, shop: Target, mode: str) -> None:
    conninfo = nameless(shop).conninfo(sslmode=mode, options="-c zorya.cluster=shop")
    with psycopg.connect(conninfo) as connection, at_work(connection, 2) as worker:
        cancel(connection, worker)


def test_query_is_cancelled_with_tls_when_the_host_name_is_the_clusters(server: Server, shop: Target) -> None:
    with psycopg.connect(shop.conninfo(sslmode="verify-full")) as connection, at_work(connection, 2) as worker:
        cancel(connection, worker)


@pytest.mark.parametrize("mode", ["disable", "verify-full"])
def test_psql_cancels_its_query_when_it_is_interrupted(server: Server, shop: Target, mode: str) -> None:
    program = clients.find_psql(17)
    if program is None:
        pytest.skip("no psql of PostgreSQL 17 is here")
    # Without the password, which is for the environment.
    conninfo = replace(shop, password="").conninfo(sslmode=mode, options="-c zorya.cluster=shop")
    process = subprocess.Popen(
        [program, "-XAt", conninfo],
        env={**os.environ, "PGPASSWORD": shop.password},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        assert process.stdin is not None
        process.stdin.write(b"SELECT 'mine', pg_sleep(120);\nSELECT 6 * 7;\n")
        process.stdin.flush()
        query = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT ''mine%' AND state = 'active'"
        wait_until(lambda: server.query(query, "shop"), "the query runs")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert b"canceling statement due to user request" in said


@HANDED_OVER
def test_cancel_request_for_a_process_that_is_no_engines_wakes_nothing(server: Server, shop: Target) -> None:
    with in_state(server, "shop", "stopped"), asleep(server, "shop", "old"):
        for pid in (0, 1, os.getpid(), 2**32 - 1):
            with socket.create_connection(("127.0.0.1", shop.port), timeout=30) as stranger:
                stranger.sendall(b"\0\0\0\x10\x04\xd2\x16\x2e" + pid.to_bytes(4) + b"\0\0\0\x09")
                assert stranger.recv(1) == b""


@HANDED_OVER
def test_rules_of_the_cluster_hold(server: Server, shop: Target) -> None:
    plain = {"options": "-c zorya.cluster=shop"}
    with in_state(server, "shop", "stopped"):
        server.run("modify", "shop", "--require-tls")
        with asleep(server, "shop"), pytest.raises(Refused, match="allows no connections without TLS"):
            reach(shop, "disable", **plain)
        assert reach(shop, "require").cluster == "shop"
        with pytest.raises(Refused, match="allows no connections without TLS"):
            reach(shop, "disable", **plain)
        server.run("modify", "shop", "--no-require-tls", "--allow", "192.0.2.0/24")
        server.api.pause("shop", force=True)
        server.wait_for("stopped", "shop")
        with asleep(server, "shop"):
            for mode in ("disable", "require"):
                with pytest.raises(Refused, match=r'cluster "shop" allows no connections from 127\.0\.0\.1'):
                    reach(shop, mode, **plain)
        server.run("modify", "shop", "--allow", "127.0.0.0/8", "--max-clients", "1")
        with psycopg.connect(shop.conninfo(sslmode="require")):
            for mode in ("disable", "require"):
                with pytest.raises(Refused, match="too many clients already"):
                    reach(shop, mode, **plain)
        server.run("modify", "shop", "--max-clients", "none")


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_sessions_end_when_their_cluster_is_deleted(server: Server, root: Path, shop: Target, state: str) -> None:
    """The first one of a stopped cluster is relayed, the first one of one that runs handed over."""
    server.run("create", "brief")
    with in_state(server, "brief", state), psycopg.connect(shop.conninfo(sslmode="require")) as other:
        target = at_shared_port(server, root, "brief")
        session = psycopg.connect(target.conninfo(sslmode="require"), autocommit=True)
        server.run("delete", "brief", "--yes")
        assert select.select([session.fileno()], [], [], 30)[0]
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
        session.close()
        with pytest.raises(Refused, match='cluster "brief" does not exist'):
            reach(target, "require")
        assert other.execute("SELECT 6 * 7").fetchone() == (42,)


def test_port_is_kept_when_the_server_is_killed(server: Server, way: str, shop: Target) -> None:
    with psycopg.connect(server.url("shop")), psycopg.connect(shop.conninfo(sslmode="require")) as session:
        pid = server.show("shop")["engine_pid"]
        server.kill()
        # Nobody answers yet: the connection waits in the keeper's copy of the socket.
        waiting = socket.create_connection(("127.0.0.1", shop.port), timeout=30)
        with waiting:
            server.start()
            waiting.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
            assert waiting.recv(1) == b"S"
        if way == "handoff":
            assert session.execute("SELECT 6 * 7").fetchone() == (42,)
        assert reach(shop, "require").cluster == "shop"
        assert server.show("shop")["engine_pid"] == pid
