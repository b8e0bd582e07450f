"""A client that writes down all that a server says to it, and says what the test wants."""

import hashlib
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from zorya.gateway.mariadb import wire
from zorya.gateway.mariadb.authentication import native_token
from zorya.gateway.mariadb.wire import Capability, Greeting, Packet, PacketFramer, Response

TIMEOUT_S = 30

USUAL = (
    Capability.MYSQL
    | Capability.PROTOCOL_41
    | Capability.SECURE_CONNECTION
    | Capability.PLUGIN_AUTH
    | Capability.LENENC_CLIENT_DATA
    | 1 << 13  # transactions
)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How a client tries to get in."""

    user: bytes
    password: bytes = b"right"
    database: bytes | None = None
    plugin: bytes = b"mysql_native_password"
    collation: int = 45
    is_tls: bool = False
    capabilities: int = USUAL
    token: bytes | None = None
    """In place of the right one for the password."""
    body: bytes | None = None
    """In place of the whole response."""
    number: int | None = None
    """In place of the right number of that packet."""
    source: str = "127.0.0.1"
    server_name: str | None = field(default=None)


class RawClient:
    """One connection."""

    def __init__(self, where: int | Path, source: str = "127.0.0.1") -> None:
        """`where` is a port of this host, or a Unix socket; `source` the client's address."""
        self.stream: socket.socket
        if isinstance(where, Path):
            self.stream = socket.socket(socket.AF_UNIX)
            self.stream.connect(str(where))
        else:
            host = "::1" if ":" in source else "127.0.0.1"
            self.stream = socket.create_connection((host, where), TIMEOUT_S, source_address=(source, 0))
        self.number = 0

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()

    def receive(self) -> Packet:
        """Answer the next packet; raises ConnectionError when there is none."""
        framer = PacketFramer(1 << 24)
        while True:
            data = self.stream.recv(framer.wants)
            if not data:
                raise ConnectionError
            packet = framer.receive(data)
            if packet is not None:
                self.number = packet.number + 1 & 0xFF
                return packet

    def send(self, body: bytes, number: int | None = None) -> None:
        self.stream.sendall(wire.packet(self.number if number is None else number, body))
        self.number = self.number + 1 & 0xFF

    def begin_tls(self, server_name: str | None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.stream = context.wrap_socket(self.stream, server_hostname=server_name)

    def log_in(self, attempt: Attempt) -> Packet:
        """Answer the packet that decides: OK or an error. Its number tells how many there were before."""
        first = self.receive()
        if first.kind == wire.ERROR:
            return first
        scramble = Greeting.from_body(first.body).scramble
        response = respond(attempt, scramble)
        if attempt.is_tls:
            self.send(response.beginning())
            self.begin_tls(attempt.server_name)
        self.send(response.to_body() if attempt.body is None else attempt.body, attempt.number)
        while True:
            packet = self.receive()
            if packet.kind != wire.SWITCH:
                return packet
            plugin, data = wire.parse_switch(packet.body)
            self.send(prove(attempt, data.removesuffix(b"\0")) if plugin == wire.NATIVE else b"wrong")


def respond(attempt: Attempt, scramble: bytes) -> Response:
    capabilities = attempt.capabilities | (Capability.SSL if attempt.is_tls else 0)
    if attempt.database is not None:
        capabilities |= Capability.CONNECT_WITH_DB
    return Response(
        capabilities=capabilities,
        max_packet_bytes=1 << 24,
        collation=attempt.collation,
        user=attempt.user,
        token=prove(attempt, scramble),
        database=attempt.database or b"",
        plugin=attempt.plugin,
        attributes=b"\0",
    )


def prove(attempt: Attempt, scramble: bytes) -> bytes:
    if attempt.token is not None:
        return attempt.token
    key = hashlib.sha1(attempt.password).digest() if attempt.password else b""
    return native_token(key, hashlib.sha1(key).digest(), scramble)


def error_number(body: bytes) -> int:
    """Answer the number of an error packet."""
    assert body[0] == wire.ERROR
    return int.from_bytes(body[1:3], "little")


def converse(port: int, attempt: Attempt) -> tuple[int, bytes]:
    """Answer how a login ends: the number of the last packet and what it says; nothing for an end without a word."""
    with RawClient(port, attempt.source) as client:
        try:
            packet = client.log_in(attempt)
        except (ConnectionError, ssl.SSLError):
            return -1, b""
        return packet.number, packet.body
