"""What a client of PostgreSQL says first, looked at without being taken; see `peek`."""

import asyncio
import contextlib
import socket
from dataclasses import dataclass

from zorya.gateway import peek
from zorya.gateway.postgres import introductions, pgwire


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """How far a client's start has come."""

    heard: pgwire.Startup | pgwire.SslRequest | pgwire.DirectTls
    """What it wants first; within the gateway's TLS always a Startup."""
    taken: introductions.Said | None
    """What of it was read, and answered; None while all of it can still be read by an engine."""


async def hear(client: socket.socket, timeout_s: float) -> pgwire.Event | None:
    """Answer the first thing that the client says, once it is whole; all of it is left unread.

    Only a request for GSSAPI encryption is taken, and refused: what follows counts as the first. None stands for a
    client that left, or that took longer than `timeout_s` and deserves no more attention: PostgreSQL says nothing to
    those either. Raises ProtocolViolation.
    """
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(timeout_s):
            return await _converse(client)
    return None


async def _converse(client: socket.socket) -> pgwire.Event | None:
    loop = asyncio.get_running_loop()
    framer = pgwire.StartupFramer()
    seen = 0
    while True:
        data = await peek.look_further(client, seen, pgwire.MAX_PACKET_BYTES)
        if len(data) <= seen:
            return None
        framer.receive(data[seen:])
        seen = len(data)
        while event := framer.next_event():
            if not isinstance(event, pgwire.GssRequest):
                return event
            peek.take(client, pgwire.ENCRYPTION_REQUEST_BYTES)
            seen -= pgwire.ENCRYPTION_REQUEST_BYTES
            await loop.sock_sendall(client, pgwire.ENCRYPTION_REFUSED)
