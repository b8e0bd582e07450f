"""The life of one client's connection to PostgreSQL: hear its start, see whether it may, wake, attach, step by step.

An engine that is up, or about to be, does its own TLS and its own authentication: the client's start is only looked
at, and all of it is left for the engine to read. While the engine is stopped nobody starts it who has not proved here
who he is; the gateway then does the TLS, if there is to be any, and logs in to the engine for him.
"""

import asyncio
import contextlib
from collections.abc import Coroutine

from zorya.core import errors, logging
from zorya.core.identity import Identities
from zorya.gateway import boarding, peek, refusals, tls
from zorya.gateway.arrival import Arrival, Destination
from zorya.gateway.boarding import Passage
from zorya.gateway.directory import Endpoint
from zorya.gateway.introductions import Introduction
from zorya.gateway.postgres import authentication, pgwire, startup
from zorya.gateway.postgres import refusals as own_refusals
from zorya.gateway.postgres.authentication import Authentication
from zorya.gateway.postgres.introductions import Proved, Said
from zorya.gateway.postgres.startup import Start
from zorya.gateway.refusals import TurnedAway

CANCEL_TIMEOUT_S = 5.0
"""How long a running engine may take over a cancel request."""

_OURS = "Zorya does the TLS of this client: it woke the cluster, or named it late."
_TLS_HINT = "Connect with sslmode=require or a stricter one."
_CUT_OFF = pgwire.error_response(own_refusals.of(refusals.CUT_OFF))

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
    await boarding.guard(arrival, conversation, _tell)


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
        refusal = await boarding.await_turn(arrival, endpoint)
    if refusal is not None:
        await refuse(arrival, endpoint, start, own_refusals.of(refusal))
    elif isinstance(start.heard, pgwire.Startup):
        await _receive_startup(arrival, destination, start.heard, start.taken)
    else:
        await _receive_tls(arrival, destination, start)


async def _receive_tls(arrival: Arrival, destination: Destination, start: Start) -> None:
    """Leave it to the engine to do the TLS, if it may and can, and else do it here."""
    endpoint = destination.endpoint
    asked_first = isinstance(start.heard, pgwire.SslRequest) and start.taken is None
    if asked_first and boarding.wakes_nothing(endpoint) and not boarding.is_awake(endpoint):
        # Those who only look what is here ask for TLS too, but do not go on with it.
        start = await grant_tls(arrival)
    if start.taken is not None or isinstance(start.heard, pgwire.DirectTls):
        hello = await peek.hear_hello(arrival.client, arrival.remaining_s)
        if hello is None:
            await answer(arrival, endpoint, None)
            return
        if isinstance(start.heard, pgwire.DirectTls) and pgwire.ALPN not in hello.alpn:
            # It wants another protocol, and is told so within TLS. The engine would say the same.
            await _receive_over_tls(arrival, destination, start)
            return
    # Nothing is awaited from here to where the client is counted in: what holds now still holds then.
    if not (boarding.wakes_nothing(endpoint) and _understands(endpoint, start)):
        await _receive_over_tls(arrival, destination, start)
        return
    try:
        await _attach(arrival, destination, start.taken)
    except errors.ZoryaError as error:
        await refuse(arrival, endpoint, start, own_refusals.of(refusals.explain(error)))


def _why_not(arrival: Arrival, endpoint: Endpoint, start: Start) -> TurnedAway | None:
    """Why the client may not come, whoever it is; None if nothing speaks against it."""
    if endpoint.access.require_tls and isinstance(start.heard, pgwire.Startup) and not arrival.is_encrypted:
        # An address that may not come is told that first.
        return boarding.why_not(arrival, endpoint) or refusals.tls_required(endpoint.name, _TLS_HINT)
    return boarding.why_not(arrival, endpoint)


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
    if peek.says_more(arrival.client, pgwire.ENCRYPTION_REQUEST_BYTES):
        raise errors.ProtocolViolation("received unencrypted data after SSL request")
    peek.take(arrival.client, pgwire.ENCRYPTION_REQUEST_BYTES)
    await asyncio.get_running_loop().sock_sendall(arrival.client, pgwire.ENCRYPTION_GRANTED)
    granted = Said(data=pgwire.SSL_REQUEST, answered=pgwire.ENCRYPTION_GRANTED)
    return Start(heard=pgwire.SslRequest(), taken=granted)


async def _receive_startup(
    arrival: Arrival, destination: Destination, wanted: pgwire.Startup, taken: Said | None
) -> None:
    """Attach a client that has sent its startup packet; see that it has the right to wake a cluster that is stopped."""
    endpoint = destination.endpoint
    identities = endpoint.identities
    if not isinstance(identities, Identities) or boarding.wakes_nothing(endpoint):
        await _attach(arrival, destination, taken)
        return
    if taken is None:
        peek.take(arrival.client, len(wanted.raw))
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
    answer_to_client, accepted = authentication.negotiate(wanted, int(endpoint.engine_major))
    conversation = Authentication(
        accepted,
        identities,
        address=arrival.address,
        now=house.now(),
        end_point_hash=arrival.end_point_hash,
    )
    user = conversation.user
    await boarding.await_turn_of_role(arrival, endpoint, user)
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
            boarding.note_failed_login(arrival, endpoint, user)
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
            with await boarding.open_session(entrance.address) as engine:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(engine, request.raw)
                await loop.sock_recv(engine, 1)
    except (OSError, errors.ZoryaError) as error:
        log.debug("cancel request not delivered", cluster=endpoint.name, error=str(error))
    finally:
        endpoint.leave()


async def _attach(arrival: Arrival, destination: Destination, introduction: Introduction | None) -> None:
    """Bring the client to its engine; see boarding.board. Without an introduction the engine reads its start itself."""
    passage = Passage(
        handed=introduction, relayed=introduction, cut_off=_CUT_OFF, only_relay=_OURS if arrival.is_encrypted else ""
    )
    await boarding.board(arrival, destination, passage)


async def _tell(arrival: Arrival, told: TurnedAway) -> None:
    await _say_farewell(arrival, own_refusals.of(told))


async def _say_farewell(arrival: Arrival, refusal: pgwire.Refusal | None) -> None:
    """Send the last message, if there is one; see boarding.say_farewell."""
    await boarding.say_farewell(arrival.client, pgwire.error_response(refusal) if refusal is not None else b"")
