"""The life of one client connection: look at its start, wake the cluster, attach. A function a step."""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from dataclasses import dataclass

from zorya.core import errors, logging
from zorya.core.model import Address, Entrance
from zorya.core.settings import Settings
from zorya.gateway import attach, handoff, pgwire, refusals, relay, sockets, startup
from zorya.gateway.directory import Endpoint

WAKE_GRACE_S = 1.0
"""How much longer than `wake_timeout_s` a client is held: the endpoint's own error, which knows more, goes first."""

ENGINE_ATTEMPTS = 3
RETRY_PAUSE_S = 0.05
"""Times to wake and attach where the engine ends in between, and the pause after the first; later ones are longer."""

CANCEL_TIMEOUT_S = 5.0
"""How long a running engine may take over a cancel request."""

FAREWELL_TIMEOUT_S = 2.0
"""How long a client may take to read its last message."""

log = logging.get("zorya.gateway")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """One accepted connection and what it came to."""

    client: socket.socket
    """Connected and non-blocking."""
    peer: handoff.Peer
    endpoint: Endpoint
    settings: Settings
    relay: relay.Relay
    handing_over: asyncio.Semaphore
    """Held while the client is on its way to its engine."""


async def serve(arrival: Arrival) -> None:
    """Serve a connection until it is handed over or has ended. Raises nothing but CancelledError.

    The caller closes the connection afterwards; an engine that got it has a descriptor of its own. On cancellation a
    held client is told that the administrator cut it off; a relayed one just loses its connection, since any word would
    land inside a message.
    """
    await _guard(arrival, _serve(arrival))


async def turn_away(arrival: Arrival) -> None:
    """Tell a client that there are too many; pass it on if it is a cancel request. Otherwise as `serve`.

    Its start is looked at first, as PostgreSQL does: libpq shows no error that comes in place of the answer to
    SSLRequest.
    """
    await _guard(arrival, _turn_away(arrival))


async def _guard(arrival: Arrival, conversation: Coroutine[None, None, None]) -> None:
    name = arrival.endpoint.name
    try:
        await conversation
    except errors.ZoryaError as error:
        log.debug("client refused", cluster=name, error=error.code, reason=error.message)
        await _refuse(arrival.client, refusals.explain(error))
    except Exception:
        log.exception("client connection failed", cluster=name)
        await _refuse(arrival.client, refusals.INTERNAL_ERROR)


async def _serve(arrival: Arrival) -> None:
    """Nothing is asked of a client whose engine is up: the engine reads what it has to say.

    One that only connects gets nowhere all the same, and one that wants no session, or nonsense, starts nothing.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + arrival.settings.startup_timeout_s
    if not await startup.has_spoken(arrival.client, arrival.settings.startup_timeout_s):
        return
    # Asked only now: a cluster may go to sleep while a client is silent.
    if arrival.endpoint.is_up:
        await _attach_unheard(arrival)
        return
    opening = await startup.read(arrival.client, until_s - loop.time())
    if isinstance(opening, pgwire.Startup):
        await _attach(arrival)
    else:
        await _answer(arrival, opening)


async def _attach_unheard(arrival: Arrival) -> None:
    """Attach a client that the engine is to hear out. If that fails it is heard here, and then told."""
    try:
        await _attach(arrival)
    except errors.ZoryaError:
        # libpq shows no error that comes in place of the answer to SSLRequest.
        await startup.read(arrival.client, arrival.settings.startup_timeout_s)
        raise


async def _turn_away(arrival: Arrival) -> None:
    opening = await startup.read(arrival.client, arrival.settings.startup_timeout_s)
    await _answer(arrival, refusals.TOO_MANY_CLIENTS if isinstance(opening, pgwire.Startup) else opening)


async def _answer(arrival: Arrival, opening: pgwire.CancelRequest | pgwire.Refusal | pgwire.DirectTls | None) -> None:
    """Do what a connection that is not to be a session asks for."""
    match opening:
        case pgwire.CancelRequest():
            await _forward_cancel(opening, arrival.endpoint)
            # libpq takes a reset for a failure.
            await _say_farewell(arrival.client, b"")
        case pgwire.Refusal():
            await _refuse(arrival.client, opening)
        case pgwire.DirectTls():
            await _say_farewell(arrival.client, pgwire.TLS_REFUSED)
        case None:
            log.debug("client left or was cut off before it asked for anything", cluster=arrival.endpoint.name)


async def _forward_cancel(request: pgwire.CancelRequest, endpoint: Endpoint) -> None:
    """Pass the request to the engine if it runs, and return when the engine has dealt with it, or cannot.

    The engine closes the connection once the signal is sent; a client that waits for that must not be let go earlier.
    """
    entrance = endpoint.running()
    if entrance is None:
        return
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT_S):
            with await _open_session(entrance.address, request.raw) as engine:
                await asyncio.get_running_loop().sock_recv(engine, 1)
    except OSError as error:
        log.debug("cancel request not delivered", cluster=endpoint.name, error=str(error))


async def _attach(arrival: Arrival) -> None:
    """Count the client in, bring it to its engine, and return when Zorya has nothing more to do with it."""
    endpoint = arrival.endpoint
    endpoint.enter()
    try:
        session = await _reach_engine(arrival)
        if session is not None:
            endpoint.attached()
    except asyncio.CancelledError:
        _say_at_once(arrival.client, refusals.CUT_OFF)
        raise
    finally:
        endpoint.leave()
    if isinstance(session, socket.socket):
        try:
            with session:
                await arrival.relay.carry(arrival.client, session)
        finally:
            endpoint.detached()


class _HandedOver:
    """In place of a relayed session's socket: the engine has the client's own."""


async def _reach_engine(arrival: Arrival) -> socket.socket | _HandedOver | None:
    """Wake and attach, once more if the engine ends just in between. Answer the engine's side of a relayed session.

    None stands for a client that left while it was held. Raises what `wake` raises, and EngineProblem.
    """
    failed, failure = None, ""
    for attempt in range(1, ENGINE_ATTEMPTS + 1):
        entrance = arrival.endpoint.running() or await _hold(arrival)
        if entrance is None:
            log.debug("client left while it was held", cluster=arrival.endpoint.name)
            return None
        choice = attach.decide(
            entrance.handoff,
            relay_only=arrival.settings.attach == "relay",
            # An engine that has been started anew has not failed yet.
            failure=failure if entrance == failed else "",
        )
        try:
            session = await _attach_by(choice.way, arrival, entrance)
        except OSError as error:
            failed, failure = entrance, error.strerror or str(error)
        else:
            log.debug("attached", cluster=arrival.endpoint.name, way=choice.way, reason=choice.reason)
            return session
        log.debug("engine not reached", cluster=arrival.endpoint.name, way=choice.way, error=failure)
        await asyncio.sleep(RETRY_PAUSE_S * attempt)
    raise errors.EngineProblem(f"The engine of {arrival.endpoint.name} runs but takes no connections.")


async def _attach_by(way: attach.Way, arrival: Arrival, entrance: Entrance) -> socket.socket | _HandedOver:
    """Do it. Raises OSError when the engine does not take the client; the client is as it was then."""
    match way:
        case attach.Way.HANDOFF:
            assert entrance.handoff.inlet is not None
            async with arrival.handing_over:
                if not await handoff.hand_over(arrival.client, arrival.peer, entrance.handoff.inlet):
                    raise ConnectionAbortedError("the engine ended before it had the client")
            return _HandedOver()
        case attach.Way.RELAY:
            return await _open_session(entrance.address, b"")


async def _hold(arrival: Arrival) -> Entrance | None:
    """Hold the client until the engine is up; answer how to get in, or None when the client leaves before that."""
    waking = asyncio.create_task(_wake(arrival), name=f"wake {arrival.endpoint.name}")
    leaving = asyncio.create_task(startup.has_left(arrival.client), name=f"client of {arrival.endpoint.name} leaves")
    try:
        await asyncio.wait({waking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return waking.result() if waking.done() else None
    finally:
        waking.cancel()
        leaving.cancel()
        await asyncio.gather(waking, leaving, return_exceptions=True)


async def _wake(arrival: Arrival) -> Entrance:
    timeout_s = arrival.settings.wake_timeout_s
    try:
        async with asyncio.timeout(timeout_s + WAKE_GRACE_S):
            return await arrival.endpoint.wake()
    except TimeoutError as error:
        raise errors.WakeTimeout(f"The engine of {arrival.endpoint.name} was not ready in {timeout_s:g} s.") from error


async def _open_session(address: Address, first_bytes: bytes) -> socket.socket:
    """Connect to the engine and send it these bytes. Raises OSError."""
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
    """Send what the kernel takes of the refusal, without waiting, and take the start: see `_say_farewell` for why."""
    with contextlib.suppress(OSError):
        client.send(pgwire.error_response(refusal))
        client.shutdown(socket.SHUT_WR)
        client.recv(pgwire.MAX_PACKET_BYTES)
