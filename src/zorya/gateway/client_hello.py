"""The beginning of a TLS connection: which host name the client wants, without answering it. Bytes in, no I/O.

Only that is read out of a ClientHello, and the names of the protocols that are to be spoken inside; whether the rest
can be agreed on is for OpenSSL to say. The layout is that of RFC 8446 (sections 4.1.2, 4.2 and 5.1), which older
versions share, of RFC 6066 (section 3, server_name) and of RFC 7301 (section 3.1, ALPN).
"""

from dataclasses import dataclass

from zorya.core import errors

RECORD_HEADER_BYTES = 5
MAX_RECORD_BYTES = 16 * 1024

MAX_HELLO_BYTES = RECORD_HEADER_BYTES + MAX_RECORD_BYTES
"""The most of a stream that a ClientHello may take: one full record. A client that sends it in several records has the
less room, by the header of each. Those of today's clients have 200 to 2500 bytes."""

MAX_HOST_NAME_BYTES = 255

_HANDSHAKE = 0x16
_CLIENT_HELLO = 0x01
_MAJOR_VERSION = 0x03
_MESSAGE_HEADER_BYTES = 4
_SERVER_NAME = 0
_HOST_NAME = 0
_ALPN = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientHello:
    """What a client says of itself before anything is encrypted. Nobody has proved any of it."""

    server_name: str | None
    """The host that the client wants: ASCII without spaces, in lower case, without a dot at the end; or it named none.
    RFC 6066 wants no dot there, but some clients pass on what their user typed."""
    alpn: tuple[str, ...]
    """The protocols it speaks, the dearest first; a character for each byte, which need not be ASCII."""


class ClientHelloFramer:
    """Reads one connection's ClientHello. Every byte is looked at once, however small the pieces.

    The bytes are meant to be peeked: whoever looks again at a socket with more in it calls `receive` with what is new
    alone, and not with everything from the beginning.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        """Of the present record, as far as it has come."""
        self._record_left = 0
        """How much of the present record is to come, once its header is complete."""
        self._headers_bytes = 0
        """Of all records up to here."""
        self._message = bytearray()
        self._hello: ClientHello | None = None
        self._violation: errors.ProtocolViolation | None = None

    def receive(self, data: bytes) -> ClientHello | None:
        """Take the next bytes, in any chunking; None asks for more. What follows the hello is not looked at.

        Raises ProtocolViolation, again at each later call, as soon as the bytes cannot become a ClientHello of at most
        MAX_HELLO_BYTES, and nothing else.
        """
        if self._violation is not None:
            raise self._violation
        try:
            self._take(memoryview(data))
        except errors.ProtocolViolation as violation:
            self._violation = violation
            raise
        return self._hello

    def _take(self, data: memoryview) -> None:
        while data and self._hello is None:
            if self._record_left:
                part = data[: self._record_left]
                self._record_left -= len(part)
                self._message += part
                self._read_message()
            else:
                part = data[: RECORD_HEADER_BYTES - len(self._header)]
                self._header += part
                self._read_header()
            data = data[len(part) :]

    def _read_header(self) -> None:
        if self._header[0] != _HANDSHAKE:
            raise errors.ProtocolViolation("invalid TLS record: expected a handshake")
        if self._header[1:2] not in (b"", bytes([_MAJOR_VERSION])):
            raise errors.ProtocolViolation("invalid version of TLS record")
        if len(self._header) == RECORD_HEADER_BYTES:
            self._record_left = int.from_bytes(self._header[3:])
            if not 1 <= self._record_left <= MAX_RECORD_BYTES:
                raise errors.ProtocolViolation("invalid length of TLS record")
            self._header.clear()
            self._headers_bytes += RECORD_HEADER_BYTES

    def _read_message(self) -> None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise errors.ProtocolViolation("invalid TLS handshake: expected a ClientHello")
        if len(message) < _MESSAGE_HEADER_BYTES:
            return
        length = _MESSAGE_HEADER_BYTES + int.from_bytes(message[1:_MESSAGE_HEADER_BYTES])
        if self._headers_bytes + length > MAX_HELLO_BYTES:
            raise errors.ProtocolViolation("ClientHello is too long")
        # The bytes of the present record that are to come count as if they were there.
        if len(message) + self._record_left > length:
            raise errors.ProtocolViolation("ClientHello is not all of its record")
        if len(message) == length:
            self._hello = _parse_hello(bytes(message[_MESSAGE_HEADER_BYTES:]))


class _Reader:
    """Takes fields from the front of a structure. Raises ProtocolViolation for one that is not whole."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._data):
            raise errors.ProtocolViolation("invalid length in ClientHello")
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int, least: int, most: int) -> bytes:
        """Take a vector whose length stands before it in `size` bytes and lies within the bounds, both included."""
        length = self.number(size)
        if not least <= length <= most:
            raise errors.ProtocolViolation("invalid length in ClientHello")
        return self.take(length)


def _parse_hello(body: bytes) -> ClientHello:
    reader = _Reader(body)
    if reader.number(2) >> 8 != _MAJOR_VERSION:
        raise errors.ProtocolViolation("invalid version in ClientHello")
    reader.take(32)
    reader.vector(1, 0, 32)
    if len(reader.vector(2, 2, 0xFFFE)) % 2:
        raise errors.ProtocolViolation("invalid length in ClientHello")
    reader.vector(1, 1, 0xFF)
    extensions = _parse_extensions(reader.vector(2, 0, 0xFFFF)) if reader else {}
    if reader:
        raise errors.ProtocolViolation("ClientHello is longer than what is in it")
    return ClientHello(
        server_name=_parse_server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else None,
        alpn=_parse_alpn(extensions[_ALPN]) if _ALPN in extensions else (),
    )


def _parse_extensions(body: bytes) -> dict[int, bytes]:
    reader = _Reader(body)
    extensions: dict[int, bytes] = {}
    while reader:
        kind = reader.number(2)
        if kind in extensions:
            raise errors.ProtocolViolation("an extension of ClientHello stands there twice")
        extensions[kind] = reader.vector(2, 0, 0xFFFF)
    return extensions


def _parse_server_name(body: bytes) -> str:
    """Read the only entry that the list may have: no other type of name has ever been defined."""
    names = _only_vector(body, 1)
    if names.number(1) != _HOST_NAME:
        raise errors.ProtocolViolation("invalid type of server name")
    name = names.vector(2, 1, MAX_HOST_NAME_BYTES)
    if names:
        raise errors.ProtocolViolation("more than one server name")
    if not all(0x20 < byte < 0x7F for byte in name):
        raise errors.ProtocolViolation("invalid server name")
    return name.decode("ascii").lower().removesuffix(".")


def _parse_alpn(body: bytes) -> tuple[str, ...]:
    names = _only_vector(body, 2)
    protocols = []
    while names:
        protocols.append(names.vector(1, 1, 0xFF).decode("latin-1"))
    return tuple(protocols)


def _only_vector(body: bytes, least: int) -> _Reader:
    """Read an extension that is one vector with a length of two bytes."""
    reader = _Reader(body)
    vector = reader.vector(2, least, 0xFFFF)
    if reader:
        raise errors.ProtocolViolation("an extension of ClientHello is longer than what is in it")
    return _Reader(vector)
