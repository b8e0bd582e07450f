"""The start of a MariaDB connection: packets, and what the first of them mean. Bytes in, in any chunking. No I/O.

The layouts are those of MariaDB's Knowledge Base, "Connecting" (Client/Server Protocol): every packet has a header of
four bytes, its length and its number in the conversation; the server's greeting is protocol version 10; the client
answers with a request for TLS, which is the beginning of its response, or with the response itself. What a server
accepts of it is in parse_client_handshake_packet of sql/sql_acl.cc.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum

from zorya.core import errors
from zorya.gateway.mariadb.charsets import Charset, of_collation
from zorya.gateway.mariadb.refusals import Refusal

HEADER_BYTES = 4

MAX_START_BYTES = 68 * 1024
"""The longest packet that is read before a session begins: connection attributes of 64 KiB, names and a proof."""

SCRAMBLE_BYTES = 20
TOKEN_BYTES = 20
"""Of `mysql_native_password`."""

NATIVE = "mysql_native_password"

OK = 0x00
SWITCH = 0xFE
ERROR = 0xFF
"""The first byte of what a server says after the client's response."""

MAX_PACKET_NUMBER = 0xFF

_PROTOCOL = 10
_SSL_REQUEST_BYTES = 32
_MAX_ATTRIBUTES_BYTES = 65535
_STATUS_AUTOCOMMIT = 2


class Capability(IntEnum):
    """What a server offers and a client asks for; MariaDB's own stand from bit 32 on (include/mysql_com.h)."""

    MYSQL = 1
    """Set by those who do not speak of MariaDB's own capabilities."""
    CONNECT_WITH_DB = 1 << 3
    COMPRESS = 1 << 5
    PROTOCOL_41 = 1 << 9
    SSL = 1 << 11
    SECURE_CONNECTION = 1 << 15
    PLUGIN_AUTH = 1 << 19
    CONNECT_ATTRS = 1 << 20
    LENENC_CLIENT_DATA = 1 << 21
    SESSION_TRACK = 1 << 23
    SSL_VERIFY_SERVER_CERT = 1 << 30
    REMEMBER_OPTIONS = 1 << 31


OF_TLS = Capability.SSL | Capability.SSL_VERIFY_SERVER_CERT
"""What is agreed on for one connection alone, and not for the session."""

_OWN_AFFAIR = OF_TLS | Capability.MYSQL | Capability.REMEMBER_OPTIONS
"""What changes nothing in how a session is spoken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packet:
    """One packet."""

    number: int
    """Its place in the conversation: 0 to 255."""
    body: bytes = field(repr=False)

    @property
    def kind(self) -> int:
        """The first byte of what a server says; -1 if there is none."""
        return self.body[0] if self.body else -1


def packet(number: int, body: bytes) -> bytes:
    """Answer a packet as it is sent."""
    return len(body).to_bytes(3, "little") + bytes([number]) + body


class PacketFramer:
    """Reads packets one by one, and never a byte more: what follows may be TLS, or somebody else's to read."""

    def __init__(self, max_bytes: int = MAX_START_BYTES) -> None:
        """`max_bytes` is the longest body."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._missing = HEADER_BYTES

    @property
    def wants(self) -> int:
        """How many bytes are to come before it can be said what follows them. At least 1."""
        return self._missing

    def receive(self, data: bytes) -> Packet | None:
        """Take the next bytes, no more than it `wants`; None asks for more.

        Raises ProtocolViolation for a packet that is too long, as soon as its header says so.
        """
        assert len(data) <= self._missing
        self._buffer += data
        self._missing -= len(data)
        if self._missing:
            return None
        length = int.from_bytes(self._buffer[:3], "little")
        if length > self._max_bytes:
            raise errors.ProtocolViolation("packet is too long for the start of a connection")
        self._missing = HEADER_BYTES + length - len(self._buffer)
        if self._missing:
            return None
        whole = Packet(number=self._buffer[3], body=bytes(self._buffer[HEADER_BYTES:]))
        self._buffer.clear()
        self._missing = HEADER_BYTES
        return whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Greeting:
    """What a server says first."""

    version: str
    connection_id: int
    scramble: bytes = field(repr=False)
    capabilities: int
    """All 64 bits."""
    collation: int
    plugin: str

    def to_body(self) -> bytes:
        """Write it as send_server_handshake_packet does."""
        low, high, own = (
            self.capabilities >> shift & mask for shift, mask in ((0, 0xFFFF), (16, 0xFFFF), (32, 2**32 - 1))
        )
        return b"".join(
            [
                bytes([_PROTOCOL]),
                self.version.encode() + b"\0",
                self.connection_id.to_bytes(4, "little"),
                self.scramble[:8] + b"\0",
                low.to_bytes(2, "little"),
                bytes([self.collation & 0xFF]),
                _STATUS_AUTOCOMMIT.to_bytes(2, "little"),
                high.to_bytes(2, "little"),
                bytes([SCRAMBLE_BYTES + 1]),
                bytes(6),
                own.to_bytes(4, "little"),
                self.scramble[8:] + b"\0",
                self.plugin.encode() + b"\0",
            ]
        )

    @classmethod
    def from_body(cls, body: bytes) -> "Greeting":
        """Read an engine's. Raises EngineProblem for anything else."""
        version, zero, rest = body[1:].partition(b"\0")
        if body[:1] != bytes([_PROTOCOL]) or not zero or len(rest) < 31 + 13:
            raise errors.EngineProblem("The engine does not greet as MariaDB does.")
        low, high, own = rest[13:15], rest[18:20], rest[27:31]
        return cls(
            version=version.decode("utf-8", "replace"),
            connection_id=int.from_bytes(rest[:4], "little"),
            scramble=rest[4:12] + rest[31:43],
            capabilities=int.from_bytes(low + high + own, "little"),
            collation=rest[15],
            plugin=rest[44:].partition(b"\0")[0].decode("utf-8", "replace"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """What a client answers: who it is and how it wants to speak. Nobody has proved any of it."""

    capabilities: int
    """Those that the client asks for and has been offered, and whether it speaks of MariaDB's own (`MYSQL`)."""
    max_packet_bytes: int
    collation: int
    user: bytes
    """In the client's character set."""
    token: bytes = field(repr=False)
    """The first message of the plugin."""
    database: bytes
    """Empty for none."""
    plugin: bytes
    """That made the token; empty if the client knows of no plugins."""
    attributes: bytes = field(repr=False)
    """As they are sent, with their length in front."""

    @property
    def charset(self) -> Charset:
        """In which it writes its names and wants to read messages."""
        return of_collation(self.collation)

    def has(self, capability: Capability) -> bool:
        """Whether it asks for this, and has been offered it."""
        return bool(self.capabilities & capability)

    def to_body(self) -> bytes:
        """Write it for an engine."""
        parts = [self.beginning(), self.user + b"\0"]
        if self.has(Capability.LENENC_CLIENT_DATA):
            parts.append(_with_length(self.token))
        elif self.has(Capability.SECURE_CONNECTION):
            parts.append(bytes([len(self.token)]) + self.token)
        else:
            parts.append(self.token + b"\0")
        if self.has(Capability.CONNECT_WITH_DB):
            parts.append(self.database + b"\0")
        if self.has(Capability.PLUGIN_AUTH):
            parts.append(self.plugin + b"\0")
        if self.has(Capability.CONNECT_ATTRS):
            parts.append(self.attributes)
        return b"".join(parts)

    def beginning(self) -> bytes:
        """Write the part that a request for TLS consists of."""
        return b"".join(
            [
                (self.capabilities & 0xFFFFFFFF).to_bytes(4, "little"),
                self.max_packet_bytes.to_bytes(4, "little"),
                bytes([self.collation]),
                bytes(19),
                (self.capabilities >> 32).to_bytes(4, "little"),
            ]
        )

    def for_engine(self, offered: int, *, over_tls: bool) -> "Response":
        """Answer what an engine is told that offers this. Raises EngineProblem if the client was promised more."""
        if self.capabilities & ~offered & ~_OWN_AFFAIR:
            raise errors.EngineProblem("The engine offers less than the gateway has promised its client.")
        kept = self.capabilities & (offered | Capability.MYSQL) & ~OF_TLS
        return replace(self, capabilities=kept | Capability.SSL if over_tls else kept)


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsWanted:
    """The client asks for TLS before it says anything else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ancient:
    """The client speaks the protocol of before MySQL 4.1."""


def parse_start(body: bytes, offered: int) -> TlsWanted | Ancient | Response:
    """Read a client's first packet, or its first one within TLS; `offered` is what it was greeted with.

    Raises ProtocolViolation for what MariaDB calls a bad handshake.
    """
    if len(body) < 2:
        raise errors.ProtocolViolation("the response to the greeting is too short")
    asked = int.from_bytes(body[:2], "little")
    if not asked & Capability.PROTOCOL_41:
        return Ancient()
    if len(body) < _SSL_REQUEST_BYTES:
        raise errors.ProtocolViolation("the response to the greeting is too short")
    asked = int.from_bytes(body[:4], "little")
    if not asked & Capability.MYSQL:
        asked |= int.from_bytes(body[28:32], "little") << 32
    agreed = asked & (offered | Capability.MYSQL)
    if agreed & Capability.SSL:
        return TlsWanted()
    return _parse_response(body, agreed)


def _parse_response(body: bytes, agreed: int) -> Response:
    fields = _Fields(body, _SSL_REQUEST_BYTES)
    user = fields.string()
    if agreed & Capability.LENENC_CLIENT_DATA:
        token = fields.take(fields.length())
    elif agreed & Capability.SECURE_CONNECTION:
        token = fields.take(fields.number(1))
    else:
        token = fields.string()
    database = fields.string() if agreed & Capability.CONNECT_WITH_DB else b""
    plugin = b""
    # "Some clients lie. Sad, but true" (sql_acl.cc): they say that they name a plugin and do not.
    if agreed & Capability.PLUGIN_AUTH and fields:
        plugin = fields.string()
    else:
        agreed &= ~Capability.PLUGIN_AUTH
    attributes = b""
    if agreed & Capability.CONNECT_ATTRS:
        said = fields.take(fields.length())
        if len(said) > _MAX_ATTRIBUTES_BYTES:
            raise errors.ProtocolViolation("the connection attributes are too long")
        attributes = _with_length(said)
    return Response(
        capabilities=agreed,
        max_packet_bytes=int.from_bytes(body[4:8], "little"),
        collation=body[8],
        user=user,
        token=token,
        database=database,
        plugin=plugin,
        attributes=attributes,
    )


class _Fields:
    """Takes fields from a packet. Raises ProtocolViolation for one that is not whole."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def __bool__(self) -> bool:
        return self.left > 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self.at)

    def take(self, count: int) -> bytes:
        taken = self._data[self.at : self.at + count]
        if len(taken) < count:
            raise errors.ProtocolViolation("a field goes beyond the end of its packet")
        self.at += count
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def length(self) -> int:
        """Take a length-encoded integer."""
        first = self.number(1)
        if first < 0xFB:
            return first
        if first in (0xFB, 0xFF):
            raise errors.ProtocolViolation("invalid length")
        return self.number({0xFC: 2, 0xFD: 3, 0xFE: 8}[first])

    def string(self) -> bytes:
        """Take what stands before a zero byte, or before the end: MariaDB puts a zero behind each packet."""
        end = self._data.find(b"\0", self.at)
        text = self._data[self.at : end if end >= 0 else len(self._data)]
        self.at += len(text) + 1
        return text


def _with_length(data: bytes) -> bytes:
    size = len(data)
    if size < 0xFB:
        return bytes([size]) + data
    if size <= 0xFFFF:
        return b"\xfc" + size.to_bytes(2, "little") + data
    return b"\xfd" + size.to_bytes(3, "little") + data


def error_body(refusal: Refusal, charset: Charset, *, has_sqlstate: bool = True) -> bytes:
    """Answer an error packet's body; clients of before MySQL 4.1 know of no SQLSTATE."""
    state = b"#" + refusal.sqlstate.encode() if has_sqlstate else b""
    return bytes([ERROR]) + refusal.number.to_bytes(2, "little") + state + charset.encode(refusal.message)


def switch_body(plugin: str, data: bytes) -> bytes:
    """Answer a request to go on with another plugin."""
    return bytes([SWITCH]) + plugin.encode() + b"\0" + data


def parse_switch(body: bytes) -> tuple[str, bytes]:
    """Read a server's request to go on with another plugin: its name, and what it has to say."""
    plugin, _, data = body[1:].partition(b"\0")
    return plugin.decode("utf-8", "replace"), data


@dataclass(frozen=True, kw_only=True, slots=True)
class OkFields:
    """An OK packet, taken apart around its message."""

    before: bytes
    message: bytes
    behind: bytes

    @classmethod
    def parse(cls, body: bytes, tracks_session: bool) -> "OkFields | None":  # noqa: FBT001
        """Read one; None for what is none, or has no message."""
        try:
            fields = _Fields(body, 1)
            fields.length()
            fields.length()
            fields.take(4)
            size = fields.length() if tracks_session and fields else fields.left
            start = fields.at
            message = fields.take(size)
        except errors.ProtocolViolation:
            return None
        return cls(before=body[:start], message=message, behind=body[start + size :])
