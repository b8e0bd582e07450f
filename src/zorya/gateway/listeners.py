"""Listening for clients: one port a cluster, one task a connection."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zorya.core import logging
from zorya.core.settings import Settings
from zorya.gateway import connection, handoff, pgwire, refusals, relay, sockets
from zorya.gateway.directory import Endpoint

ACCEPTS_PER_TURN = 64
"""Connections accepted from one socket before everything else gets its turn."""

TURNED_AWAY_AT_ONCE = 64
"""Clients beyond `max_clients` that are read before they are refused; those beyond that get the error unread."""

HANDED_OVER_AT_ONCE = 8
"""Clients of one port that are on their way to the engine at once. Each takes three descriptors more, and the engine's
queue holds ten: more of them would all be woken whenever one place in it becomes free."""

ACCEPT_PAUSE_S = 0.25
"""How long a port accepts nothing after accepting failed: the process or the host ran out of descriptors or memory."""

WARNING_INTERVAL_S = 60.0
"""The least time between two warnings that say so."""

_TOO_MANY = pgwire.error_response(refusals.TOO_MANY_CLIENTS)

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
    """A cluster's open port."""

    port: int
    endpoint: Endpoint
    listeners: list[socket.socket]
    handing_over: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(HANDED_OVER_AT_ONCE))
    resumptions: dict[socket.socket, asyncio.TimerHandle] = field(default_factory=dict)
    """For each listening socket that pauses, what ends the pause."""


class Gateway:
    """The ports of all clusters and the connections that came in through them.

    Used from the event loop's thread alone. A connection that was handed over is none of its concern any more.
    """

    def __init__(self, settings: Settings, *, keep: Keep, kept: Mapping[int, Sequence[socket.socket]]) -> None:
        """`kept` are the listening sockets that `keep` held for an earlier server, by port."""
        self._settings = settings
        self._keep = keep
        self._kept = dict(kept)
        self._doors: dict[int, _Door] = {}
        self._group: asyncio.TaskGroup | None = None
        self._relay: relay.Relay | None = None
        self._tasks: dict[int, set[asyncio.Task[None]]] = {}
        self._served = 0
        self._turned_away = 0
        self._exhaustion = Thinner(WARNING_INTERVAL_S)

    def open(self, port: int, endpoint: Endpoint) -> None:
        """Listen on `port` of every address of `settings.bind` for clients of `endpoint`.

        May be called before `run`: clients then wait in the kernel. Raises PortInUse, InvalidSetting and HostProblem,
        and then nothing is open.
        """
        listeners = self._claim(port) or sockets.open_listeners(self._settings.bind, port)
        door = _Door(port=port, endpoint=endpoint, listeners=listeners)
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
        for listener in door.listeners:
            if self._group is not None:
                asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    async def end_sessions(self, port: int) -> None:
        """Cut off every client that came in through `port`, held or attached; return when all are counted out.

        Close the port first if no more are to come. May be repeated.
        """
        tasks = list(self._tasks.get(port, ()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self) -> None:
        """Serve what comes in through the open ports until cancelled; then end the connections that it still has.

        Ports that are open then are left to `keep`.
        """
        with contextlib.closing(relay.Relay()) as self._relay:
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
                clients=self._served,
                skipped=skipped,
            )

    def _accept(self, door: _Door, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, peer = listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(door, listener, error)
                return
            self._admit(door, client, peer)

    def _admit(self, door: _Door, client: socket.socket, peer: handoff.Peer) -> None:
        client.settimeout(0)
        if self._served < self._settings.max_clients:
            self._served += 1
            self._start(door, client, peer, turned_away=False)
        elif self._turned_away < TURNED_AWAY_AT_ONCE:
            self._turned_away += 1
            self._start(door, client, peer, turned_away=True)
        else:
            with client, contextlib.suppress(OSError):
                client.send(_TOO_MANY)

    def _start(self, door: _Door, client: socket.socket, peer: handoff.Peer, *, turned_away: bool) -> None:
        assert self._group is not None
        assert self._relay is not None
        arrival = connection.Arrival(
            client=client,
            peer=peer,
            endpoint=door.endpoint,
            settings=self._settings,
            relay=self._relay,
            handing_over=door.handing_over,
        )
        conversation = connection.turn_away(arrival) if turned_away else connection.serve(arrival)
        task = self._group.create_task(conversation, name=f"client of {door.endpoint.name}")
        self._tasks.setdefault(door.port, set()).add(task)
        task.add_done_callback(functools.partial(self._forget, door.port, client, turned_away=turned_away))

    def _forget(self, port: int, client: socket.socket, task: asyncio.Task[None], *, turned_away: bool) -> None:
        """Close a connection whose task is over, even if it was cancelled before its first step."""
        client.close()
        tasks = self._tasks[port]
        tasks.discard(task)
        if not tasks:
            del self._tasks[port]
        if turned_away:
            self._turned_away -= 1
        else:
            self._served -= 1
