"""What an engine is told, and made to say, before it has a client to itself.

A client whose start was left unread needs none of this. For the others the gateway speaks to the engine first: over its
own connection when the client is relayed, over the prologue of `handoff` when it is handed over.
"""

import asyncio
import socket
from typing import Protocol

from zorya.gateway import sockets, tls

CHUNK_BYTES = 64 * 1024


class Introduction(Protocol):
    """How one client is introduced. May be conducted again with another engine if nothing came of the first."""

    async def conduct(self, engine: socket.socket, client: socket.socket) -> socket.socket:
        """Speak to the engine; what it says to the client is passed on. Raises OSError and EngineProblem.

        Both are non-blocking; `client` may be a TlsSocket. Answers the engine's side of the session from here on: the
        same socket, or a TlsSocket that has taken its place.
        """


async def pass_on_rest(engine: socket.socket, client: socket.socket) -> None:
    """Say nothing more to the engine, and pass on what it still says over a prologue until it has its client itself."""
    loop = asyncio.get_running_loop()
    engine.shutdown(socket.SHUT_WR)
    while data := await loop.sock_recv(engine, CHUNK_BYTES):
        await send(client, data)


async def send(client: socket.socket, data: bytes) -> None:
    """Send all of it to a client that may be an engine's already, which has its connections block as it likes."""
    if isinstance(client, tls.TlsSocket):
        await tls.send_all(client, data)
        return
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[client.send(rest, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            await sockets.writable(client)
