"""A prologue in a real PostgreSQL: the gateway conducts the start, and the client has the session."""

import contextlib
import shutil
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import scramp

from bare_postgres import initialised
from native.acceptors import (
    PATIENCE_S,
    Client,
    connected,
    give,
    has_come,
    is_lost,
    is_waiting,
    prologue,
    read,
    read_to_end,
)
from waiting import wait_until
from zorya.core.home import ClusterFolders
from zorya.engines import handoff
from zorya.engines.postgres import installations

PASSWORD = "a password of the tests"
ACCESS = """\
local all postgres trust
host all all all scram-sha-256
"""
SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
STARTUP = b"\0\3\0\0user\0app\0database\0postgres\0\0"

Message = tuple[bytes, bytes]
"""Type and body."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running PostgreSQL that asks its clients for a password."""

    folders: ClusterFolders
    port: int

    def admin(self, sql: str) -> object:
        """Run one statement as the superuser, past the inlet; answer the first value."""
        with psycopg.connect(
            host=str(self.folders.socket), port=self.port, user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            cursor = connection.execute(sql.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def configure(self, name: str, value: str) -> None:
        """Change a setting, and wait until new sessions have it."""
        self.admin(f"alter system set {name} = '{value}'")
        self.admin("select pg_reload_conf()")
        wait_until(lambda: self.admin(f"show {name}") == value, f"{name} is {value}")


@pytest.fixture(scope="module", params=["preferred", "wheel's"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """As Zorya starts it: with the inlet, and a Unix socket beside it."""
    found = [one for one in installations.find(None) if one.is_fallback == (request.param == "wheel's")]
    if not found:
        pytest.skip("no such PostgreSQL is installed")
    library = handoff.examine()
    if library.path is None:
        pytest.skip(library.reason)
    with initialised(found[0]) as bare:
        folders, port = bare.folders, 5432  # of Unix sockets only
        (folders.data / "pg_hba.conf").write_text(ACCESS)
        bare.write_certificate(folders.data)
        copy = Path(shutil.copy(library.path, folders.root / "handoff.so"))
        copy.chmod(0o755)
        environment = handoff.environment(copy, folders=folders, listener=str(folders.given_up / f".s.PGSQL.{port}"))
        options = {"listen_addresses": "", "unix_socket_directories": f"{folders.socket}, {folders.given_up}"}
        with bare.running(port, options, environment):
            made = Engine(folders=folders, port=port)
            made.admin(f"create role app login password '{PASSWORD}'")
            yield made


@contextlib.contextmanager
def conducted(engine: Engine) -> Iterator[tuple[Client, socket.socket]]:
    """A client that the engine has, and the gateway's end of its prologue."""
    with connected() as client, prologue() as (near, far):
        assert give(client, engine.folders.inlet, far)
        client.near.close()
        yield client, near


def finish(near: socket.socket) -> None:
    """Leave the client to the engine, which has said nothing more."""
    near.shutdown(socket.SHUT_WR)
    assert read_to_end(near) == b""


def tell(sock: socket.socket, kind: bytes, body: bytes) -> None:
    sock.sendall(kind + (len(body) + 4).to_bytes(4) + body)


def hear(sock: socket.socket) -> Message:
    head = read(sock, 5)
    assert len(head) == 5, "the engine has closed the connection"
    return head[:1], read(sock, int.from_bytes(head[1:]) - 4)


def hear_until(sock: socket.socket, kind: bytes) -> list[Message]:
    heard = [hear(sock)]
    while heard[-1][0] != kind:
        assert heard[-1][0] != b"E", heard[-1][1]
        heard.append(hear(sock))
    return heard


def begin(sock: socket.socket) -> None:
    """Send the startup packet; the engine asks for a password."""
    tell(sock, b"", STARTUP)
    kind, body = hear(sock)
    assert (kind, body[:4]) == (b"R", (10).to_bytes(4))


def log_in(sock: socket.socket) -> dict[bytes, bytes]:
    """Start a session with SCRAM-SHA-256; answer what the engine has said up to ReadyForQuery, by type."""
    begin(sock)
    client = scramp.ScramClient(["SCRAM-SHA-256"], "app", PASSWORD)
    first = client.get_client_first().encode()
    tell(sock, b"p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4) + first)
    client.set_server_first(hear(sock)[1][4:].decode())
    tell(sock, b"p", client.get_client_final().encode())
    client.set_server_final(hear(sock)[1][4:].decode())
    return dict(hear_until(sock, b"Z"))


def query(sock: socket.socket, sql: str) -> list[bytes]:
    """Run one statement; answer the values of its one row."""
    tell(sock, b"Q", sql.encode() + b"\0")
    row = dict(hear_until(sock, b"Z"))[b"D"]
    values, at = [], 2
    while at < len(row):
        end = at + 4 + int.from_bytes(row[at : at + 4])
        values.append(row[at + 4 : end])
        at = end
    return values


def assert_clients(client: Client) -> None:
    """The client has the session itself, under its own address."""
    host, port = client.address
    asked = "select 1, host(inet_client_addr()), inet_client_port()"
    assert query(client.far, asked) == [b"1", host.encode(), port.encode()]


def test_gateway_logs_the_client_in_and_the_client_goes_on(engine: Engine) -> None:
    with conducted(engine) as (client, near):
        log_in(near)
        assert query(near, "select 2") == [b"2"]
        assert not has_come(client.far)
        finish(near)
        assert_clients(client)


def test_query_that_the_client_has_sent_already_is_answered_to_it(engine: Engine) -> None:
    with conducted(engine) as (client, near):
        tell(client.far, b"Q", b"select 7\0")
        log_in(near)
        assert not has_come(client.far)
        finish(near)
        assert dict(hear_until(client.far, b"Z"))[b"D"].endswith(b"7")
        assert_clients(client)


def test_large_result_goes_over_the_prologue_whole(engine: Engine) -> None:
    with conducted(engine) as (client, near):
        log_in(near)
        assert query(near, "select repeat('zorya', 1000000)") == [b"zorya" * 1_000_000]
        finish(near)
        assert_clients(client)


def test_client_starts_itself_when_the_gateway_has_only_asked_for_tls(engine: Engine) -> None:
    with conducted(engine) as (client, near):
        near.sendall(SSL_REQUEST)
        assert read(near, 1) == b"N"
        finish(near)
        log_in(client.far)
        assert_clients(client)


@pytest.fixture
def with_tls(engine: Engine) -> Iterator[None]:
    engine.configure("ssl", "on")
    yield
    engine.configure("ssl", "off")


@pytest.mark.usefixtures("with_tls")
def test_client_has_tls_with_the_engine_when_the_gateway_has_asked_for_it(engine: Engine) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connected() as client, prologue() as (near, far), ThreadPoolExecutor() as threads:
        handshake = threads.submit(context.wrap_socket, client.far)
        wait_until(lambda: has_come(client.near), "the ClientHello waits")
        assert give(client, engine.folders.inlet, far)
        client.near.close()
        near.sendall(SSL_REQUEST)
        assert read(near, 1) == b"S"
        finish(near)
        with handshake.result(PATIENCE_S) as secured:
            log_in(secured)
            asked = "select ssl, host(client_addr), client_port from pg_stat_ssl join pg_stat_activity using (pid) "
            host, port = client.address
            answer = query(secured, asked + "where pid = pg_backend_pid()")
            assert answer == [b"t", host.encode(), port.encode()]


def backend_of(client: Client) -> int:
    """Answer the process that serves a client, by its title."""
    mark = f"({client.peer[1]})".encode()

    def found() -> list[int]:
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and mark in command_of(entry) and b"postgres:" in command_of(entry)
        ]

    return wait_until(found, "the client has its process")[0]


def command_of(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def terminate(engine: Engine, client: Client) -> None:
    """Terminate the client's session while it waits for the gateway."""
    pid = backend_of(client)
    wait_until(lambda: is_waiting(pid), "the engine waits")
    assert engine.admin(f"select pg_terminate_backend({pid})")


def test_session_is_terminated_when_it_waits_for_the_gateway(engine: Engine) -> None:
    with conducted(engine) as (client, near):
        log_in(near)
        terminate(engine, client)
        kind, body = hear(near)
        assert (kind, b"C57P01\0" in body) == (b"E", True)
        assert read_to_end(near) == b""
        assert is_lost(client.far)


def test_session_is_terminated_when_the_gateway_has_not_given_the_password(engine: Engine) -> None:
    with conducted(engine) as (client, near):
        begin(near)
        terminate(engine, client)
        # PostgreSQL tells a client nothing that has not proved who it is.
        assert read_to_end(near) == b""
        assert is_lost(client.far)


@pytest.fixture
def impatient(engine: Engine) -> Iterator[None]:
    engine.configure("authentication_timeout", "1s")
    yield
    engine.configure("authentication_timeout", "1min")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("goes_as_far_as", ["nothing", "the startup packet"])
def test_session_ends_in_time_when_the_gateway_does_not_go_on(engine: Engine, goes_as_far_as: str) -> None:
    with conducted(engine) as (client, near):
        if goes_as_far_as == "the startup packet":
            begin(near)
        assert read_to_end(near) == b""
        assert is_lost(client.far)


def test_session_is_lost_when_the_gateway_is(engine: Engine) -> None:
    with conducted(engine) as (client, near):
        tell(near, b"", STARTUP)
        wait_until(lambda: has_come(near), "the engine asks for a password")
        near.close()
        assert is_lost(client.far)
