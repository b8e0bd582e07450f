"""The life of one client connection: hear its start, see whether it may, wake the cluster, attach. A function a step.

An engine that is up, or about to be, does its own TLS and its own authentication: the client's start is only looked
at, and all of it is left for the engine to read. While the engine is stopped nobody starts it who has not proved here
who he is; the gateway then does the TLS, if there is to be any, and logs in to the engine for him.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Coroutine

from zorya.core import errors, logging
from zorya.core.identity import Identities
from zorya.core.model import Address, Entrance, WakeOn
from zorya.gateway import (
    access,
    attach,
    authentication,
    handoff,
    introductions,
    pgwire,
    refusals,
    sockets,
    startup,
    tls,
)
from zorya.gateway.arrival import Arrival, Destination, Start
from zorya.gateway.authentication import Authentication
from zorya.gateway.directory import Endpoint
from zorya.gateway.introductions import Introduction, Proved, Said

WAKE_GRACE_S = 1.0
"""How much longer than `wake_timeout_s` a client is held: the endpoint's own error, which knows more, goes first."""

ENGINE_ATTEMPTS = 3
RETRY_PAUSE_S = 0.05
"""Times to wake and attach where the engine ends in between, and the pause after the first; later ones are longer."""

CANCEL_TIMEOUT_S = 5.0
"""How long a running engine may take over a cancel request."""

INTRODUCTION_TIMEOUT_S = 10.0
"""How long a running engine may take to let in a client that the gateway introduces."""

FAREWELL_TIMEOUT_S = 2.0
"""How long a client may take to read its last message."""

log = logging.get("zorya.gateway")


async def serve(arrival: Arrival, destination: Destination) -> None:
    """Serve a connection until it is handed over or has ended. Raises nothing but CancelledError.

    The caller closes the connection afterwards; an engine that got it has a descriptor of its own. On cancellation a
    held client is told that the administrator cut it off; a relayed one just loses its connection, since any word would
    land inside a message.
    """
    await guard(arrival, _serve(arrival, destination))


async def guard(arrival: Arrival, conversation: Coroutine[None, None, None]) -> None:
    """Await a conversation, and tell the client what went wrong in it. Raises nothing but CancelledError."""
    try:
        await conversation
    except errors.ZoryaError as error:
        log.debug("client refused", cluster=arrival.cluster, error=error.code, reason=error.message)
        await _say_farewell(arrival, refusals.explain(error))
    except (ConnectionError, ssl.SSLError) as error:
        log.debug("client lost", cluster=arrival.cluster, error=str(error))
    except Exception:
        log.exception("client connection failed", cluster=arrival.cluster)
        await _say_farewell(arrival, refusals.INTERNAL_ERROR)


async def _serve(arrival: Arrival, destination: Destination) -> None:
    heard = await startup.hear(arrival.client, arrival.remaining_s)
    match heard:
        case pgwire.Startup() | pgwire.SslRequest() | pgwire.DirectTls():
            await receive(arrival, destination, Start(heard=heard, taken=None))
        case _:
            await answer(arrival, destination.endpoint, heard)


async def answer(arrival: Arrival, endpoint: Endpoint | None, heard: pgwire.Event | None) -> None:
    """Do what a connection that is not to be a session asks for. Without an endpoint nothing can be cancelled."""
    match heard:
        case pgwire.CancelRequest():
            if endpoint is not None:
                await _forward_cancel(heard, endpoint)
            # libpq takes a reset for a failure.
            await _say_farewell(arrival, None)
        case pgwire.Refusal():
            await _say_farewell(arrival, heard)
        case _:
            log.debug("client left or was cut off before it asked for anything", cluster=arrival.cluster)


async def receive(arrival: Arrival, destination: Destination, start: Start) -> None:
    """Bring a client that wants a session to its engine, if it may come."""
    endpoint = destination.endpoint
    await endpoint.taken_over()
    refusal = _why_not(arrival, endpoint, start)
    if refusal is None:
        refusal = await _await_turn(arrival, endpoint)
    if refusal is not None:
        await refuse(arrival, endpoint, start, refusal)
    elif isinstance(start.heard, pgwire.Startup):
        await _receive_startup(arrival, destination, start.heard, start.taken)
    else:
        await _receive_tls(arrival, destination, start)


async def _receive_tls(arrival: Arrival, destination: Destination, start: Start) -> None:
    """Leave it to the engine to do the TLS, if it may and can, and else do it here."""
    endpoint = destination.endpoint
    asked_first = isinstance(start.heard, pgwire.SslRequest) and start.taken is None
    if asked_first and _wakes_nothing(endpoint) and not _is_awake(endpoint):
        # Those who only look what is here ask for TLS too, but do not go on with it.
        start = await grant_tls(arrival)
    if start.taken is not None or isinstance(start.heard, pgwire.DirectTls):
        hello = await startup.hear_hello(arrival.client, arrival.remaining_s)
        if hello is None:
            await answer(arrival, endpoint, None)
            return
        if isinstance(start.heard, pgwire.DirectTls) and pgwire.ALPN not in hello.alpn:
            # It wants another protocol, and is told so within TLS. The engine would say the same.
            await _receive_over_tls(arrival, destination, start)
            return
    # Nothing is awaited from here to where the client is counted in: what holds now still holds then.
    if not (_wakes_nothing(endpoint) and _understands(endpoint, start)):
        await _receive_over_tls(arrival, destination, start)
        return
    try:
        await _attach(arrival, destination, start.taken)
    except errors.ZoryaError as error:
        await refuse(arrival, endpoint, start, refusals.explain(error))


def _why_not(arrival: Arrival, endpoint: Endpoint, start: Start) -> pgwire.Refusal | None:
    """Why the client may not come, whoever it is; None if nothing speaks against it."""
    if not access.allows(endpoint.access.allow, arrival.address):
        return refusals.not_allowed(arrival.address, endpoint.name)
    if endpoint.access.require_tls and isinstance(start.heard, pgwire.Startup) and not arrival.is_encrypted:
        return refusals.tls_required(endpoint.name)
    most = endpoint.access.max_clients
    if arrival.house.is_full():
        return refusals.TOO_MANY_CLIENTS
    if most is not None and endpoint.sessions >= most:
        return refusals.too_many_of(endpoint.name, most)
    return None


async def _await_turn(arrival: Arrival, endpoint: Endpoint) -> pgwire.Refusal | None:
    wait_s = arrival.house.throttle.turn(endpoint.name, arrival.address, asyncio.get_running_loop().time())
    if wait_s is None:
        return refusals.TOO_MANY_FAILURES
    await _wait(arrival, wait_s)
    return None


async def _wait(arrival: Arrival, wait_s: float) -> None:
    """Keep a client waiting that has done nothing for it: that takes nothing off its own time."""
    if wait_s:
        arrival.until_s += wait_s
        await asyncio.sleep(wait_s)


def _wakes_nothing(endpoint: Endpoint) -> bool:
    """Whether the engine may be left to find out who a client is, since it is up, or that cannot be known without it.

    Asked again whenever a client has said something: the cluster may have gone to sleep meanwhile.
    """
    return _is_awake(endpoint) or endpoint.access.wake_on is WakeOn.ANY or endpoint.identities is None


def _is_awake(endpoint: Endpoint) -> bool:
    return endpoint.is_up or endpoint.is_starting


def _understands(endpoint: Endpoint, start: Start) -> bool:
    """Whether the engine can answer what the client has said first."""
    return endpoint.speaks_direct_tls if isinstance(start.heard, pgwire.DirectTls) else endpoint.speaks_tls


async def _receive_over_tls(arrival: Arrival, destination: Destination, start: Start) -> None:
    opening, behind = await talk_over_tls(arrival, start)
    if not isinstance(opening, pgwire.Startup):
        await answer(arrival, destination.endpoint, opening)
        return
    await _receive_startup(arrival, destination, opening, Said(data=opening.raw + behind))


async def talk_over_tls(arrival: Arrival, start: Start) -> tuple[pgwire.Opening | None, bytes]:
    """Do the TLS that the client asks for; answer what it wants within it, and what it has sent behind that.

    Raises ProtocolViolation and OSError.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(arrival.remaining_s):
            if isinstance(start.heard, pgwire.SslRequest) and start.taken is None:
                await grant_tls(arrival)
            identity = arrival.house.identity()
            arrival.client = client = await tls.accept(arrival.client, identity.context)
            arrival.end_point_hash = identity.end_point_hash
            if isinstance(start.heard, pgwire.DirectTls) and client.selected_alpn_protocol() != pgwire.ALPN:
                raise errors.ProtocolViolation(
                    "received direct SSL connection request without ALPN protocol negotiation extension"
                )
            framer = pgwire.StartupFramer(is_encrypted=True)
            while (opening := framer.next_event()) is None:
                data = await tls.receive(client, pgwire.MAX_PACKET_BYTES)
                if not data:
                    return None, b""
                framer.receive(data)
            assert isinstance(opening, pgwire.Opening)
            return opening, framer.buffered
    return None, b""


async def grant_tls(arrival: Arrival) -> Start:
    """Take the request for TLS and say yes. The hello that follows is still unread.

    What came with the request came unprotected, and must not pass for what is protected later (CVE-2021-23214).
    Raises ProtocolViolation for that, and OSError.
    """
    if startup.says_more(arrival.client, pgwire.ENCRYPTION_REQUEST_BYTES):
        raise errors.ProtocolViolation("received unencrypted data after SSL request")
    startup.take(arrival.client, pgwire.ENCRYPTION_REQUEST_BYTES)
    await asyncio.get_running_loop().sock_sendall(arrival.client, pgwire.ENCRYPTION_GRANTED)
    granted = Said(data=pgwire.SSL_REQUEST, answered=pgwire.ENCRYPTION_GRANTED)
    return Start(heard=pgwire.SslRequest(), taken=granted)


async def _receive_startup(
    arrival: Arrival, destination: Destination, wanted: pgwire.Startup, taken: Said | None
) -> None:
    """Attach a client that has sent its startup packet; see that it has the right to wake a cluster that is stopped."""
    endpoint = destination.endpoint
    identities = endpoint.identities
    if identities is None or _wakes_nothing(endpoint):
        await _attach(arrival, destination, taken)
        return
    if taken is None:
        startup.take(arrival.client, len(wanted.raw))
    behind = taken.data[len(wanted.raw) :] if taken is not None else b""
    proved = await _authenticate(arrival, endpoint, wanted, behind, identities)
    if isinstance(proved, pgwire.Refusal):
        await _say_farewell(arrival, proved)
    elif proved is not None:
        await _attach(arrival, destination, proved)


async def _authenticate(
    arrival: Arrival, endpoint: Endpoint, wanted: pgwire.Startup, behind: bytes, identities: Identities
) -> Proved | pgwire.Refusal | None:
    """Have the client prove who it is. None stands for one that left or took too long."""
    house = arrival.house
    answer_to_client, accepted = authentication.negotiate(wanted, endpoint.engine_major)
    conversation = Authentication(
        accepted,
        identities,
        address=arrival.address,
        now=house.now(),
        end_point_hash=arrival.end_point_hash,
    )
    user = conversation.user
    await _wait(arrival, house.throttle.delay_of_role(endpoint.name, user, asyncio.get_running_loop().time()))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(arrival.remaining_s):
            to_client = answer_to_client + conversation.begin()
            while True:
                if behind:
                    to_client += conversation.receive(behind)
                await tls.send_all(arrival.client, to_client)
                if conversation.outcome is not None:
                    break
                behind, to_client = await tls.receive(arrival.client, pgwire.MAX_PACKET_BYTES), b""
                if not behind:
                    return None
    outcome = conversation.outcome
    if isinstance(outcome, pgwire.Refusal):
        log.debug("login failed", cluster=endpoint.name, address=arrival.address, reason=outcome.message)
        if outcome.sqlstate is pgwire.Sqlstate.INVALID_PASSWORD:
            house.throttle.failed(endpoint.name, arrival.address, user, asyncio.get_running_loop().time())
            endpoint.login_failed(arrival.address, user)
        return outcome
    return Proved(startup=accepted.raw, user=user, proof=outcome) if outcome is not None else None


async def refuse(arrival: Arrival, endpoint: Endpoint | None, start: Start, refusal: pgwire.Refusal) -> None:
    """Turn a client away so that it can show why: libpq shows no error in place of the answer to a request for TLS.

    One that turns out to want something cancelled gets that.
    """
    log.debug("client refused", cluster=arrival.cluster, address=arrival.address, reason=refusal.message)
    if not isinstance(start.heard, pgwire.Startup):
        opening, _ = await talk_over_tls(arrival, start)
        if not isinstance(opening, pgwire.Startup):
            await answer(arrival, endpoint, opening)
            return
    await _say_farewell(arrival, refusal)


async def _forward_cancel(request: pgwire.CancelRequest, endpoint: Endpoint) -> None:
    """Pass the request to the engine if it is up, and return when the engine has dealt with it, or cannot.

    The engine closes the connection once the signal is sent; a client that waits for that must not be let go earlier.
    One that is just being looked at, whether it can freeze, is waited for: the statement may have begun meanwhile.
    """
    if not endpoint.is_up:
        return
    endpoint.enter()
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT_S):
            entrance = endpoint.running() or await endpoint.wake()
            with await _open_session(entrance.address) as engine:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(engine, request.raw)
                await loop.sock_recv(engine, 1)
    except (OSError, errors.ZoryaError) as error:
        log.debug("cancel request not delivered", cluster=endpoint.name, error=str(error))
    finally:
        endpoint.leave()


async def _attach(arrival: Arrival, destination: Destination, introduction: Introduction | None) -> None:
    """Count the client in, bring it to its engine, and return when Zorya has nothing more to do with it.

    Without an introduction the engine reads the client's start itself. Raises what `wake` raises, and EngineProblem.
    """
    arrival.has_said_enough()
    endpoint = destination.endpoint
    endpoint.enter()
    try:
        session = await _reach_engine(arrival, destination, introduction)
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
                await arrival.house.relay.carry(arrival.client, session)
        finally:
            endpoint.detached()


class _HandedOver:
    """In place of a relayed session's socket: the engine has the client's own."""


async def _reach_engine(
    arrival: Arrival, destination: Destination, introduction: Introduction | None
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
            is_encrypted=arrival.is_encrypted,
        )
        try:
            session = await _attach_by(choice.way, arrival, destination, entrance, introduction)
        except OSError as error:
            failed, failure = entrance, error.strerror or str(error)
        else:
            log.debug("attached", cluster=endpoint.name, way=choice.way, reason=choice.reason)
            return session
        log.debug("engine not reached", cluster=endpoint.name, way=choice.way, error=failure)
        await asyncio.sleep(RETRY_PAUSE_S * attempt)
    raise errors.EngineProblem(f"The engine of {endpoint.name} runs but takes no connections.")


async def _attach_by(
    way: attach.Way,
    arrival: Arrival,
    destination: Destination,
    entrance: Entrance,
    introduction: Introduction | None,
) -> socket.socket | _HandedOver:
    """Do it. Raises OSError when the engine does not take the client, which is then as it was, and EngineProblem."""
    match way:
        case attach.Way.HANDOFF:
            assert entrance.handoff.inlet is not None
            async with destination.handing_over:
                if introduction is None:
                    taken = await handoff.hand_over(arrival.client, arrival.peer, entrance.handoff.inlet)
                else:
                    taken = await _hand_over_introduced(arrival, entrance, introduction)
            if not taken:
                raise ConnectionAbortedError("the engine ended before it had the client")
            return _HandedOver()
        case attach.Way.RELAY:
            engine = await _open_session(entrance.address)
            try:
                arrival.house.note_relay(engine, arrival.address)
                if introduction is not None:
                    async with asyncio.timeout(INTRODUCTION_TIMEOUT_S):
                        await introduction.conduct(engine, arrival.client)
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
    leaving = asyncio.create_task(startup.has_left(arrival.client), name=f"client of {endpoint.name} leaves")
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


async def _open_session(address: Address) -> socket.socket:
    """Connect to the engine. Raises OSError."""
    engine = sockets.new_engine_socket(address)
    try:
        await asyncio.get_running_loop().sock_connect(engine, (address.host, address.port))
    except BaseException:
        engine.close()
        raise
    return engine


async def _say_farewell(arrival: Arrival, refusal: pgwire.Refusal | None) -> None:
    """Send the last message, if there is one, and wait a little for the client to close.

    Closing while unread bytes of the client wait would make the kernel send a reset, which can destroy the message
    before the client has read it.
    """
    client = arrival.client
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(FAREWELL_TIMEOUT_S):
            if refusal is not None:
                await tls.send_all(client, pgwire.error_response(refusal))
            await tls.close_notify(client)
            client.shutdown(socket.SHUT_WR)
            while await tls.receive(client, pgwire.MAX_PACKET_BYTES):
                pass


def _say_at_once(client: socket.socket, refusal: pgwire.Refusal) -> None:
    """Send what the kernel takes of the refusal, without waiting, and take the start: see `_say_farewell` for why."""
    with contextlib.suppress(OSError):
        client.send(pgwire.error_response(refusal))
        client.shutdown(socket.SHUT_WR)
        client.recv(pgwire.MAX_PACKET_BYTES)
