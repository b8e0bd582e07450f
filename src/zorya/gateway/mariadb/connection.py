"""The life of one client's connection to MariaDB: see whether it may, greet it if need be, wake the cluster, attach.

In this protocol the server speaks first. An engine that is up, or about to be, greets its clients itself, does its own
TLS and its own authentication: nothing at all is read of them. While the engine is stopped the gateway greets them in
its place, with what it knows of it, and nobody starts it who has not proved here who he is, but for accounts that only
the engine can verify (`wake_unverified`). It then logs in to the engine for him.
"""

import asyncio
import contextlib
import functools

from zorya.core import logging
from zorya.core.accounts import Accounts
from zorya.engines.mariadb import configuration
from zorya.gateway import boarding, refusals
from zorya.gateway.arrival import Arrival, Destination
from zorya.gateway.boarding import Passage
from zorya.gateway.directory import Endpoint
from zorya.gateway.mariadb import authentication, hosts
from zorya.gateway.mariadb import refusals as own_refusals
from zorya.gateway.mariadb.authentication import Authentication, CertificateNeeded, Outcome, Proved, Unproved
from zorya.gateway.mariadb.conversation import Conversation, Offer
from zorya.gateway.mariadb.engine_login import EngineLogin, Seal
from zorya.gateway.mariadb.introductions import Announced, LoggedIn, Turned
from zorya.gateway.mariadb.refusals import Refusal
from zorya.gateway.mariadb.wire import Capability, Response
from zorya.gateway.refusals import TurnedAway

_OURS = "Zorya has greeted this client: it woke the cluster, or came by the shared port."
_TLS_HINT = "Connect with --ssl, or with ssl-mode REQUIRED or a stricter one."
_CERTIFICATE_HINT = (
    "this account has to show its certificate to the database engine itself, which is running now: connect again, at"
    " the cluster's own port"
)

log = logging.get("zorya.gateway")


async def serve(arrival: Arrival, destination: Destination) -> None:
    """Serve a connection until it is handed over or has ended. Raises nothing but CancelledError.

    The caller closes the connection afterwards; an engine that got it has a descriptor of its own. On cancellation a
    held client is told that the administrator cut it off; a relayed one just loses its connection, since any word would
    land inside a packet.
    """
    talk = Conversation(arrival)
    await talk.guard(_serve(talk, destination))


async def _serve(talk: Conversation, destination: Destination) -> None:
    arrival, endpoint = talk.arrival, destination.endpoint
    await endpoint.taken_over()
    refusal = why_not(arrival, endpoint) or await boarding.await_turn(arrival, endpoint)
    if refusal is not None:
        await talk.refuse(own_refusals.of(refusal))
        return
    known = endpoint.identities if not boarding.wakes_nothing(endpoint) else None
    # Nothing is awaited from there to where the client is counted in: what held then still holds.
    if not isinstance(known, Accounts):
        await _attach_unread(talk, destination)
        return
    if not hosts.is_any_from(known.accounts, arrival.address):
        await talk.refuse(own_refusals.host_not_privileged(arrival.address))
        return
    offer = Offer(version=known.version, capabilities=known.capabilities, collation=known.collation)
    response, _ = await talk.greet(offer)
    if response is not None:
        await receive(talk, destination, response)


def why_not(arrival: Arrival, endpoint: Endpoint) -> TurnedAway | None:
    """Why the client may not come, whoever it is; None if nothing speaks against it.

    From the gateway's own address nobody may: the engine would believe it whatever it says of where it comes from.
    """
    if arrival.address == configuration.RELAY_ADDRESS:
        return refusals.not_allowed(arrival.address, endpoint.name)
    return boarding.why_not(arrival, endpoint)


async def receive(talk: Conversation, destination: Destination, response: Response) -> None:
    """Bring a client that the gateway has greeted to its engine, if it has the right to wake one that is stopped."""
    arrival, endpoint = talk.arrival, destination.endpoint
    if endpoint.access.require_tls and not arrival.is_encrypted:
        await talk.refuse(own_refusals.of(refusals.tls_required(endpoint.name, _TLS_HINT)))
        return
    await boarding.await_turn_of_role(arrival, endpoint, authentication.read_user(response))
    known = endpoint.identities if not boarding.wakes_nothing(endpoint) else None
    outcome: Outcome | None = Unproved()
    if isinstance(known, Accounts):
        outcome = await _authenticate(talk, endpoint, response, known)
    elif not response.has(Capability.PLUGIN_AUTH):
        # It cannot be asked for anything but what it has said, which is of no use to the engine.
        outcome = own_refusals.TOO_OLD
    match outcome:
        case Refusal():
            await talk.refuse(outcome)
        case CertificateNeeded():
            await boarding.board(arrival, destination, _passage(talk, Turned(message=_CERTIFICATE_HINT)))
        case Proved():
            await _attach(talk, destination, response, outcome)
        case Unproved():
            await _attach(talk, destination, response, None)
        case None:
            log.debug("client left before it had proved who it is", cluster=arrival.cluster)


async def _authenticate(talk: Conversation, endpoint: Endpoint, response: Response, known: Accounts) -> Outcome | None:
    """Have the client prove who it is. None stands for one that left or took too long."""
    arrival = talk.arrival
    login = Authentication(
        response,
        known,
        address=arrival.address,
        scramble=talk.scramble,
        is_tls=arrival.is_encrypted,
        wakes_unverified=arrival.house.settings.wake_unverified == "wake",
    )
    to_client = login.begin()
    if to_client:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(arrival.remaining_s):
                await talk.send(to_client)
                packet = await talk.read()
                if packet is not None:
                    login.receive(packet.body)
    if login.has_failed:
        log.debug("login failed", cluster=endpoint.name, address=arrival.address, user=login.user)
        boarding.note_failed_login(arrival, endpoint, login.user)
    return login.outcome


async def _attach_unread(talk: Conversation, destination: Destination) -> None:
    """Leave all of it to the engine, from its greeting on."""
    passage = Passage(
        handed=None,
        relayed=Announced(client=talk.address),
        cut_off=talk.cut_off,
        source=configuration.RELAY_ADDRESS,
    )
    await boarding.board(talk.arrival, destination, passage)


async def _attach(talk: Conversation, destination: Destination, response: Response, proof: Proved | None) -> None:
    """Log in for the client; without a proof have the engine ask it for one.

    A login that the engine turns down is not noted here: the engine does so itself (see `Endpoint.login_failed`).
    """
    arrival = talk.arrival
    seal = None
    if arrival.end_point_hash is not None:
        seal = Seal(scramble=talk.scramble, fingerprint=arrival.end_point_hash)
    introduction = LoggedIn(
        talk=talk,
        new_login=functools.partial(EngineLogin, response, proof, over_tls=arrival.is_encrypted, seal=seal),
    )
    await boarding.board(arrival, destination, _passage(talk, introduction))


def _passage(talk: Conversation, introduction: LoggedIn | Turned) -> Passage:
    return Passage(
        handed=introduction,
        relayed=introduction,
        cut_off=talk.cut_off,
        only_relay=_OURS,
        source=configuration.RELAY_ADDRESS,
    )
