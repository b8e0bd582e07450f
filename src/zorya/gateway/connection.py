"""The life of one client connection: read its start, wake the cluster, reach the engine, attach. A function a step."""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine

from zorya.core import errors, logging
from zorya.core.model import Address
from zorya.core.settings import Settings
from zorya.gateway import attach, pgwire, refusals, relay, sockets
from zorya.gateway.directory import Endpoint

WAKE_GRACE_S = 1.0
"""How much longer than `wake_timeout_s` a client is held: the endpoint's own error, which knows more, goes first."""

ENGINE_ATTEMPTS = 3
RETRY_PAUSE_S = 0.05
"""Times to wake and connect where the engine dies in between, and the pause after the first; later ones are longer."""

CANCEL_TIMEOUT_S = 5.0
"""How long a running engine may take over a cancel request."""

FAREWELL_TIMEOUT_S = 2.0
"""How long a client may take to read its last message."""

log = logging.get("zorya.gateway")


async def serve(client: socket.socket, endpoint: Endpoint, settings: Settings, carrier: relay.Relay) -> None:
    """Serve an accepted connection until it ends, whatever ends it. Raises nothing but CancelledError.

    `client` is connected and non-blocking; the caller closes it afterwards. On cancellation a held client is told that
    the administrator cut it off; a relayed one just loses its connection, since any word would land inside a message.
    """
    await _guard(client, endpoint, _serve(client, endpoint, settings, carrier))


async def turn_away(client: socket.socket, endpoint: Endpoint, settings: Settings) -> None:
    """Tell a client that there are too many; forward it if it is a cancel request. Otherwise as `serve`.

    Its start is read first, as PostgreSQL does: libpq shows no error that comes in place of the answer to SSLRequest.
    """
    await _guard(client, endpoint, _turn_away(client, endpoint, settings))


async def _guard(client: socket.socket, endpoint: Endpoint, conversation: Coroutine[None, None, None]) -> None:
    try:
        await conversation
    except errors.ZoryaError as error:
        log.debug("client refused", cluster=endpoint.name, error=error.code, reason=error.message)
        await _refuse(client, refusals.explain(error))
    except Exception:
        log.exception("client connection failed", cluster=endpoint.name)
        await _refuse(client, refusals.INTERNAL_ERROR)


async def _serve(client: socket.socket, endpoint: Endpoint, settings: Settings, carrier: relay.Relay) -> None:
    opening, rest = await _read_opening(client, settings.startup_timeout_s)
    if isinstance(opening, pgwire.Startup):
        await _attach(client, endpoint, opening.raw + rest, settings.wake_timeout_s, carrier)
    else:
        await _answer(client, endpoint, opening)


async def _turn_away(client: socket.socket, endpoint: Endpoint, settings: Settings) -> None:
    opening, _ = await _read_opening(client, settings.startup_timeout_s)
    await _answer(client, endpoint, refusals.TOO_MANY_CLIENTS if isinstance(opening, pgwire.Startup) else opening)


async def _answer(
    client: socket.socket,
    endpoint: Endpoint,
    opening: pgwire.CancelRequest | pgwire.Refusal | pgwire.DirectTls | None,
) -> None:
    """Do what a connection that is not to be a session asks for."""
    match opening:
        case pgwire.CancelRequest():
            await _forward_cancel(opening, endpoint)
        case pgwire.Refusal():
            await _refuse(client, opening)
        case pgwire.DirectTls():
            await _say_farewell(client, pgwire.TLS_REFUSED)
        case None:
            log.debug("client left or was cut off before it asked for anything", cluster=endpoint.name)


async def _read_opening(client: socket.socket, timeout_s: float) -> tuple[pgwire.Opening | None, bytes]:
    """Read until it is known what the client wants; answer that and the bytes it sent behind it.

    None stands for a client that left, or that took longer than `timeout_s` and deserves no more attention: PostgreSQL
    says nothing to those either. Raises ProtocolViolation.
    """
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(timeout_s):
            return await _converse(client)
    return None, b""


async def _converse(client: socket.socket) -> tuple[pgwire.Opening | None, bytes]:
    loop = asyncio.get_running_loop()
    framer = pgwire.StartupFramer()
    while data := await loop.sock_recv(client, pgwire.MAX_PACKET_BYTES):
        framer.receive(data)
        while event := framer.next_event():
            if isinstance(event, pgwire.Opening):
                return event, framer.buffered
            await loop.sock_sendall(client, pgwire.ENCRYPTION_REFUSED)
    return None, b""


async def _forward_cancel(request: pgwire.CancelRequest, endpoint: Endpoint) -> None:
    """Pass the request to the engine if it runs, and return when the engine has dealt with it, or cannot.

    The engine closes the connection once the signal is sent; a client that waits for that must not be let go earlier.
    """
    address = endpoint.running_address()
    if address is None:
        return
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT_S):
            with await _open_session(address, request.raw) as engine:
                await asyncio.get_running_loop().sock_recv(engine, 1)
    except OSError as error:
        log.debug("cancel request not delivered", cluster=endpoint.name, engine=str(address), error=str(error))


async def _attach(
    client: socket.socket, endpoint: Endpoint, first_bytes: bytes, wake_timeout_s: float, carrier: relay.Relay
) -> None:
    """Count the client in, bring it to its engine, and return when the session is over."""
    endpoint.enter()
    try:
        match attach.decide().way:
            case attach.Way.RELAY:
                await _relay(client, endpoint, first_bytes, wake_timeout_s, carrier)
    finally:
        endpoint.leave()


async def _relay(
    client: socket.socket, endpoint: Endpoint, first_bytes: bytes, wake_timeout_s: float, carrier: relay.Relay
) -> None:
    engine = await _hold(client, endpoint, first_bytes, wake_timeout_s)
    if engine is None:
        log.debug("client left while it was held", cluster=endpoint.name)
        return
    with engine:
        await carrier.carry(client, engine)


async def _hold(
    client: socket.socket, endpoint: Endpoint, first_bytes: bytes, wake_timeout_s: float
) -> socket.socket | None:
    """Answer a session of the engine, or None when the client leaves before there is one."""
    loop = asyncio.get_running_loop()
    presence = asyncio.timeout(None)
    try:
        async with presence:
            loop.add_reader(client, _end_if_left, client, presence)
            try:
                return await _reach_engine(endpoint, first_bytes, wake_timeout_s)
            finally:
                loop.remove_reader(client)
    except TimeoutError:
        if presence.expired():
            return None
        raise
    except asyncio.CancelledError:
        _say_at_once(client, refusals.CUT_OFF)
        raise


def _end_if_left(client: socket.socket, presence: asyncio.Timeout) -> None:
    """Let `presence` expire if the client has closed. A client that sends more instead is not watched any longer."""
    loop = asyncio.get_running_loop()
    loop.remove_reader(client)
    try:
        left = not client.recv(1, socket.MSG_PEEK)
    except OSError:
        left = True
    if left:
        presence.reschedule(loop.time())


async def _reach_engine(endpoint: Endpoint, first_bytes: bytes, wake_timeout_s: float) -> socket.socket:
    try:
        async with asyncio.timeout(wake_timeout_s + WAKE_GRACE_S):
            return await _wake_and_connect(endpoint, first_bytes)
    except TimeoutError as error:
        raise errors.WakeTimeout(f"The engine of {endpoint.name} was not ready in {wake_timeout_s:g} s.") from error


async def _wake_and_connect(endpoint: Endpoint, first_bytes: bytes) -> socket.socket:
    """Wake the cluster and connect to its engine, once more if the engine stops just in between."""
    for attempt in range(1, ENGINE_ATTEMPTS + 1):
        address = await endpoint.wake()
        try:
            return await _open_session(address, first_bytes)
        except OSError as error:
            log.debug("engine not reached", cluster=endpoint.name, engine=str(address), error=str(error))
        await asyncio.sleep(RETRY_PAUSE_S * attempt)
    raise errors.EngineProblem(f"The engine of {endpoint.name} runs but takes no connections.")


async def _open_session(address: Address, first_bytes: bytes) -> socket.socket:
    """Connect to the engine and send it what the client has sent so far. Raises OSError."""
    loop = asyncio.get_running_loop()
    engine = sockets.new_engine_socket(address)
    try:
        await loop.sock_connect(engine, (address.host, address.port))
        await loop.sock_sendall(engine, first_bytes)
    except BaseException:
        engine.close()
        raise
    return engine


async def _refuse(client: socket.socket, refusal: pgwire.Refusal) -> None:
    await _say_farewell(client, pgwire.error_response(refusal))


async def _say_farewell(client: socket.socket, message: bytes) -> None:
    """Send the last message and wait a little for the client to close.

    Closing while unread bytes of the client wait would make the kernel send a reset, which can destroy the message
    before the client has read it.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(FAREWELL_TIMEOUT_S):
            await loop.sock_sendall(client, message)
            client.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(client, pgwire.MAX_PACKET_BYTES):
                pass


def _say_at_once(client: socket.socket, refusal: pgwire.Refusal) -> None:
    """Send what the kernel takes of the refusal, without waiting."""
    with contextlib.suppress(OSError):
        client.send(pgwire.error_response(refusal))
        client.shutdown(socket.SHUT_WR)
