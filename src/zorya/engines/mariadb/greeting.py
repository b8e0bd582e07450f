"""What a server says of itself in its first packet. Pure.

Knowledge Base, "Connection", Initial Handshake Packet: protocol 10.
"""

import struct
from dataclasses import dataclass

TLS = 1 << 11
"""The capability of TLS (SSL, in the protocol's words)."""

_AFTER_VERSION = struct.Struct("<4x8xxHBxxHBxxxxxxI")
"""Thread, salt, filler, capabilities, collation, status, capabilities, length of the salt, filler, capabilities."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Greeting:
    """The parts of it that are the same for everybody."""

    version: str
    capabilities: int
    """All 64 bits: MariaDB's own stand from bit 32 on."""
    collation: int


def parse(packet: bytes) -> Greeting:
    """Read the packet, without its header. Raises ValueError for anything else, such as an error packet."""
    if packet[:1] != b"\x0a":
        raise ValueError("not the greeting of protocol 10")
    version, _, rest = packet[1:].partition(b"\0")
    if len(rest) < _AFTER_VERSION.size:
        raise ValueError("the greeting is cut off")
    low, collation, high, _, extended = _AFTER_VERSION.unpack_from(rest)
    return Greeting(
        version=version.decode(errors="surrogateescape"),
        capabilities=low | high << 16 | extended << 32,
        collation=collation,
    )
