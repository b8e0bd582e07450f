"""A client that goes through the start of a connection a step at a time, and can stop after any of them.

The layouts are those of the MariaDB Knowledge Base, "Connection" and "0 - Packet".
"""

import hashlib
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Self

TIMEOUT_S = 60

LONG_PASSWORD, CONNECT_WITH_DB, PROTOCOL_41, SSL = 1, 8, 512, 2048
SECURE_CONNECTION, PLUGIN_AUTH = 32768, 1 << 19
CAPABILITIES = LONG_PASSWORD | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH
MAX_PACKET = 1 << 24
UTF8MB4 = 45


class LoginRefused(Exception):
    """The server said no: its number, its SQLSTATE and its text."""

    def __init__(self, number: int, state: str, text: str) -> None:
        super().__init__(number, state, text)
        self.number, self.state, self.text = number, state, text


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What the server says first."""

    version: str
    capabilities: int
    collation: int
    scramble: bytes
    plugin: str


class RawClient:
    """One connection, plain until `secure`."""

    def __init__(self, port: int, *, source: str = "127.0.0.1") -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.sequence = 0
        """That of the next packet to be sent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def vanish(self) -> None:
        """End the connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def receive(self) -> bytes:
        """Answer what comes; nothing for the end, be it a reset."""
        try:
            return self.socket.recv(65536)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def packet(self) -> bytes | None:
        """Answer the next packet's body; None for the end."""
        while len(self._buffer) < 4 or len(self._buffer) < 4 + int.from_bytes(self._buffer[:3], "little"):
            data = self.receive()
            if not data:
                return None
            self._buffer += data
        end = 4 + int.from_bytes(self._buffer[:3], "little")
        whole, self._buffer = self._buffer[:end], self._buffer[end:]
        self.sequence = (whole[3] + 1) % 256
        return whole[4:]

    def send(self, body: bytes, sequence: int | None = None) -> None:
        """Send one packet."""
        self.socket.sendall(packet(body, self.sequence if sequence is None else sequence))
        self.sequence = (self.sequence + 1) % 256

    def greeting(self) -> Greeting:
        """Hear the server's greeting. Raises LoginRefused when it says something else."""
        body = self.packet()
        if body is None:
            raise LoginRefused(0, "", "the connection was closed")
        raise_error(body)
        assert body[0] == 10
        version, rest = body[1:].split(b"\0", 1)
        low, collation, _, high = struct.unpack("<HBHH", rest[13:20])
        extended = struct.unpack("<I", rest[27:31])[0]
        second, _, after = rest[31:].partition(b"\0")
        return Greeting(
            version=version.decode(),
            capabilities=low | high << 16 | extended << 32,
            collation=collation,
            scramble=rest[4:12] + second,
            plugin=after.rstrip(b"\0").decode(),
        )

    def secure(self, capabilities: int = CAPABILITIES) -> None:
        """Ask for TLS, after the greeting, and do it; any certificate will do."""
        self.send(struct.pack("<IIB23x", capabilities | SSL, MAX_PACKET, UTF8MB4))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)

    def log_in(self, user: str, password: str, database: str = "") -> None:
        """Hear the greeting and log in with mysql_native_password. Raises LoginRefused."""
        self.prove(self.greeting(), user, password, database)

    def prove(self, greeting: Greeting, user: str, password: str, database: str = "", *, more: int = 0) -> None:
        """Say who it is and prove it; `more` are further capabilities. Raises LoginRefused."""
        self.send(response(greeting.scramble, user, password, database, more=more))
        self.await_ok(password)

    def await_ok(self, password: str) -> None:
        """Wait until the server has let it in, proving once more if it asks for that. Raises LoginRefused."""
        while True:
            body = self.packet()
            if body is None:
                raise LoginRefused(0, "", "the connection was closed")
            if body[:1] == b"\0":
                return
            raise_error(body)
            assert body[:1] == b"\xfe", body
            plugin, scramble = body[1:].split(b"\0", 1)
            assert plugin == b"mysql_native_password", plugin
            self.send(native(password, scramble.rstrip(b"\0")))

    def ask(self, sql: str) -> bytes:
        """Send a query that answers one small row; answer all that comes until its last EOF."""
        self.sequence = 0
        self.send(b"\3" + sql.encode())
        return self.rest_of_answer()

    def rest_of_answer(self) -> bytes:
        """Answer what comes of a result set until its last EOF. Raises LoginRefused for an error."""
        said: list[bytes] = []
        ends = 0
        while ends < 2:
            body = self.packet()
            assert body is not None, f"the session was ended after {said!r}"
            raise_error(body)
            said.append(body)
            ends += body[:1] == b"\xfe" and len(body) < 9
        return b"".join(said)


def packet(body: bytes, sequence: int) -> bytes:
    """Answer a packet with its header."""
    return len(body).to_bytes(3, "little") + bytes([sequence]) + body


def response(
    scramble: bytes, user: str, password: str, database: str = "", *, more: int = 0, collation: int = UTF8MB4
) -> bytes:
    """Answer a handshake response with a proof for mysql_native_password."""
    capabilities = CAPABILITIES | more | (CONNECT_WITH_DB if database else 0)
    proof = native(password, scramble)
    body = struct.pack("<IIB23x", capabilities, MAX_PACKET, collation)
    body += user.encode() + b"\0" + bytes([len(proof)]) + proof
    return body + (database.encode() + b"\0" if database else b"") + b"mysql_native_password\0"


def native(password: str, scramble: bytes) -> bytes:
    """Answer the proof of mysql_native_password; empty without a password."""
    if not password:
        return b""
    once = hashlib.sha1(password.encode()).digest()
    key = hashlib.sha1(scramble[:20] + hashlib.sha1(once).digest()).digest()
    return bytes(a ^ b for a, b in zip(once, key, strict=True))


def raise_error(body: bytes) -> None:
    """Raise LoginRefused when the packet is an error."""
    if body[:1] == b"\xff":
        number = int.from_bytes(body[1:3], "little")
        has_state = body[3:4] == b"#"
        state = body[4:9].decode() if has_state else ""
        raise LoginRefused(number, state, body[9 if has_state else 3 :].decode(errors="replace"))
