"""What an engine is told, and made to say, before it has a client to itself.

A client whose start was left unread needs none of this. For the others the gateway speaks to the engine first: over its
own connection when the client is relayed, over the prologue of `handoff` when it is handed over.
"""

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Protocol

from zorya.core import errors
from zorya.gateway import sockets, tls
from zorya.gateway.authentication import Proof
from zorya.gateway.engine_login import EngineLogin

CHUNK_BYTES = 64 * 1024


class Introduction(Protocol):
    """How one client is introduced. May be conducted again with another engine if nothing came of the first."""

    async def conduct(self, engine: socket.socket, client: socket.socket) -> None:
        """Speak to the engine; what it says to the client is passed on. Raises OSError and EngineProblem.

        Both are non-blocking; `client` may be a TlsSocket.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What was read of the client is said again; an answer that the client has got already is kept back."""

    data: bytes = field(repr=False)
    answered: bytes = b""

    async def conduct(self, engine: socket.socket, client: socket.socket) -> None:  # noqa: ARG002
        """See Introduction.conduct."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(engine, self.data)
        heard = b""
        while len(heard) < len(self.answered):
            data = await loop.sock_recv(engine, len(self.answered) - len(heard))
            if not data:
                raise ConnectionResetError("the engine ended the connection")
            heard += data
        if heard != self.answered:
            raise errors.EngineProblem("The engine answers its client otherwise than the gateway has.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Proved:
    """A client that has proved to the gateway who it is: the gateway logs in for it."""

    startup: bytes = field(repr=False)
    user: str
    proof: Proof

    async def conduct(self, engine: socket.socket, client: socket.socket) -> None:
        """See Introduction.conduct. Returns when the engine waits for the client, or has turned it down."""
        loop = asyncio.get_running_loop()
        login = EngineLogin(self.startup, self.user, self.proof)
        await loop.sock_sendall(engine, login.begin())
        while not login.is_over:
            try:
                data = await loop.sock_recv(engine, CHUNK_BYTES)
                if not data:
                    raise ConnectionResetError("the engine ended the connection")
                to_engine, to_client = login.receive(data)
                await send(client, to_client)
                await loop.sock_sendall(engine, to_engine)
            except OSError as error:
                # Another engine must not be tried: the client may have heard this one.
                raise errors.EngineProblem("The engine ended while it let a client in.") from error


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
