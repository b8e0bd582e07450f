"""One client's connection, and what all of them share."""

import asyncio
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from zorya.core.settings import Settings
from zorya.gateway import handoff, relay, tls
from zorya.gateway.directory import Endpoint
from zorya.gateway.handshakes import Handshakes
from zorya.gateway.throttle import Throttle

REMEMBERED_RELAYS = 4096
"""Relayed connections of which it is known, also when they have ended, whose they were."""


class ServerIdentity(Protocol):
    """The certificate that the gateway shows now; `trust` has it."""

    @property
    def context(self) -> ssl.SSLContext:
        """For new connections."""

    @property
    def end_point_hash(self) -> bytes:
        """What `tls-server-end-point` binds a login to (RFC 5929)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class House:
    """What all connections of a gateway share."""

    settings: Settings
    relay: relay.Relay
    handshakes: Handshakes
    throttle: Throttle
    identity: Callable[[], ServerIdentity]
    now: Callable[[], datetime]
    is_full: Callable[[], bool]
    """Whether there are as many clients as there may be, all clusters together."""
    relayed: OrderedDict[int, str] = field(default_factory=OrderedDict)
    """For each port of 127.0.0.1 that the gateway had an engine reached from, the client's address."""

    def note_relay(self, engine: socket.socket, address: str) -> None:
        """Remember whose connection to an engine this is: the engine knows only where it comes from."""
        self.relayed[engine.getsockname()[1]] = address
        while len(self.relayed) > REMEMBERED_RELAYS:
            self.relayed.popitem(last=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """A cluster that clients can be brought to."""

    endpoint: Endpoint
    handing_over: asyncio.Semaphore
    """Held while a client is on its way to the engine."""


class Directory(Protocol):
    """All clusters of one kind of engine that can be reached."""

    def named(self, cluster: str) -> Destination | None:
        """Answer the cluster of this name."""

    def owning(self, pid: int) -> Destination | None:
        """Answer the cluster that runs this process."""


@dataclass(kw_only=True, slots=True, eq=False)
class Arrival:
    """One accepted connection and what it came to."""

    client: socket.socket
    """Connected and non-blocking; a TlsSocket in its place once the gateway does its TLS. The maker of the Arrival
    closes it."""
    peer: handoff.Peer
    house: House
    cluster: str
    """The name of the cluster that it is for; of the shared port, until the client has said which."""
    until_s: float
    """When the client must have said who it is, in the event loop's time."""
    task: asyncio.Task[None] | None = None
    end_point_hash: bytes | None = None
    """Of the certificate that the gateway has shown it; another may have taken its place meanwhile."""

    @property
    def address(self) -> str:
        """Where the client is."""
        return self.peer[0]

    @property
    def is_encrypted(self) -> bool:
        """Whether the gateway does its TLS."""
        return isinstance(self.client, tls.TlsSocket)

    @property
    def remaining_s(self) -> float:
        """How much time the client has left to say who it is."""
        return self.until_s - asyncio.get_running_loop().time()

    def has_said_enough(self) -> None:
        """It is one of those no more that dawdle. May be repeated."""
        self.house.handshakes.end(self.task)
