"""Listening for clients: one port a cluster, one that all share if that is wanted, one task a connection."""

import asyncio
import contextlib
import functools
import socket
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from zorya.core import logging
from zorya.core.model import EngineKind
from zorya.core.settings import Settings
from zorya.gateway import handoff, relay, sockets
from zorya.gateway.arrival import Arrival, Destination, Directory, House, ServerIdentity
from zorya.gateway.directory import Endpoint
from zorya.gateway.handshakes import Handshakes
from zorya.gateway.mariadb import connection as mariadb_connection
from zorya.gateway.mariadb import shared as mariadb_shared
from zorya.gateway.postgres import connection as postgres_connection
from zorya.gateway.postgres import shared as postgres_shared
from zorya.gateway.throttle import Throttle

ACCEPTS_PER_TURN = 64
"""Connections accepted from one socket before everything else gets its turn."""

HANDED_OVER_AT_ONCE = 8
"""Clients of one port that are on their way to the engine at once. Each takes three descriptors more, and the engine's
queue holds ten: more of them would all be woken whenever one place in it becomes free."""

ACCEPT_PAUSE_S = 0.25
"""How long a port accepts nothing after accepting failed: the process or the host ran out of descriptors or memory."""

WARNING_INTERVAL_S = 60.0
"""The least time between two warnings that say so."""

COUNT_EVERY_S = 0.25
"""How often the clients of all clusters are counted at most; those that come in between are added."""

Serve = Callable[[Arrival, Destination], Coroutine[None, None, None]]
ServeShared = Callable[[Arrival, Directory], Coroutine[None, None, None]]

SERVE: Mapping[EngineKind, Serve] = {
    EngineKind.POSTGRES: postgres_connection.serve,
    EngineKind.MARIADB: mariadb_connection.serve,
}
"""What serves a connection at a cluster's own port, by what its clients speak."""

SERVE_SHARED: Mapping[EngineKind, ServeShared] = {
    EngineKind.POSTGRES: postgres_shared.serve,
    EngineKind.MARIADB: mariadb_shared.serve,
}
"""The same at a port that the clusters of one kind share."""

log = logging.get("zorya.gateway")


class Thinner:
    """Lets one event through in each interval and counts the others. Pure: `now_s` is passed in."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_s = float("-inf")
        self._skipped = 0

    def admit(self, now_s: float) -> int | None:
        """Answer how many were skipped since the last that was let through, or None to skip this one."""
        if now_s < self._next_s:
            self._skipped += 1
            return None
        skipped, self._skipped = self._skipped, 0
        self._next_s = now_s + self._interval_s
        return skipped


class Keep(Protocol):
    """What holds listening sockets as well, so that clients can wait in them while no server runs. Never blocks."""

    def keep(self, port: int, listeners: Sequence[socket.socket]) -> None:
        """Hold these, in place of others of the port."""

    def let_go(self, port: int) -> None:
        """Hold the port's no longer."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Door:
    """An open port."""

    port: int
    kind: EngineKind
    """What is spoken here."""
    destination: Destination | None
    """None for a shared port."""
    listeners: list[socket.socket]
    resumptions: dict[socket.socket, asyncio.TimerHandle] = field(default_factory=dict)
    """For each listening socket that pauses, what ends the pause."""


class Gateway:
    """The ports of all clusters and the connections that came in through them.

    Used from the event loop's thread alone. A connection that was handed over is none of its concern any more.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        keep: Keep,
        kept: Mapping[int, Sequence[socket.socket]],
        identity: Callable[[], ServerIdentity],
        now: Callable[[], datetime],
    ) -> None:
        """`kept` are the listening sockets that `keep` held for an earlier server, by port; `now` is the wall clock."""
        self._settings = settings
        self._keep = keep
        self._kept = dict(kept)
        self._identity = identity
        self._now = now
        self._doors: dict[int, _Door] = {}
        self._names: dict[int, str] = {}
        self._group: asyncio.TaskGroup | None = None
        self._house: House | None = None
        self._arrivals: set[Arrival] = set()
        self._throttle = Throttle(max_delay_s=settings.login_delay_max_s)
        self._relayed: OrderedDict[int, str] = OrderedDict()
        self._counted = 0
        self._counted_s = float("-inf")
        self._held_back: dict[socket.socket, _Door] = {}
        self._exhaustion = Thinner(WARNING_INTERVAL_S)

    def open(self, port: int, endpoint: Endpoint) -> None:
        """Listen on `port` of every address of `settings.bind` for clients of `endpoint`.

        May be called before `run`: clients then wait in the kernel. Raises PortInUse, InvalidSetting and HostProblem,
        and then nothing is open.
        """
        destination = Destination(endpoint=endpoint, handing_over=asyncio.Semaphore(HANDED_OVER_AT_ONCE))
        self._open(port, endpoint.engine, destination)
        self._names[port] = endpoint.name

    def open_shared(self, port: int, kind: EngineKind) -> None:
        """Listen for clients that say which cluster of this kind they want. As `open`."""
        self._open(port, kind, None)

    def _open(self, port: int, kind: EngineKind, destination: Destination | None) -> None:
        listeners = self._claim(port) or sockets.open_listeners(self._settings.bind, port)
        door = _Door(port=port, kind=kind, destination=destination, listeners=listeners)
        self._doors[port] = door
        self._keep.keep(port, listeners)
        if self._group is not None:
            self._watch(door)

    def _claim(self, port: int) -> list[socket.socket]:
        """Answer the kept listeners of the port, if they are at the addresses that are wanted now."""
        listeners = list(self._kept.pop(port, ()))
        if {listener.getsockname()[0] for listener in listeners} == set(self._settings.bind):
            return listeners
        self._drop(port, listeners)
        return []

    def _drop(self, port: int, listeners: Sequence[socket.socket]) -> None:
        for listener in listeners:
            with listener, contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        self._keep.let_go(port)

    def let_unclaimed_go(self) -> None:
        """Close what was kept for ports that no cluster has any more. Once, after all were opened."""
        for port in list(self._kept):
            self._drop(port, self._kept.pop(port))

    def close(self, port: int) -> None:
        """Stop listening on `port`; its sessions go on. May be repeated."""
        door = self._doors.pop(port, None)
        if door is None:
            return
        for listener in door.listeners:
            # Whoever else has a copy of it listens no more either.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        self._let_go(door)
        self._keep.let_go(port)

    def _let_go(self, door: _Door) -> None:
        """Accept no more; what keeps the listening sockets goes on with them."""
        for resumption in door.resumptions.values():
            resumption.cancel()
        door.resumptions.clear()
        for listener in door.listeners:
            self._held_back.pop(listener, None)
            if self._group is not None:
                asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    async def end_sessions(self, port: int) -> None:
        """Cut off every client of the cluster that has `port`, held or attached; return when all are counted out.

        Close the port first if no more are to come. May be repeated.
        """
        name = self._names.get(port)
        tasks = [one.task for one in self._arrivals if one.cluster == name and one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def login_failed(self, cluster: str, address: str, port: int, role: str) -> str:
        """Count a login that an engine has turned down. Answer where it came from, also if we have relayed it."""
        known = self._relayed.get(port, address) if address == "127.0.0.1" else address
        self._throttle.failed(cluster, known, role, asyncio.get_running_loop().time())
        return known

    async def run(self) -> None:
        """Serve what comes in through the open ports until cancelled; then end the connections that it still has.

        Ports that are open then are left to `keep`.
        """
        with contextlib.closing(relay.Relay()) as carrier:
            self._house = House(
                settings=self._settings,
                relay=carrier,
                handshakes=Handshakes(self._settings.max_handshakes, has_room=self._let_in_those_held_back),
                throttle=self._throttle,
                identity=self._identity,
                now=self._now,
                is_full=self._is_full,
                relayed=self._relayed,
            )
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    for door in self._doors.values():
                        self._watch(door)
                    await asyncio.get_running_loop().create_future()
                finally:
                    for door in self._doors.values():
                        self._let_go(door)
                    self._doors.clear()
                    self._group = None

    def _watch(self, door: _Door) -> None:
        for listener in door.listeners:
            self._resume(door, listener)

    def _resume(self, door: _Door, listener: socket.socket) -> None:
        door.resumptions.pop(listener, None)
        asyncio.get_running_loop().add_reader(listener, self._accept, door, listener)

    def _hold_back(self, door: _Door, listener: socket.socket, wait_s: float) -> None:
        """Leave those who come in the kernel's queue, until there is room for one more or `wait_s` have passed."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        door.resumptions[listener] = loop.call_later(wait_s, self._resume, door, listener)
        self._held_back[listener] = door

    def _let_in_those_held_back(self) -> None:
        held_back, self._held_back = self._held_back, {}
        for listener, door in held_back.items():
            resumption = door.resumptions.get(listener)
            if resumption is not None:
                resumption.cancel()
                self._resume(door, listener)

    def _pause(self, door: _Door, listener: socket.socket, cause: OSError) -> None:
        """Leave the listener alone for a moment: it stays readable, and accepting would fail over and over."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        door.resumptions[listener] = loop.call_later(ACCEPT_PAUSE_S, self._resume, door, listener)
        skipped = self._exhaustion.admit(loop.time())
        if skipped is not None:
            log.warning(
                "clients have to wait: no connection can be accepted",
                port=door.port,
                error=cause.strerror,
                clients=len(self._arrivals),
                skipped=skipped,
            )

    def _accept(self, door: _Door, listener: socket.socket) -> None:
        assert self._house is not None
        for _ in range(ACCEPTS_PER_TURN):
            wait_s = self._house.handshakes.room_in_s(asyncio.get_running_loop().time())
            if wait_s:
                self._hold_back(door, listener, wait_s)
                return
            try:
                client, peer = listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(door, listener, error)
                return
            client.settimeout(0)
            self._begin(door, client, peer)

    def _begin(self, door: _Door, client: socket.socket, peer: handoff.Peer) -> None:
        assert self._group is not None
        assert self._house is not None
        arrival = Arrival(
            client=client,
            peer=peer,
            house=self._house,
            cluster=door.destination.endpoint.name if door.destination else "",
            until_s=asyncio.get_running_loop().time() + self._settings.startup_timeout_s,
        )
        if door.destination is not None:
            conversation = SERVE[door.kind](arrival, door.destination)
        else:
            conversation = SERVE_SHARED[door.kind](arrival, _OfKind(self, door.kind))
        arrival.task = task = self._group.create_task(conversation, name=f"client of port {door.port}")
        self._house.handshakes.begin(task, asyncio.get_running_loop().time())
        self._arrivals.add(arrival)
        task.add_done_callback(functools.partial(self._forget, arrival))

    def _forget(self, arrival: Arrival, task: asyncio.Task[None]) -> None:
        """Close a connection whose task is over, even if it was cancelled before its first step."""
        arrival.client.close()
        arrival.house.handshakes.end(task)
        self._arrivals.discard(arrival)

    def _is_full(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._counted_s > COUNT_EVERY_S:
            self._counted = sum(one.endpoint.sessions for one in self.destinations())
            self._counted_s = now_s
        if self._counted >= self._settings.max_clients:
            return True
        self._counted += 1
        return False

    def destinations(self) -> Iterator[Destination]:
        """Answer the clusters that can be reached."""
        return (door.destination for door in self._doors.values() if door.destination is not None)


class _OfKind:
    """The clusters of one kind. Implements `arrival.Directory`."""

    def __init__(self, gateway: Gateway, kind: EngineKind) -> None:
        self._gateway = gateway
        self._kind = kind

    def named(self, cluster: str) -> Destination | None:
        return next((one for one in self._destinations() if one.endpoint.name == cluster), None)

    def owning(self, pid: int) -> Destination | None:
        return next((one for one in self._destinations() if one.endpoint.has_process(pid)), None)

    def _destinations(self) -> Iterator[Destination]:
        return (one for one in self._gateway.destinations() if one.endpoint.engine is self._kind)
