"""How a client of PostgreSQL is introduced to its engine; see `zorya.gateway.introductions`."""

import asyncio
import socket
from dataclasses import dataclass, field

from zorya.core import errors
from zorya.gateway.introductions import CHUNK_BYTES, send
from zorya.gateway.postgres.authentication import Proof
from zorya.gateway.postgres.engine_login import EngineLogin


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What was read of the client is said again; an answer that the client has got already is kept back."""

    data: bytes = field(repr=False)
    answered: bytes = b""

    async def conduct(self, engine: socket.socket, client: socket.socket) -> socket.socket:  # noqa: ARG002
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
        return engine


@dataclass(frozen=True, kw_only=True, slots=True)
class Proved:
    """A client that has proved to the gateway who it is: the gateway logs in for it."""

    startup: bytes = field(repr=False)
    user: str
    proof: Proof

    async def conduct(self, engine: socket.socket, client: socket.socket) -> socket.socket:
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
        return engine
