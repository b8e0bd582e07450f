"""The messages that follow the startup packet, as far as logging in needs them. Pure.

Their layout: https://www.postgresql.org/docs/current/protocol-message-formats.html.
"""

from enum import IntEnum

from zorya.core import errors

HEADER_BYTES = 5
"""The type, one byte, and the length word, which counts itself but not the type."""

SCRAM = b"SCRAM-SHA-256"
SCRAM_PLUS = b"SCRAM-SHA-256-PLUS"
"""The same, bound to the TLS connection."""


class Request(IntEnum):
    """What an engine asks of a client, or tells it, in a message of type `R`; those that are answered here."""

    OK = 0
    MD5_PASSWORD = 5
    SASL = 10
    SASL_CONTINUE = 11
    SASL_FINAL = 12


def message(kind: bytes, body: bytes) -> bytes:
    """Answer a message of this type."""
    return kind + (4 + len(body)).to_bytes(4) + body


def request(code: Request, data: bytes = b"") -> bytes:
    """Answer a message of type `R`."""
    return message(b"R", code.to_bytes(4) + data)


def response(body: bytes) -> bytes:
    """Answer a client's message of type `p`: a password, or one of SASL's."""
    return message(b"p", body)


def first_sasl_response(mechanism: bytes, data: bytes) -> bytes:
    """Answer the client's SASLInitialResponse."""
    return response(mechanism + b"\0" + len(data).to_bytes(4) + data)


class ResponseFramer:
    """Reads a client's messages of type `p`, one at a time: it may not send the next before it was asked for it."""

    def __init__(self, *, kind: str, max_bytes: int) -> None:
        """`kind` is the word for such a response in PostgreSQL's errors; `max_bytes` bounds the length word."""
        self._kind = kind
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def receive(self, data: bytes) -> bytes | None:
        """Take bytes in any chunking and answer the message's body once it is whole.

        Raises ProtocolViolation for another type as soon as that came, for a wrong length as soon as that came, and
        for bytes behind the message. No more than one message is ever kept.
        """
        data = self._keep(data, HEADER_BYTES)
        if self._buffer and self._buffer[0] != ord("p"):
            raise errors.ProtocolViolation(f"expected {self._kind} response, got message type {self._buffer[0]}")
        if len(self._buffer) < HEADER_BYTES:
            return None
        length = int.from_bytes(self._buffer[1:HEADER_BYTES])
        if not 4 <= length <= self._max_bytes:
            raise errors.ProtocolViolation("invalid message length")
        if self._keep(data, 1 + length):
            raise errors.ProtocolViolation(f"received bytes behind the {self._kind} response")
        if len(self._buffer) < 1 + length:
            return None
        body = bytes(self._buffer[HEADER_BYTES:])
        self._buffer.clear()
        return body

    def _keep(self, data: bytes, end: int) -> bytes:
        """Keep what belongs to the message up to `end`, and answer the rest."""
        missing = max(end - len(self._buffer), 0)
        self._buffer += data[:missing]
        return data[missing:]
