"""The start of a PostgreSQL connection: bytes in, in any chunking; events out. No I/O.

A client may ask for TLS and for GSSAPI encryption, at most once each, and then sends a startup packet or a cancel
request. Everything after that belongs to the engine, or to `authentication`.

The layout of the packets is in https://www.postgresql.org/docs/current/protocol-message-formats.html; what a server
accepts is in ProcessSSLStartup and ProcessStartupPacket of PostgreSQL's src/backend/tcop/backend_startup.c. One rule
is left to whoever grants encryption: PostgreSQL refuses bytes that arrived together with a request for it. Where it is
not granted, such bytes are read as what follows the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from zorya.core import errors

MAX_PACKET_BYTES = 4 + 10_000
"""The longest packet, its length word included: MAX_STARTUP_PACKET_LENGTH of src/include/libpq/pqcomm.h."""

ENCRYPTION_REFUSED = b"N"
"""The answer to SslRequest and GssRequest: the client may go on without encryption."""

ENCRYPTION_GRANTED = b"S"
"""The answer to SslRequest: the client may begin the TLS handshake."""

ALPN = "postgresql"
"""The protocol that a client which begins with the TLS handshake must ask for (RFC 7301; PostgreSQL 17)."""

ENCRYPTION_REQUEST_BYTES = 8
"""The length of an SslRequest or GssRequest."""

_TLS_HANDSHAKE_RECORD = b"\x16"
_CANCEL_CODE = 1234 << 16 | 5678
_SSL_CODE = 1234 << 16 | 5679
_GSS_CODE = 1234 << 16 | 5680
_MAX_SECRET_BYTES = 256

SSL_REQUEST = ENCRYPTION_REQUEST_BYTES.to_bytes(4) + _SSL_CODE.to_bytes(4)
"""The packet of an SslRequest."""


class Sqlstate(StrEnum):
    """Those of https://www.postgresql.org/docs/current/errcodes-appendix.html that the gateway itself reports."""

    PROTOCOL_VIOLATION = "08P01"
    FEATURE_NOT_SUPPORTED = "0A000"
    INVALID_AUTHORIZATION_SPECIFICATION = "28000"
    INVALID_PASSWORD = "28P01"  # noqa: S105 - a code
    INVALID_CATALOG_NAME = "3D000"
    DISK_FULL = "53100"
    TOO_MANY_CONNECTIONS = "53300"
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000"
    ADMIN_SHUTDOWN = "57P01"
    CANNOT_CONNECT_NOW = "57P03"
    SYSTEM_ERROR = "58000"
    INTERNAL_ERROR = "XX000"


@dataclass(frozen=True, slots=True)
class SslRequest:
    """The client asks for TLS. It waits for one byte: ENCRYPTION_GRANTED or ENCRYPTION_REFUSED."""


@dataclass(frozen=True, slots=True)
class GssRequest:
    """The client asks for GSSAPI encryption. It waits for one byte: send ENCRYPTION_REFUSED."""


@dataclass(frozen=True, slots=True)
class DirectTls:
    """The client began a TLS handshake without asking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelRequest:
    """The client asks for the cancellation of another session's query. It expects no answer but the end."""

    pid: int
    secret: bytes = field(repr=False)
    """4 bytes up to protocol 3.1, 4 to 256 from 3.2 on."""
    raw: bytes = field(repr=False)
    """The packet as it came, to be forwarded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Startup:
    """The client asks for a session."""

    version: tuple[int, int]
    """Major (always 3) and minor; the engine negotiates the minor one."""
    parameters: Mapping[str, str]
    """At least `user`. Bytes that are not UTF-8 stand as surrogate escapes."""
    raw: bytes = field(repr=False)
    """The packet as it came, to be forwarded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """What a client is told before it is cut off; as an event: its packet is sound but asks for what cannot be."""

    sqlstate: Sqlstate
    message: str
    hint: str


Opening = Startup | CancelRequest | Refusal | DirectTls
"""The events that end the framing."""

Event = SslRequest | GssRequest | Opening


class StartupFramer:
    """Reads one connection's start. Call `receive` with what came, then `next_event` until it answers None."""

    def __init__(self, *, is_encrypted: bool = False) -> None:
        """Within encryption none can be asked for again."""
        self._buffer = bytearray()
        self._asked: set[int] = {_SSL_CODE, _GSS_CODE} if is_encrypted else set()
        self._opening: Opening | None = None

    @property
    def buffered(self) -> bytes:
        """The bytes that no event has used; after an Opening, what the client sent behind it.

        Never more than MAX_PACKET_BYTES besides what `receive` brought since `next_event` last answered None.
        """
        return bytes(self._buffer)

    def receive(self, data: bytes) -> None:
        """Take bytes in any chunking. There is no use in more of them after an Opening."""
        self._buffer += data

    def next_event(self) -> Event | None:
        """Answer the next event, or None if it needs more bytes. An Opening is the last one and is answered again.

        Raises ProtocolViolation, again at each later call, once the bytes cannot become a packet: for a wrong length
        as soon as the four bytes of the length are there.
        """
        if self._opening is None:
            event = self._take_event()
            if not isinstance(event, Opening):
                return event
            self._opening = event
        return self._opening

    def _take_event(self) -> Event | None:
        if self._buffer[:1] == _TLS_HANDSHAKE_RECORD and not self._asked:
            return DirectTls()
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4])
        if not 8 <= length <= MAX_PACKET_BYTES:
            raise errors.ProtocolViolation("invalid length of startup packet")
        if len(self._buffer) < length:
            return None
        event = self._parse(bytes(self._buffer[:length]))
        del self._buffer[:length]
        return event

    def _parse(self, packet: bytes) -> Event:
        code = int.from_bytes(packet[4:8])
        if code == _CANCEL_CODE:
            return _parse_cancel(packet)
        if code in (_SSL_CODE, _GSS_CODE) and code not in self._asked:
            if len(packet) != ENCRYPTION_REQUEST_BYTES:
                raise errors.ProtocolViolation("invalid length of encryption request")
            self._asked.add(code)
            return SslRequest() if code == _SSL_CODE else GssRequest()
        return _parse_startup(packet, (code >> 16, code & 0xFFFF))


def _parse_cancel(packet: bytes) -> CancelRequest:
    secret = packet[12:]
    if not 4 <= len(secret) <= _MAX_SECRET_BYTES:
        raise errors.ProtocolViolation("invalid length of cancel request")
    return CancelRequest(pid=int.from_bytes(packet[8:12]), secret=secret, raw=packet)


def _parse_startup(packet: bytes, version: tuple[int, int]) -> Startup | Refusal:
    if version[0] != 3:
        return Refusal(
            sqlstate=Sqlstate.FEATURE_NOT_SUPPORTED,
            message=f"unsupported frontend protocol {version[0]}.{version[1]}: server supports 3",
            hint="",
        )
    parameters = _parse_parameters(packet[8:])
    if not parameters.get("user"):
        return Refusal(
            sqlstate=Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
            message="no PostgreSQL user name specified in startup packet",
            hint="",
        )
    return Startup(version=version, parameters=parameters, raw=packet)


def _parse_parameters(body: bytes) -> dict[str, str]:
    """Read pairs of zero-terminated strings up to an empty name, whose zero must be the last byte."""
    *fields, end = body.split(b"\0")
    if end or not fields or fields.pop() or len(fields) % 2 or b"" in fields[::2]:
        raise errors.ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    texts = [text.decode("utf-8", "surrogateescape") for text in fields]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def error_response(refusal: Refusal) -> bytes:
    """Answer the ErrorResponse message of severity FATAL that carries `refusal`.

    Field codes: https://www.postgresql.org/docs/current/protocol-error-fields.html. The text is sent as UTF-8, without
    zero bytes, which would end a field early; surrogate escapes in it as the bytes that they stand for.
    """
    fields = {"S": "FATAL", "V": "FATAL", "C": refusal.sqlstate, "M": refusal.message, "H": refusal.hint}
    strings = [code + text.replace("\0", "") for code, text in fields.items() if text]
    body = "\0".join([*strings, "", ""]).encode("utf-8", "surrogateescape")
    return b"E" + (4 + len(body)).to_bytes(4) + body


_PROTOCOL_OPTION = b"_pq_."


def negotiate(startup: Startup, engine_major: int) -> tuple[bytes, Startup]:
    """Settle what a startup packet asks of the protocol that an engine of this major version does not know.

    Answers the NegotiateProtocolVersion message for the client, empty if none is due, and the packet as it may go to
    the engine without its negotiating again: with a version that it knows, without options of the protocol. Version
    3.2 came with PostgreSQL 18, and no version knows any option. The rule is ProcessStartupPacket's.
    """
    major, minor = startup.version
    known = min(minor, 2 if engine_major >= 18 else 0)
    *fields, _, _ = startup.raw[8:].split(b"\0")
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    unknown = [name for name, _ in pairs if name.startswith(_PROTOCOL_OPTION)]
    if known == minor and not unknown:
        return b"", startup
    version = (major << 16 | known).to_bytes(4)
    kept = b"".join(b"%b\0%b\0" % pair for pair in pairs if pair[0] not in unknown) + b"\0"
    accepted = Startup(
        version=(major, known),
        parameters={name: value for name, value in startup.parameters.items() if not name.startswith("_pq_.")},
        raw=(8 + len(kept)).to_bytes(4) + version + kept,
    )
    listed = b"".join(name + b"\0" for name in unknown)
    body = version + len(unknown).to_bytes(4) + listed
    return b"v" + (4 + len(body)).to_bytes(4) + body, accepted
