"""The thinnest gateway that can authenticate and log in: it stands before a running engine as if that were stopped.

And a client that writes down all that a server says to it.
"""

import contextlib
import hashlib
import select
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import scramp

from gateway.fakes import SSL_REQUEST, startup
from gateway.real_postgres import RealPostgres
from zorya.core import errors
from zorya.gateway import refusals
from zorya.gateway.postgres import pgwire
from zorya.gateway.postgres import refusals as postgres_refusals
from zorya.gateway.postgres.authentication import Authentication, negotiate
from zorya.gateway.postgres.engine_login import EngineLogin

TIMEOUT_S = 30


class StandIn(socketserver.ThreadingTCPServer):
    """Serves each connection in a thread; `problems` are exceptions that no client can cause."""

    def __init__(self, engine: RealPostgres) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.engine = engine
        self.problems: list[BaseException] = []
        self.logins: list[EngineLogin] = []
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(engine.certificate, engine.key)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            self.problems.append(error)


@contextlib.contextmanager
def standing_in(engine: RealPostgres) -> Iterator[StandIn]:
    with StandIn(engine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
    assert not server.problems


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.settimeout(TIMEOUT_S)
        try:
            self._serve(self.request)
        except errors.ZoryaError as error:
            self.client.sendall(pgwire.error_response(postgres_refusals.of(refusals.explain(error))))

    def _serve(self, client: socket.socket) -> None:
        assert isinstance(self.server, StandIn)
        engine = self.server.engine
        self.client = client
        opening, is_tls = self._read_start()
        if not isinstance(opening, pgwire.Startup):
            return
        to_client, accepted = negotiate(opening, engine.major)
        login = Authentication(
            accepted,
            engine.identities,
            address=self.client.getpeername()[0],
            now=datetime.now(UTC),
            end_point_hash=engine.end_point_hash if is_tls else None,
        )
        self.client.sendall(to_client + login.begin())
        while login.outcome is None:
            data = self.client.recv(65536)
            if not data:
                return
            self.client.sendall(login.receive(data))
        if isinstance(login.outcome, pgwire.Refusal):
            self.client.sendall(pgwire.error_response(login.outcome))
            return
        with socket.create_connection(("127.0.0.1", engine.port), TIMEOUT_S) as backend:
            engine_login = EngineLogin(accepted.raw, login.user, login.outcome)
            self.server.logins.append(engine_login)
            backend.sendall(engine_login.begin())
            while not engine_login.is_over:
                data = backend.recv(65536)
                assert data
                to_engine, to_client = engine_login.receive(data)
                backend.sendall(to_engine)
                self.client.sendall(to_client)
            _relay(self.client, backend)

    def _read_start(self) -> tuple[pgwire.Event, bool]:
        framer, is_tls = pgwire.StartupFramer(), False
        while True:
            data = self.client.recv(65536)
            assert data
            framer.receive(data)
            while event := framer.next_event():
                if isinstance(event, pgwire.SslRequest):
                    assert isinstance(self.server, StandIn)
                    self.client.sendall(b"S")
                    self.client = self.server.tls.wrap_socket(self.client, server_side=True)
                    framer, is_tls = pgwire.StartupFramer(), True
                elif isinstance(event, pgwire.GssRequest):
                    self.client.sendall(b"N")
                else:
                    return event, is_tls

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)
        self.client.close()


def _relay(one: socket.socket, other: socket.socket) -> None:
    to = {one: other, other: one}
    while True:
        waiting = [end for end in to if isinstance(end, ssl.SSLSocket) and end.pending()]
        for end in waiting or select.select(list(to), [], [], TIMEOUT_S)[0]:
            data = end.recv(65536)
            if not data:
                return
            to[end].sendall(data)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How a client tries to get in."""

    parameters: Mapping[str, str]
    password: str
    is_tls: bool = False
    version: int = 3 << 16


def converse(port: int, attempt: Attempt) -> list[object]:
    """Answer all that a server says until a session or an error, but for nonces and what they lead to."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as plain:
        if not attempt.is_tls:
            return list(_conversation(plain, attempt))
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(plain) as protected:
            return list(_conversation(protected, attempt))


def _conversation(server: socket.socket, attempt: Attempt) -> Iterator[object]:
    scram: Any = None
    server.sendall(startup(attempt.version, **attempt.parameters))
    stream = server.makefile("rb")
    while header := stream.read(5):
        kind, body = header[:1], stream.read(int.from_bytes(header[1:]) - 4)
        if kind == b"E":
            fields = {field[:1]: field[1:] for field in body[:-2].split(b"\0")}
            # Where in its source code PostgreSQL is.
            yield kind, {code: text for code, text in fields.items() if code not in (b"F", b"L", b"R")}
            break
        if kind == b"R":
            code, data = int.from_bytes(body[:4]), body[4:]
            if code == 5:
                verifier = hashlib.md5((attempt.password + attempt.parameters["user"]).encode()).hexdigest()
                digits = hashlib.md5(verifier.encode() + data).hexdigest()
                server.sendall(_password_message(f"md5{digits}".encode() + b"\0"))
                yield kind, code, len(data)
            elif code == 10:
                mechanisms = data.decode().rstrip("\0").split("\0")
                binding = ("tls-server-end-point", server) if isinstance(server, ssl.SSLSocket) else None
                scram = scramp.ScramClient(mechanisms, "ignored", attempt.password, channel_binding=binding)
                first = scram.get_client_first().encode()
                chosen = scram.mechanism_name.encode() + b"\0" + len(first).to_bytes(4) + first
                server.sendall(_password_message(chosen))
                yield kind, code, data
            elif code == 11:
                scram.set_server_first(data.decode())
                server.sendall(_password_message(scram.get_client_final().encode()))
                yield kind, code, data.partition(b",s=")[2]
            elif code == 12:
                scram.set_server_final(data.decode())
                yield kind, code, len(data)
            else:
                yield kind, code, data
        else:
            yield kind, len(body) if kind == b"K" else body
        if kind == b"Z":
            server.sendall(b"X\0\0\0\4")
            break
    assert not stream.read()


def _password_message(body: bytes) -> bytes:
    return b"p" + (4 + len(body)).to_bytes(4) + body
