"""What every client goes through, whatever it speaks: see whether it may come, wake the cluster, attach.

What is particular to a protocol is in `postgres.connection` and `mariadb.connection`.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

from zorya.core import errors, logging
from zorya.core.model import Address, Entrance, WakeOn
from zorya.gateway import access, attach, handoff, introductions, peek, refusals, sockets, tls
from zorya.gateway.arrival import Arrival, Destination
from zorya.gateway.directory import Endpoint
from zorya.gateway.introductions import Introduction
from zorya.gateway.refusals import TurnedAway

WAKE_GRACE_S = 1.0
"""How much longer than `wake_timeout_s` a client is held: the endpoint's own error, which knows more, goes first."""

ENGINE_ATTEMPTS = 3
RETRY_PAUSE_S = 0.05
"""Times to wake and attach where the engine ends in between, and the pause after the first; later ones are longer."""

INTRODUCTION_TIMEOUT_S = 10.0
"""How long a running engine may take to let in a client that the gateway introduces."""

FAREWELL_TIMEOUT_S = 2.0
"""How long a client may take to read its last message."""

_DROPPED_BYTES = 16 * 1024

log = logging.get("zorya.gateway")


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """How one client is to get to its engine."""

    handed: Introduction | None
    """What the engine is told before it has a client that is handed over; None if the client's start is unread."""
    relayed: Introduction | None
    """The same for one that is relayed."""
    cut_off: bytes
    """What the client is sent, in its protocol, when it is held and cut off."""
    only_relay: str = ""
    """Why only the gateway can go on with this client, as a sentence; empty where the engine could."""
    source: str | None = None
    """The address of this host from which a relayed client's engine is to be reached; None is any."""


async def guard(
    arrival: Arrival,
    conversation: Coroutine[None, None, None],
    say: Callable[[Arrival, TurnedAway], Awaitable[None]],
) -> None:
    """Await a conversation, and have the client told what went wrong in it. Raises nothing but CancelledError."""
    try:
        await conversation
    except errors.ZoryaError as error:
        log.debug("client refused", cluster=arrival.cluster, error=error.code, reason=error.message)
        await say(arrival, refusals.explain(error))
    except (ConnectionError, ssl.SSLError) as error:
        log.debug("client lost", cluster=arrival.cluster, error=str(error))
    except Exception:
        log.exception("client connection failed", cluster=arrival.cluster)
        await say(arrival, refusals.INTERNAL_ERROR)


def why_not(arrival: Arrival, endpoint: Endpoint) -> TurnedAway | None:
    """Why the client may not come, whoever it is and however it speaks; None if nothing speaks against it."""
    if not access.allows(endpoint.access.allow, arrival.address):
        return refusals.not_allowed(arrival.address, endpoint.name)
    most = endpoint.access.max_clients
    if arrival.house.is_full():
        return refusals.TOO_MANY_CLIENTS
    if most is not None and endpoint.sessions >= most:
        return refusals.too_many_of(endpoint.name, most)
    return None


async def await_turn(arrival: Arrival, endpoint: Endpoint) -> TurnedAway | None:
    """Wait for the client's turn after failed logins from its address; answer why it gets none."""
    wait_s = arrival.house.throttle.turn(endpoint.name, arrival.address, asyncio.get_running_loop().time())
    if wait_s is None:
        return refusals.TOO_MANY_FAILURES
    await wait(arrival, wait_s)
    return None


async def await_turn_of_role(arrival: Arrival, endpoint: Endpoint, role: str) -> None:
    """Wait for the client's turn after failed logins as this role."""
    delay_s = arrival.house.throttle.delay_of_role(endpoint.name, role, asyncio.get_running_loop().time())
    await wait(arrival, delay_s)


def note_failed_login(arrival: Arrival, endpoint: Endpoint, role: str) -> None:
    """Count a login that the gateway has turned down."""
    arrival.house.throttle.failed(endpoint.name, arrival.address, role, asyncio.get_running_loop().time())
    endpoint.login_failed(arrival.address, role)


async def wait(arrival: Arrival, wait_s: float) -> None:
    """Keep a client waiting that has done nothing for it: that takes nothing off its own time."""
    if wait_s:
        arrival.until_s += wait_s
        await asyncio.sleep(wait_s)


def wakes_nothing(endpoint: Endpoint) -> bool:
    """Whether the engine may be left to find out who a client is, since it is up, or that cannot be known without it.

    Asked again whenever a client has said something: the cluster may have gone to sleep meanwhile.
    """
    return is_awake(endpoint) or endpoint.access.wake_on is WakeOn.ANY or endpoint.identities is None


def is_awake(endpoint: Endpoint) -> bool:
    """Whether the engine is up, or will be without this client."""
    return endpoint.is_up or endpoint.is_starting


async def board(arrival: Arrival, destination: Destination, passage: Passage) -> None:
    """Count the client in, bring it to its engine, and return when Zorya has nothing more to do with it.

    Raises what `wake` raises, and EngineProblem.
    """
    arrival.has_said_enough()
    endpoint = destination.endpoint
    endpoint.enter()
    try:
        session = await _reach_engine(arrival, destination, passage)
        if session is not None:
            endpoint.attached()
    except asyncio.CancelledError:
        _say_at_once(arrival.client, passage.cut_off)
        raise
    finally:
        endpoint.leave()
    if isinstance(session, socket.socket):
        try:
            with session:
                await arrival.house.relay.carry(arrival.client, session)
        finally:
            endpoint.detached()


class _HandedOver:
    """In place of a relayed session's socket: the engine has the client's own."""


async def _reach_engine(
    arrival: Arrival, destination: Destination, passage: Passage
) -> socket.socket | _HandedOver | None:
    """Wake and attach, once more if the engine ends just in between. Answer the engine's side of a relayed session.

    None stands for a client that left while it was held. Raises what `wake` raises, and EngineProblem.
    """
    endpoint = destination.endpoint
    failed, failure = None, ""
    for attempt in range(1, ENGINE_ATTEMPTS + 1):
        entrance = endpoint.running() or await _hold(arrival, endpoint)
        if entrance is None:
            log.debug("client left while it was held", cluster=endpoint.name)
            return None
        choice = attach.decide(
            entrance.handoff,
            relay_only=arrival.house.settings.attach == "relay",
            # An engine that has been started anew has not failed yet.
            failure=failure if entrance == failed else "",
            only_relay=passage.only_relay,
        )
        try:
            session = await _attach_by(choice.way, arrival, destination, entrance, passage)
        except OSError as error:
            failed, failure = entrance, error.strerror or str(error)
        else:
            log.debug("attached", cluster=endpoint.name, way=choice.way, reason=choice.reason)
            return session
        log.debug("engine not reached", cluster=endpoint.name, way=choice.way, error=failure)
        await asyncio.sleep(RETRY_PAUSE_S * attempt)
    raise errors.EngineProblem(
        f"The engine of {endpoint.name} runs but takes no connections: {failure}.",
        client_message=f"The engine of {endpoint.name} runs but takes no connections.",
    )


async def _attach_by(
    way: attach.Way, arrival: Arrival, destination: Destination, entrance: Entrance, passage: Passage
) -> socket.socket | _HandedOver:
    """Do it. Raises OSError when the engine does not take the client, which is then as it was, and EngineProblem."""
    match way:
        case attach.Way.HANDOFF:
            assert entrance.handoff.inlet is not None
            async with destination.handing_over:
                if passage.handed is None:
                    taken = await handoff.hand_over(arrival.client, arrival.peer, entrance.handoff.inlet)
                else:
                    taken = await _hand_over_introduced(arrival, entrance, passage.handed)
            if not taken:
                raise ConnectionAbortedError("the engine ended before it had the client")
            return _HandedOver()
        case attach.Way.RELAY:
            engine = await open_session(entrance.address, passage.source)
            try:
                arrival.house.note_relay(engine, arrival.address)
                if passage.relayed is not None:
                    async with asyncio.timeout(INTRODUCTION_TIMEOUT_S):
                        return await passage.relayed.conduct(engine, arrival.client)
            except TimeoutError as error:
                engine.close()
                # As in `introductions`: the client may have heard the half of it.
                raise errors.EngineProblem("The engine took too long to let a client in.") from error
            except BaseException:
                engine.close()
                raise
            return engine


async def _hand_over_introduced(arrival: Arrival, entrance: Entrance, introduction: Introduction) -> bool:
    """Hand the client over and introduce it. Answer whether the engine has it."""
    assert entrance.handoff.inlet is not None
    near, far = socket.socketpair()
    near.settimeout(0)
    with near:
        with far:
            if not await handoff.hand_over(arrival.client, arrival.peer, entrance.handoff.inlet, far):
                return False
        try:
            async with asyncio.timeout(INTRODUCTION_TIMEOUT_S):
                await introduction.conduct(near, arrival.client)
                await introductions.pass_on_rest(near, arrival.client)
        except (OSError, errors.EngineProblem) as error:
            # The engine has the client, which waits for what will not come: it must not wait for ever.
            log.debug("client lost on its way in", cluster=arrival.cluster, error=str(error))
            with contextlib.suppress(OSError):
                arrival.client.shutdown(socket.SHUT_RDWR)
        return True


async def _hold(arrival: Arrival, endpoint: Endpoint) -> Entrance | None:
    """Hold the client until the engine is up; answer how to get in, or None when the client leaves before that."""
    waking = asyncio.create_task(_wake(arrival, endpoint), name=f"wake {endpoint.name}")
    leaving = asyncio.create_task(peek.has_left(arrival.client), name=f"client of {endpoint.name} leaves")
    try:
        await asyncio.wait({waking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return waking.result() if waking.done() else None
    finally:
        waking.cancel()
        leaving.cancel()
        await asyncio.gather(waking, leaving, return_exceptions=True)


async def _wake(arrival: Arrival, endpoint: Endpoint) -> Entrance:
    timeout_s = arrival.house.settings.wake_timeout_s
    try:
        async with asyncio.timeout(timeout_s + WAKE_GRACE_S):
            return await endpoint.wake()
    except TimeoutError as error:
        raise errors.WakeTimeout(f"The engine of {endpoint.name} was not ready in {timeout_s:g} s.") from error


async def open_session(address: Address, source: str | None = None) -> socket.socket:
    """Connect to an engine, from an address of this host. Raises OSError."""
    engine = sockets.new_engine_socket(address)
    try:
        if source is not None:
            engine.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(engine, (address.host, address.port))
    except BaseException:
        engine.close()
        raise
    return engine


async def say_farewell(client: socket.socket, message: bytes) -> None:
    """Send the last message, if there is one, and wait a little for the client to close.

    Closing while unread bytes of the client wait would make the kernel send a reset, which can destroy the message
    before the client has read it.
    """
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(FAREWELL_TIMEOUT_S):
            if message:
                await tls.send_all(client, message)
            await tls.close_notify(client)
            client.shutdown(socket.SHUT_WR)
            while await tls.receive(client, _DROPPED_BYTES):
                pass


def _say_at_once(client: socket.socket, message: bytes) -> None:
    """Send what the kernel takes of it, without waiting, and take the start: see `say_farewell` for why."""
    with contextlib.suppress(OSError):
        client.send(message)
        client.shutdown(socket.SHUT_WR)
        client.recv(_DROPPED_BYTES)
