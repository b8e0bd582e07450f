"""What strangers do at the start of a connection, at a cluster's own port and at the shared one.

Nothing wakes that sleeps, nothing hangs, nothing leaks, and those who have a session notice nothing.
"""

import asyncio
import contextlib
import itertools
import json
import random
import re
import resource
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import psycopg
import pytest

from e2e.raw_client import LoginRefused, RawClient, all_end, startup
from fix_home import running_for_a_file
from harness import Server
from waiting import wait_until
from zorya.engines.postgres import installations
from zorya.gateway.postgres.pgwire import MAX_PACKET_BYTES, SSL_REQUEST

STATES = ("stopped", "running")
PORTS = ("own", "shared")
HOST_NAME = "main.zorya.localhost"
HALF_OPEN = 1000

ADDRESSES = (f"127.0.1.{number}" for number in range(1, 255))
"""Each for one client whose login fails, so that none has to wait for its turn."""


@pytest.fixture(scope="module")
def server(all_templates: Path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    newest = max(installations.find(None), key=lambda found: installations.version_key(found.version))
    env = {
        "ZORYA_POSTGRES": str(newest.folder),
        "ZORYA_SHARED_PORT": str(port),
        "ZORYA_STARTUP_TIMEOUT_S": "3",
        "ZORYA_LOGIN_DELAY_MAX_S": "1",
        "ZORYA_MAX_HANDSHAKES": str(HALF_OPEN // 2),
        "ZORYA_FREEZE_AFTER": "never",
    }
    with running_for_a_file(all_templates, **env) as started:
        started.env |= env
        yield started


@pytest.fixture(params=STATES)
def state(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    """The state of `main`, in which it has to stay."""
    with remaining(server, str(request.param)):
        yield str(request.param)


@pytest.fixture(params=PORTS)
def port(request: pytest.FixtureRequest, server: Server) -> int:
    return port_of(server, str(request.param))


def port_of(server: Server, which: str) -> int:
    if which == "shared":
        return int(server.env["ZORYA_SHARED_PORT"])
    return int(server.show()["endpoint"]["port"])


def ports(server: Server) -> list[int]:
    return [port_of(server, which) for which in PORTS]


def api_port(server: Server) -> int:
    found = re.search(r":(\d+)$", json.loads((server.home / "run" / "api.json").read_text())["url"])
    assert found is not None
    return int(found[1])


@contextlib.contextmanager
def remaining(server: Server, state: str) -> Iterator[None]:
    """Have `main` in this state, and see that it stays so: asleep, or with a session that goes on."""
    if state == "running":
        with psycopg.connect(server.url()) as session:
            before = server.show()
            yield
            assert session.execute("SELECT 6 * 7").fetchone() == (42,)
            assert server.query("SELECT 1") == [(1,)]
            assert server.show()["engine_pid"] == before["engine_pid"]
            return
    server.api.pause("main", force=True)
    server.wait_for("stopped")
    events = server.events()
    yield
    wait_until(lambda: server.show()["sessions"] == 0, "every client is counted out")
    assert (server.show()["compute"], server.events()) == ("stopped", events)


def login(server: Server, name: str = "main", **more: str) -> tuple[dict[str, str], str]:
    """Answer the parameters that name the cluster at any port, and the password."""
    credentials = server.api.credentials(name)
    parameters = {"user": credentials["username"], "database": credentials["database"]}
    return {**parameters, "options": f"-c zorya.cluster={name}", **more}, credentials["password"]


# A request for TLS and what comes with it.


@pytest.mark.parametrize("injected", ["startup", "query", "hello"])
def test_what_comes_behind_a_request_for_tls_is_never_heard(
    server: Server, state: str, port: int, injected: str
) -> None:
    """CVE-2021-23214: it came unprotected, and must not pass for what came within TLS."""
    parameters, _ = login(server)
    with RawClient(port, host_name=HOST_NAME) as client:
        hello = client.hello()
        behind = {"startup": startup(**parameters), "query": b"Q\0\0\0\x0dSELECT 1\0", "hello": hello}[injected]
        client.socket.sendall(SSL_REQUEST + behind)
        said = client.socket.recv(1)
        # PostgreSQL itself looks for such bytes once it has said yes, and then says no more.
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
            if said == b"S" and injected != "hello":
                client.socket.sendall(hello)
                client.shake_hands()
                said += client.rest()
            else:
                client.socket.shutdown(socket.SHUT_WR)
                while more := client.socket.recv(65536):
                    said += more
    assert b"R\0\0\0" not in said
    assert said == b"S" or injected == "hello" or b"received unencrypted data after SSL request" in said


HELLOS = {
    "cut": lambda hello: hello[:-7],
    "only a header": lambda hello: hello[:5],
    "garbage": lambda _: b"\x16\x03\x01\x01\0" + bytes(random.Random(7).randbytes(256)),
    "not TLS": lambda _: b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "longer than a record": lambda hello: b"\x16\x03\x01\x40\x01\x01" + hello * 60,
    "longer than 16 KiB, in two records": lambda _: (
        (b"\x16\x03\x01\x30\0" + b"\x01\0\x50\0\x03\x03" + bytes(12282)) * 2
    ),
    "records without end": lambda _: b"\x16\x03\x01\0\x01\x01" * 6000,
    "of SSL 2": lambda _: b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10" + bytes(40),
    "an alert": lambda _: b"\x15\x03\x01\0\x02\x02\x28",
}


def test_hello_that_is_none_leads_nowhere(server: Server, state: str) -> None:
    with contextlib.ExitStack() as stack:
        opened = []
        for port, is_direct, break_ in itertools.product(ports(server), (False, True), HELLOS.values()):
            client = stack.enter_context(RawClient(port, host_name=HOST_NAME))
            if not is_direct:
                client.ask_for_tls()
            broken = break_(client.hello())
            with contextlib.suppress(ConnectionError):
                client.socket.sendall(broken)
            opened.append(client.socket)
        all_end(opened)


@pytest.mark.parametrize("cut", ["a byte a segment", "a byte a record"])
def test_hello_in_small_pieces_is_understood(server: Server, state: str, port: int, cut: str) -> None:
    with RawClient(port, host_name=HOST_NAME) as client:
        client.ask_for_tls()
        hello = client.hello()
        if cut == "a byte a record":
            client.socket.sendall(b"".join(hello[:3] + b"\0\x01" + bytes([byte]) for byte in hello[5:]))
        else:
            for byte in hello:
                client.socket.sendall(bytes([byte]))
        client.shake_hands()


def test_tls_that_is_too_old_is_refused(server: Server, state: str, port: int) -> None:
    with RawClient(port, host_name=HOST_NAME) as client:
        client.ask_for_tls()
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            hello = client.hello(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1)
        client.socket.sendall(hello)
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            client.shake_hands()


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_longest_startup_packet_is_understood(server: Server, port: int, is_tls: bool) -> None:
    parameters, password = login(server)
    parameters["application_name"] = ""
    parameters["application_name"] = "x" * (MAX_PACKET_BYTES - len(startup(**parameters)))
    assert len(startup(**parameters)) == MAX_PACKET_BYTES
    server.api.pause("main", force=True)
    # The first wakes the cluster, the second finds it awake.
    for _ in range(2):
        with RawClient(port, host_name=HOST_NAME) as client:
            if is_tls:
                client.secure()
            assert list(client.log_in(parameters, password))[-1] == "ready"
    with RawClient(port, host_name=HOST_NAME) as client:
        if is_tls:
            client.secure()
        parameters["application_name"] += "x"
        with pytest.raises((LoginRefused, ConnectionError)):
            list(client.log_in(parameters, password))


# Strangers.

STRANGERS = {
    "nothing": b"",
    "a byte": b"\0",
    "zeros": bytes(20_000),
    "noise": random.Random(5).randbytes(50_000),
    "HTTP": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "HTTP 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "SMTP": b"EHLO here\r\nMAIL FROM:<a@b.example>\r\n",
    "MySQL": b"\x20\0\0\x01\x85\xa6\x3f\x20\0\0\0\1\x21" + bytes(23),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "RDP": b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0",
    "SMB": b"\0\0\0\xa4\xff\x53\x4d\x42\x72" + bytes(155),
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "a request for TLS": SSL_REQUEST,
    "two of them": SSL_REQUEST * 2,
    "a request for GSSAPI": b"\0\0\0\x08\x04\xd2\x16\x30",
    "both": b"\0\0\0\x08\x04\xd2\x16\x30" + SSL_REQUEST,
    "a startup packet that does not end": startup(user="zorya", database="main")[:-3],
    "a packet of 2 GB": b"\x7f\xff\xff\xff\0\3\0\0",
    "a packet one byte too long": (MAX_PACKET_BYTES + 1).to_bytes(4) + b"\0\3\0\0" + bytes(MAX_PACKET_BYTES - 7),
    "protocol 2": b"\0\0\0\x08\0\2\0\0",
    "no user": b"\0\0\0\x09\0\3\0\0\0",
    "an odd number of strings": startup(user="zorya")[:-2] + b"\0a\0\0",
    "a cancel request": b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\0\0\0\x09",
}
WITHIN_TLS = ("HTTP", "zeros", "noise", "SMTP", "a request for TLS", "nothing", "protocol 2")


def test_strangers_are_cut_off(server: Server, state: str) -> None:
    with contextlib.ExitStack() as stack:
        opened = []
        for port, sent in itertools.product(ports(server), STRANGERS.values()):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            with contextlib.suppress(ConnectionError):
                stranger.sendall(sent)
            opened.append(stranger)
        all_end(opened)


def test_other_protocols_within_tls_are_cut_off(server: Server, state: str) -> None:
    with contextlib.ExitStack() as stack:
        opened = []
        for port, what in itertools.product(ports(server), WITHIN_TLS):
            client = stack.enter_context(RawClient(port, host_name=HOST_NAME))
            client.secure()
            with contextlib.suppress(ConnectionError):
                client.send(STRANGERS[what])
            opened.append(client.socket)
        all_end(opened)


def test_strangers_wake_nothing_even_where_anyone_may(server: Server) -> None:
    server.run("modify", "main", "--wake-on", "any")
    with remaining(server, "stopped"), contextlib.ExitStack() as stack:
        opened = []
        for port in ports(server):
            for sent in STRANGERS.values():
                opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)))
                with contextlib.suppress(ConnectionError):
                    opened[-1].sendall(sent)
            for is_direct, break_ in itertools.product((False, True), HELLOS.values()):
                client = stack.enter_context(RawClient(port, host_name=HOST_NAME))
                if not is_direct:
                    client.ask_for_tls()
                with contextlib.suppress(ConnectionError):
                    client.socket.sendall(break_(client.hello()))
                opened.append(client.socket)
            for protocols in ([], ["h2", "http/1.1"]):
                client = stack.enter_context(RawClient(port, host_name=HOST_NAME))
                client.socket.sendall(client.hello(alpn=protocols))
                opened.append(client.socket)
        all_end(opened)
    # And the session that wakes it is the engine's own.
    assert server.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", sslmode="require") == [(True,)]
    server.run("modify", "main", "--wake-on", "authenticated")


def test_strangers_at_the_api_wake_nothing(server: Server, state: str) -> None:
    server.allow("Invalid HTTP request received")
    for sent in STRANGERS.values():
        with RawClient(api_port(server)) as stranger, contextlib.suppress(ConnectionError):
            stranger.socket.sendall(sent)


def test_port_scan_wakes_nothing(server: Server, state: str) -> None:
    for number, port in itertools.product(range(50), (*ports(server), api_port(server))):
        with RawClient(port) as scanner:
            if number % 2:
                scanner.vanish()


@pytest.fixture
def _enough_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * HALF_OPEN:
        pytest.skip(f"this host allows a process {hard} open files; {2 * HALF_OPEN} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_enough_descriptors")
def test_clients_that_say_nothing_keep_nobody_out(server: Server, port: int) -> None:
    server.api.pause("main", force=True)
    parameters, password = login(server)
    with contextlib.ExitStack() as stack:
        for number in range(HALF_OPEN):
            client = stack.enter_context(RawClient(port, host_name=HOST_NAME))
            if number % 3 == 1:
                client.socket.sendall(SSL_REQUEST)
            elif number % 3 == 2:
                client.socket.sendall(startup(**parameters))
        for mode in ("disable", "require"):
            conninfo = psycopg.conninfo.make_conninfo(
                host=HOST_NAME,
                hostaddr="127.0.0.1",
                port=port,
                user=parameters["user"],
                dbname=parameters["database"],
                options=parameters["options"],
                password=password,
                sslmode=mode,
            )
            with psycopg.connect(conninfo, connect_timeout=30) as session:
                assert session.execute("SELECT 6 * 7").fetchone() == (42,)


# Clients that leave.


def steps(client: RawClient, server: Server, *, is_tls: bool) -> Iterator[str]:
    """Go through a whole start; stop before each message, and in the middle of some."""
    parameters, password = login(server)
    yield "connected"
    if is_tls:
        client.socket.sendall(SSL_REQUEST[:5])
        yield "half a request for TLS"
        client.socket.sendall(SSL_REQUEST[5:])
        yield "asked for TLS"
        assert client.socket.recv(1) == b"S"
        hello = client.hello()
        client.socket.sendall(hello[:100])
        yield "half a hello"
        client.socket.sendall(hello[100:])
        yield "hello"
        client.shake_hands()
        yield "TLS"
    client.send(startup(**parameters)[:20])
    yield "half a startup packet"
    client.send(startup(**parameters)[20:])
    login_steps = client.log_in(parameters, password)
    next(login_steps)
    client.is_mute = True
    next(login_steps)
    client.is_mute = False
    yield "asked for a proof"
    yield from login_steps


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_nothing_is_left_of_clients_that_vanish(server: Server, port: int, is_tls: bool) -> None:
    assert server.process is not None
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    server.query("SELECT 1")
    with remaining(server, "stopped"):
        before = len(list(descriptors.iterdir()))
    told: list[str] = []
    while "final" not in told:
        events = server.events()
        # The same client again and again, each time a step further.
        with RawClient(port, host_name=HOST_NAME) as client:
            walk = steps(client, server, is_tls=is_tls)
            told = [next(walk) for _ in range(len(told) + 1)]
            client.vanish()
        assert (server.show()["compute"], server.events()) == ("stopped", events), told[-1]
    wait_until(lambda: server.show()["sessions"] == 0, "every client is counted out")
    wait_until(lambda: len(list(descriptors.iterdir())) <= before, "every descriptor is closed")
    # From here on they have proved who they are, and the engine may start.
    while "ready" not in told:
        with RawClient(port, host_name=HOST_NAME) as client:
            walk = steps(client, server, is_tls=is_tls)
            told = [next(walk) for _ in range(len(told) + 1)]
            client.vanish()
        server.api.pause("main", force=True)
        server.wait_for("stopped")
    wait_until(lambda: server.show()["sessions"] == 0, "every client is counted out")
    wait_until(lambda: len(list(descriptors.iterdir())) <= before, "every descriptor is closed")
    assert server.query("SELECT 1") == [(1,)]


# Clients that ask for what they may not have.


@pytest.fixture(scope="module")
def names(server: Server) -> str:
    """A cluster whose failed logins count for no other."""
    server.run("create", "names")
    return "names"


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("is_running", [False, True], ids=STATES)
def test_odd_names_are_refused_like_any_others(server: Server, names: str, is_tls: bool, is_running: bool) -> None:
    asked: list[dict[str, str]] = [
        {"user": "u" * 300},
        {"user": "\1\2\n\r\x1b[31m\x7f"},
        {"user": "\udcff\udcfe"},
        {"database": "d" * 300},
        {"database": "a\nb\x1b[0m"},
        {"database": "'; DROP TABLE t; --"},
    ]
    with as_it_is(server, names, is_running=is_running):
        for more in asked:
            said = refused(server, names, is_tls=is_tls, **more)
            if "user" in more:
                assert "password authentication failed for user" in said
            else:
                assert "does not exist" in said


@contextlib.contextmanager
def as_it_is(server: Server, name: str, *, is_running: bool) -> Iterator[None]:
    if is_running:
        server.query("SELECT 1", name)
        yield
        return
    server.api.pause(name, force=True)
    server.wait_for("stopped", name)
    yield
    assert server.show(name)["compute"] == "stopped"


def refused(server: Server, name: str, *, is_tls: bool, password: str | None = None, **more: str) -> str:
    """Try to log in to the shared port; answer what is said against it."""
    parameters, right = login(server, name, **more)
    with RawClient(port_of(server, "shared"), source=next(ADDRESSES)) as client:
        if is_tls:
            client.secure()
        with pytest.raises(LoginRefused) as refusal:
            list(client.log_in(parameters, password or right))
    return str(refusal.value)


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("is_running", [False, True], ids=STATES)
def test_nobody_is_the_administrator_and_nobody_replicates(
    server: Server, names: str, is_tls: bool, is_running: bool
) -> None:
    with as_it_is(server, names, is_running=is_running):
        assert "rejects connection" in refused(server, names, is_tls=is_tls, user="zorya_admin")
        assert "rejects connection" in refused(server, names, is_tls=is_tls, user="zorya_admin", database="postgres")
        assert "replication connection" in refused(server, names, is_tls=is_tls, replication="true")


@pytest.mark.parametrize("is_running", [False, True], ids=STATES)
def test_owner_gets_in_while_another_guesses(server: Server, is_running: bool) -> None:
    name = "running" if is_running else "asleep"
    server.run("create", name)
    if is_running:
        server.query("SELECT 1", name)
    parameters, _ = login(server, name)
    port = port_of(server, "shared")

    def guess(number: int) -> str:
        with RawClient(port, source="127.0.0.9") as client:
            if number % 2:
                client.secure()
            try:
                list(client.log_in(parameters, f"wrong {number}"))
            except LoginRefused as refusal:
                return str(refusal)
        return ""

    with ThreadPoolExecutor(50) as pool:
        guesses = pool.map(guess, range(50))
        assert server.query("SELECT 6 * 7", name) == [(42,)]
        said = list(guesses)
    assert all("password authentication failed" in one or "too many failed logins" in one for one in said), said
    assert server.events(name).count("0147") == 1


# Many at once.


def test_clients_of_all_kinds_are_served_by_one_start(server: Server) -> None:
    server.api.pause("main", force=True)
    server.wait_for("stopped")
    starts = server.events().count("0147")
    parameters, password = login(server)

    async def connect(number: int) -> int:
        session = await asyncpg.connect(
            host="127.0.0.1",
            port=port_of(server, PORTS[number % 2]),
            user=parameters["user"],
            database=parameters["database"],
            password=password,
            ssl="require" if number % 4 < 2 else "disable",
            server_settings={"options": parameters["options"]},
            timeout=60,
        )
        answer = await session.fetchval("SELECT 6 * 7")
        await session.close()
        return int(answer)

    async def storm() -> list[int]:
        return await asyncio.gather(*(connect(number) for number in range(100)))

    assert asyncio.run(storm()) == [42] * 100
    assert server.events().count("0147") == starts + 1
