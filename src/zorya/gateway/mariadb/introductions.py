"""How a client of MariaDB is introduced to its engine; see `zorya.gateway.introductions`."""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from zorya.core import errors
from zorya.core.model import Address
from zorya.gateway import tls
from zorya.gateway.mariadb import proxy
from zorya.gateway.mariadb.conversation import Conversation
from zorya.gateway.mariadb.engine_login import EngineLogin, Step
from zorya.gateway.mariadb.wire import Packet, PacketFramer


@dataclass(frozen=True, kw_only=True, slots=True)
class Announced:
    """The engine is told where the client is, and greets it."""

    client: Address

    async def conduct(self, engine: socket.socket, client: socket.socket) -> socket.socket:  # noqa: ARG002
        """See Introduction.conduct."""
        await _announce(self.client, engine)
        return engine


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedIn:
    """The gateway has greeted the client: it logs in for it, or has it answer the engine's questions."""

    talk: Conversation
    new_login: Callable[[], EngineLogin] = field(repr=False)

    async def conduct(self, engine: socket.socket, client: socket.socket) -> socket.socket:  # noqa: ARG002
        """See Introduction.conduct. Returns when the engine has let the client in, or has turned it down."""
        await _announce(self.talk.address, engine)
        login, side = self.new_login(), engine
        try:
            while True:
                step = login.receive(await _read(side))
                await tls.send_all(side, step.to_engine)
                if step.starts_tls:
                    side = await tls.connect(side, trusting_context())
                    await tls.send_all(side, login.secured())
                if step.to_client is not None:
                    await self._pass_on(login, side, step)
                    return side
        except BaseException:
            side.close()
            raise

    async def _pass_on(self, login: EngineLogin, side: socket.socket, step: Step) -> None:
        """Have the client hear the engine, and answer it in whatever order the two speak, until it has decided."""
        answering = None
        try:
            while not step.is_last:
                if step.to_client is not None:
                    await self._say(step.to_client)
                answering = answering or asyncio.create_task(
                    self._answer(login, side), name="client answers its engine"
                )
                step = login.receive(await _read(side))
                await tls.send_all(side, step.to_engine)
        except OSError as error:
            # Another engine must not be tried: the client has heard this one.
            raise errors.EngineProblem("The engine ended while it let a client in.") from error
        finally:
            # What the client says from here on is of the session, and not to be read by the gateway.
            if answering is not None:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
        if step.to_client is not None:
            await self._say(step.to_client)

    async def _answer(self, login: EngineLogin, side: socket.socket) -> None:
        with contextlib.suppress(OSError, errors.ProtocolViolation):
            while (packet := await self.talk.read()) is not None:
                await tls.send_all(side, login.answer(packet.body))
        # The client has left or speaks nonsense. The engine would wait for it: told so, it ends the connection.
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_WR)

    async def _say(self, body: bytes) -> None:
        try:
            await self.talk.send(body)
        except OSError as error:
            raise errors.EngineProblem("The client left while the engine let it in.") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Turned:
    """The engine is up for a client that it can let in only if it hears it from the start."""

    message: str

    async def conduct(self, engine: socket.socket, client: socket.socket) -> socket.socket:  # noqa: ARG002
        """See Introduction.conduct. Raises EngineProblem."""
        raise errors.EngineProblem(
            "A client has to show its certificate to the engine itself.", client_message=self.message
        )


async def _announce(client: Address, engine: socket.socket) -> None:
    host, port = engine.getpeername()[:2]
    await tls.send_all(engine, proxy.header(client, Address(host=host, port=port)))


async def _read(side: socket.socket) -> Packet:
    framer = PacketFramer()
    while True:
        data = await tls.receive(side, framer.wants)
        if not data:
            raise ConnectionResetError("the engine ended the connection")
        try:
            packet = framer.receive(data)
        except errors.ProtocolViolation as violation:
            raise errors.EngineProblem("The engine sends what is no packet of a login.") from violation
        if packet is not None:
            return packet


@functools.cache
def trusting_context() -> ssl.SSLContext:
    """Answer how the gateway does TLS with an engine: it believes any certificate.

    The engine was started by Zorya on this host and is reached over its loopback, where nobody comes between. That
    there is TLS at all is for the engine to see: `REQUIRE SSL` and `require_secure_transport` go by it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
