"""What the gateway and a client of MariaDB say to each other: packets, in order, over TLS once that is agreed on.

Nothing is read of a client beyond the packet that is due, so that whatever follows it is still there for TLS, or for
the engine.
"""

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass

from zorya.core import errors, logging
from zorya.core.model import Address
from zorya.gateway import boarding, client_hello, peek, tls
from zorya.gateway.arrival import Arrival
from zorya.gateway.mariadb import authentication, charsets, refusals, wire
from zorya.gateway.mariadb.refusals import Refusal
from zorya.gateway.mariadb.wire import Ancient, Capability, Greeting, Packet, PacketFramer, Response
from zorya.gateway.refusals import CUT_OFF, TurnedAway

_FIRST_ID, _LAST_ID = 0xF0000000, 0xFFFFFFFF
"""The ids under which clients are greeted that an engine does not greet itself. Its own begin at 1 with each start: an
id of these is no session's, so that a client that wants to KILL by it ends nobody else's statement."""

_ids = itertools.cycle(range(_FIRST_ID, _LAST_ID + 1))

log = logging.get("zorya.gateway")


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What the gateway says that it is."""

    version: str
    capabilities: int
    """Without those of TLS, which the gateway has in any case."""
    collation: int


class Conversation:
    """One client's, until the engine goes on with it."""

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.scramble = authentication.make_scramble()
        """The one that the client is greeted with."""
        self._number = 0
        self._charset = charsets.of_collation(0)
        self._has_sqlstate = True

    async def guard(self, course: Coroutine[None, None, None]) -> None:
        """Await a conversation, and tell the client what went wrong in it. Raises nothing but CancelledError."""
        await boarding.guard(self.arrival, course, self._tell)

    async def greet(self, offer: Offer) -> tuple[Response | None, client_hello.ClientHello | None]:
        """Greet the client and hear who it is, after TLS if it asks for that. The second is its TLS hello.

        No response stands for one that left, took too long, or was refused. Raises ProtocolViolation and OSError.
        """
        offered = offer.capabilities | Capability.SSL
        greeting = Greeting(
            version=offer.version,
            connection_id=next(_ids),
            scramble=self.scramble,
            capabilities=offered,
            collation=offer.collation,
            plugin=wire.NATIVE,
        )
        hello = None
        try:
            async with asyncio.timeout(self.arrival.remaining_s):
                await self.send(greeting.to_body())
                heard = await self._hear(offered)
                if isinstance(heard, wire.TlsWanted):
                    hello = await self._begin_tls()
                    heard = await self._hear(offered & ~Capability.SSL) if hello is not None else None
        except TimeoutError:
            return None, None
        if isinstance(heard, Ancient):
            self._has_sqlstate = False
            await self.refuse(refusals.TOO_OLD)
            return None, hello
        assert not isinstance(heard, wire.TlsWanted)
        if heard is not None and heard.charset.is_for_clients:
            self._charset = heard.charset
        return heard, hello

    async def _hear(self, offered: int) -> wire.TlsWanted | Ancient | Response | None:
        packet = await self.read()
        return wire.parse_start(packet.body, offered) if packet is not None else None

    async def _begin_tls(self) -> client_hello.ClientHello | None:
        """Do the TLS that the client asks for; what it sent unprotected behind its request is no hello, and fails."""
        arrival = self.arrival
        hello = await peek.hear_hello(arrival.client, arrival.remaining_s)
        if hello is None:
            return None
        identity = arrival.house.identity()
        arrival.client = await tls.accept(arrival.client, identity.context)
        arrival.end_point_hash = identity.end_point_hash
        return hello

    async def read(self) -> Packet | None:
        """Answer the client's next packet; None when it has left. Raises ProtocolViolation and OSError."""
        framer = PacketFramer()
        while True:
            data = await tls.receive(self.arrival.client, framer.wants)
            if not data:
                return None
            packet = framer.receive(data)
            if packet is None:
                continue
            if packet.number != self._number:
                raise errors.ProtocolViolation(refusals.OUT_OF_ORDER.message)
            self._count()
            return packet

    async def send(self, body: bytes) -> None:
        """Send the next packet. Raises OSError."""
        packet = wire.packet(self._number, body)
        self._count()
        await tls.send_all(self.arrival.client, packet)

    async def refuse(self, refusal: Refusal) -> None:
        """Send the last packet, and let the client read it."""
        log.debug("client refused", cluster=self.arrival.cluster, address=self.arrival.address, reason=refusal.message)
        await boarding.say_farewell(self.arrival.client, self._error(refusal))

    @property
    def cut_off(self) -> bytes:
        """What the client is to be sent next if it is cut off."""
        return self._error(refusals.of(CUT_OFF))

    @property
    def address(self) -> Address:
        """Where the client is."""
        return Address(host=self.arrival.peer[0], port=self.arrival.peer[1])

    async def _tell(self, _arrival: Arrival, told: TurnedAway) -> None:
        await self.refuse(refusals.of(told))

    def _error(self, refusal: Refusal) -> bytes:
        return wire.packet(self._number, wire.error_body(refusal, self._charset, has_sqlstate=self._has_sqlstate))

    def _count(self) -> None:
        self._number = (self._number + 1) & wire.MAX_PACKET_NUMBER
