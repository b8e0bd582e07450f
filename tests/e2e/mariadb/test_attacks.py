"""What strangers do at the start of a connection to a MariaDB cluster, at its own port and at the shared one.

Nothing wakes that sleeps, nothing hangs, nothing leaks, and those who have a session notice nothing.
"""

import contextlib
import random
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.mariadb.clients import attempt, one
from e2e.mariadb.raw_client import (
    CAPABILITIES,
    MAX_PACKET,
    SSL,
    UTF8MB4,
    LoginRefused,
    RawClient,
    native,
    packet,
    response,
)
from e2e.raw_client import all_end
from fix_home import running_for_a_file
from harness import Server
from waiting import wait_until
from zorya.engines.mariadb.configuration import RELAY_ADDRESS

STATES = ("stopped", "running")
PORTS = ("own", "shared")
HALF_OPEN = 1000
SSL_REQUEST = struct.pack("<IIB23x", CAPABILITIES | SSL, MAX_PACKET, UTF8MB4)


def happened(server: Server) -> list[str]:
    """Answer the cluster's events but for the one that tells of strangers who guess."""
    return [kind for kind in server.events("shop") if kind != "1011"]


@pytest.fixture(scope="module")
def server(templates: Path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {
        "ZORYA_MYSQL_SHARED_PORT": str(port),
        "ZORYA_STARTUP_TIMEOUT_S": "2",
        "ZORYA_MAX_HANDSHAKES": str(HALF_OPEN // 2),
        "ZORYA_FREEZE_AFTER": "never",
        "ZORYA_PAUSE_AFTER": "never",
    }
    with running_for_a_file(templates, **env) as started:
        started.env |= env
        started.api.create({"name": "shop", "engine": "mariadb"})
        yield started


@pytest.fixture(params=STATES)
def state(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    """The state of `shop`, in which it has to stay."""
    with remaining(server, str(request.param)):
        yield str(request.param)


def ports(server: Server) -> list[int]:
    return [int(server.show("shop")["endpoint"]["port"]), int(server.env["ZORYA_MYSQL_SHARED_PORT"])]


@contextlib.contextmanager
def remaining(server: Server, state: str) -> Iterator[None]:
    """Have `shop` in this state, and see that it stays so: asleep, or with a session that goes on."""
    if state == "running":
        with server.mysql() as session:
            before = server.show("shop")
            yield
            assert one(session, "SELECT 6 * 7") == 42
            assert server.mysql_query("SELECT 1") == ((1,),)
            assert server.show("shop")["engine_pid"] == before["engine_pid"]
            return
    server.api.pause("shop", force=True)
    server.wait_for("stopped", "shop")
    events = happened(server)
    yield
    wait_until(lambda: server.show("shop")["sessions"] == 0, "every client is counted out")
    assert (server.show("shop")["compute"], happened(server)) == ("stopped", events)
    # Whoever may come is still served.
    assert attempt(server, password="wrong")[0] == 1045


STRANGERS: dict[str, bytes] = {
    "nothing": b"",
    "a byte": b"\0",
    "zeros": bytes(20_000),
    "noise": random.Random(5).randbytes(50_000),
    "HTTP": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "SMTP": b"EHLO here\r\nMAIL FROM:<a@b.example>\r\n",
    "PostgreSQL": b"\0\0\0\x08\x04\xd2\x16\x2f",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "TLS without asking": b"\x16\x03\x01\x01\0" + random.Random(7).randbytes(256),
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "an empty packet": packet(b"", 1),
    "many empty packets": packet(b"", 1) * 500,
    "a packet of 16 MB, half of it": b"\xff\xff\xff\x01" + bytes(50_000),
    "a packet whose end does not come": packet(response(bytes(20), "zorya", "x"), 1)[:-3],
    "a header whose body does not come": b"\x40\0\0\x01",
    "half a header": b"\x40\0",
    "wrong sequence number": packet(response(bytes(20), "zorya", "x"), 7),
    "sequence number 0": packet(response(bytes(20), "zorya", "x"), 0),
    "old protocol": packet(struct.pack("<HBBB", 5, 0, 0, 1) + b"zorya\0", 1),
    "no capabilities": packet(bytes(32) + b"zorya\0\0", 1),
    "all capabilities": packet(b"\xff\xff\xff\xff" + bytes(28) + b"zorya\0", 1),
    "user without end": packet(response(bytes(20), "zorya", "x")[:34], 1),
    "proof longer than the packet": packet(response(bytes(20), "z", "")[:34] + b"\xff" + b"x" * 20, 1),
    "a query at once": packet(b"\3SELECT 1", 0) * 2,
    "a command at once": packet(b"\1", 0),
    "two responses": packet(response(bytes(20), "zorya", "x"), 1) * 2,
    "a long user": packet(response(bytes(20), "z" * 60_000, "x"), 1),
    "attributes that lie": packet(
        struct.pack("<IIB23x", CAPABILITIES | 1 << 20, MAX_PACKET, UTF8MB4)
        + b"zorya\0\0mysql_native_password\0\xfe\xff\xff\xff\xff\xff\xff\xff\xff",
        1,
    ),
    "a request for TLS and no more": packet(SSL_REQUEST, 1),
    "two requests for TLS": packet(SSL_REQUEST, 1) + packet(SSL_REQUEST, 2),
    "PROXY header": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    "PROXY header of version 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2]),
}


def test_strangers_are_cut_off(server: Server, state: str) -> None:
    with contextlib.ExitStack() as stack:
        opened = []
        for port in ports(server):
            for sent in STRANGERS.values():
                stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
                with contextlib.suppress(ConnectionError):
                    stranger.sendall(sent)
                opened.append(stranger)
        all_end(opened)


HELLOS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda hello: hello[:-7],
    "only a header": lambda hello: hello[:5],
    "garbage": lambda _: b"\x16\x03\x01\x01\0" + bytes(random.Random(7).randbytes(256)),
    "not TLS": lambda _: packet(response(bytes(20), "zorya", "x"), 2),
    "longer than a record": lambda hello: b"\x16\x03\x01\x40\x01\x01" + hello * 60,
    "records without end": lambda _: b"\x16\x03\x01\0\x01\x01" * 6000,
    "an alert": lambda _: b"\x15\x03\x01\0\x02\x02\x28",
}


def hello() -> bytes:
    """Answer the first bytes of a client's TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="shop.zorya.localhost").do_handshake()
    return outgoing.read()


def test_hello_that_is_none_leads_nowhere(server: Server, state: str) -> None:
    with contextlib.ExitStack() as stack:
        opened = []
        for port in ports(server):
            for break_ in HELLOS.values():
                client = stack.enter_context(RawClient(port))
                client.greeting()
                client.send(SSL_REQUEST)
                with contextlib.suppress(ConnectionError):
                    client.socket.sendall(break_(hello()))
                opened.append(client.socket)
        all_end(opened)


def test_other_protocols_within_tls_are_cut_off(server: Server, state: str) -> None:
    with contextlib.ExitStack() as stack:
        opened = []
        for port in ports(server):
            for what in ("HTTP", "zeros", "noise", "nothing", "a request for TLS and no more", "wrong sequence number"):
                client = stack.enter_context(RawClient(port))
                client.greeting()
                client.secure()
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    client.socket.sendall(STRANGERS[what])
                opened.append(client.socket)
        for client_socket in opened:
            client_socket.settimeout(30)
            with contextlib.suppress(OSError):
                while client_socket.recv(65536):
                    pass


def test_what_comes_behind_a_request_for_tls_is_never_heard(server: Server, state: str) -> None:
    """As CVE-2021-23214: it came unprotected, and must not pass for what came within TLS."""
    credentials = server.api.credentials("shop")
    for port, user in zip(ports(server), ("zorya", "zorya@shop"), strict=True):
        with RawClient(port) as client:
            greeting = client.greeting()
            proof = response(greeting.scramble, user, credentials["password"])
            client.socket.sendall(packet(SSL_REQUEST, 1) + packet(proof, 2) + packet(b"\3SELECT 'injected'", 0))
            said = b""
            client.socket.settimeout(30)
            while data := client.receive():
                said += data
            assert b"injected" not in said
            assert not said.startswith(b"\x07\0\0\x03\0"), "it was let in"


def test_startup_in_small_pieces_is_understood(server: Server) -> None:
    credentials = server.api.credentials("shop")
    for state in STATES:
        for port, user in zip(ports(server), ("zorya", "zorya@shop"), strict=True):
            if state == "stopped":
                server.api.pause("shop", force=True)
            with RawClient(port) as client:
                greeting = client.greeting()
                for byte in packet(response(greeting.scramble, user, credentials["password"], "shop"), 1):
                    client.socket.sendall(bytes([byte]))
                client.await_ok(credentials["password"])
                assert b"42" in client.ask("SELECT 42")


def test_proof_for_another_greeting_is_worth_nothing(server: Server, state: str) -> None:
    credentials = server.api.credentials("shop")
    for port, user in zip(ports(server), ("zorya", "zorya@shop"), strict=True):
        with RawClient(port) as first, RawClient(port) as second:
            scramble = first.greeting().scramble
            assert second.greeting().scramble != scramble
            second.send(response(scramble, user, credentials["password"]))
            body = second.packet()
            # It may be asked once more, by the engine itself behind the shared port: that is another scramble.
            if body is not None and body[:1] == b"\xfe":
                second.send(native(credentials["password"], scramble))
                body = second.packet()
            assert body is not None
            assert (body[:1], int.from_bytes(body[1:3], "little")) == (b"\xff", 1045)


def test_verifier_alone_opens_nothing(server: Server) -> None:
    """Who has read the file of accounts has the double hash, and not what a proof needs."""
    server.api.pause("shop", force=True)
    file = server.home / "clusters" / str(server.show("shop")["id"]) / "identities.json"
    assert file.stat().st_mode & 0o077 == 0
    verifier = bytes.fromhex(file.read_text().split('"verifier": "*')[1][:40])
    with RawClient(ports(server)[0]) as client:
        greeting = client.greeting()
        client.send(response(greeting.scramble, "zorya", "x").replace(native("x", greeting.scramble), verifier))
        body = client.packet()
        assert body is not None
        assert (body[:1], int.from_bytes(body[1:3], "little")) == (b"\xff", 1045)
    assert server.show("shop")["compute"] == "stopped"


@pytest.fixture
def _enough_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * HALF_OPEN:
        pytest.skip(f"this host allows a process {hard} open files; {2 * HALF_OPEN} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_enough_descriptors")
@pytest.mark.parametrize("which", PORTS)
def test_clients_that_say_nothing_keep_nobody_out(server: Server, which: str) -> None:
    server.api.pause("shop", force=True)
    port = ports(server)[PORTS.index(which)]
    user = "zorya@shop" if which == "shared" else "zorya"
    with contextlib.ExitStack() as stack:
        for number in range(HALF_OPEN):
            client = stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port), 30)))
            if number % 3 == 1:
                client.sendall(packet(SSL_REQUEST, 1))
            elif number % 3 == 2:
                client.sendall(b"\x40\0\0")
        with server.mysql(port=port, user=user) as session:
            assert one(session, "SELECT 1") == 1
    wait_until(lambda: server.show("shop")["sessions"] == 0, "every client is counted out")


def test_port_scan_and_resets_wake_nothing(server: Server, state: str) -> None:
    for number in range(60):
        for port in ports(server):
            with RawClient(port) as scanner:
                if number % 3:
                    scanner.greeting()
                if number % 2:
                    scanner.vanish()


def test_client_that_sends_a_byte_now_and_then_is_cut_off(server: Server, state: str) -> None:
    # At its own port a cluster that runs hears its clients itself, and MariaDB's limit is one of each read.
    heard_by_zorya = ports(server) if state == "stopped" else ports(server)[1:]
    opened = [socket.create_connection(("127.0.0.1", port), 30) for port in heard_by_zorya]
    try:
        for client in opened:
            client.sendall(b"\xff\xff\0\x01")
        wait_until(lambda: all(dribbled_out(client) for client in opened), "they are cut off", 40)
    finally:
        for client in opened:
            client.close()


def dribbled_out(client: socket.socket) -> bool:
    """Send one more byte of a packet that never ends; answer whether the other side has closed."""
    client.settimeout(0.05)
    try:
        client.sendall(b"\0")
        while client.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_nobody_can_say_that_it_comes_from_another_address(server: Server) -> None:
    """What the relay tells the engine, a PROXY header, is not taken from clients."""
    password = server.api.credentials("shop")["password"]
    ip4 = bytes([10, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2])
    header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + ip4
    with server.mysql() as session:
        engines = [int(one(session, f"SELECT @@{name}")) for name in ("port", "extra_port")]
    for port in (*ports(server), *engines):
        with contextlib.suppress(LoginRefused, ConnectionError), RawClient(port) as client:
            client.socket.sendall(header)
            client.log_in("zorya", password, "shop")
            assert b"127.0.0.1" in client.ask("SELECT USER()")
    # Nor may a client come from where the relay does.
    for port in ports(server):
        with pytest.raises((LoginRefused, ConnectionError)), RawClient(port, source=RELAY_ADDRESS) as client:
            client.log_in("zorya", password, "shop")
