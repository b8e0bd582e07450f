"""The relay: carries bytes between clients and their engines, both ways, until both are done.

All sessions share one epoll set, which the event loop watches as a single descriptor. The loop's own readers would not
do: uvloop calls one a last time when a connection is lost and then forgets it, so that an engine's last words would
hide from a session that its engine is gone. A chunk is kept only while its receiver cannot take it.
"""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Iterator

CHUNK_BYTES = 64 * 1024
"""The most that is read at once, and the most that waits in one direction."""

SMALL_CHUNK_BYTES = 8 * 1024
"""What is read at once as long as messages are small: `read` allocates as much as it may get."""

TURNS = 16
"""How often the epoll set is asked again, while it has more, before everything else in the loop gets its turn."""

LINGER_S = 60.0
"""How long a client may go on after its engine has ended the session.

PostgreSQL never half-closes: what the client sends after that is lost, and one that never noticed would count as a
session for as long as its program runs.
"""


class Relay:
    """Carries all sessions of one event loop, in whose thread alone it is used."""

    def __init__(self) -> None:
        """Begin to watch; there must be a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._sides: dict[int, _Side] = {}
        self._loop.add_reader(self._epoll, self._carry_what_is_ready)

    def close(self) -> None:
        """Stop watching. No session may be under way."""
        self._loop.remove_reader(self._epoll)
        self._epoll.close()

    async def carry(self, client: socket.socket, engine: socket.socket) -> None:
        """Carry bytes between two connected, non-blocking sockets until both directions have ended.

        The end of one direction is passed on as the end of that direction alone, so a half-closed connection goes on
        the other way. A lost connection ends both directions, after what it had sent is delivered. A side that does
        not read stops the reading of the other. Raises nothing for what happens to either connection. Closes neither:
        the caller does, also on cancellation, and with that a side still open learns that the other is gone.
        """
        with self._pair(client, engine) as (from_client, from_engine):
            await from_engine.ended
            await asyncio.wait([from_client.ended], timeout=LINGER_S)

    @contextlib.contextmanager
    def _pair(self, client: socket.socket, engine: socket.socket) -> Iterator[tuple["_Side", "_Side"]]:
        left, right = _Side(client, self._epoll), _Side(engine, self._epoll)
        left.peer, right.peer = right, left
        self._sides |= {left.fd: left, right.fd: right}
        try:
            left.want(select.EPOLLIN)
            right.want(select.EPOLLIN)
            yield left, right
        finally:
            for side in (left, right):
                side.end()
                side.want(0)
                del self._sides[side.fd]

    def _carry_what_is_ready(self) -> None:
        sides = self._sides
        for _ in range(TURNS):
            ready = self._epoll.poll(0)
            if not ready:
                return
            for fd, events in ready:
                side = sides[fd]
                if events & select.EPOLLOUT:
                    side.flush()
                # A lost connection is reported whatever was asked for. Reading tells what has become of it, but not
                # while the peer is full: then the next write does.
                if events & ~select.EPOLLOUT and side.interest & select.EPOLLIN:
                    side.read()


class _Side:
    """One socket of a session: the source of one direction, and the sink of the other."""

    peer: "_Side"

    def __init__(self, sock: socket.socket, epoll: select.epoll) -> None:
        self.fd = sock.fileno()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when no more is read here."""
        self._socket = sock
        self._epoll = epoll
        self.interest = 0
        """The events that this socket is watched for."""
        self._chunk = SMALL_CHUNK_BYTES
        self._waiting = memoryview(b"")
        """What came from the peer and could not be written here yet; the peer is not read meanwhile."""

    def want(self, interest: int) -> None:
        """Watch this socket for these events and no others.

        A socket that nothing is wanted of leaves the set, which would else report a lost connection over and over.
        """
        if interest and self.interest:
            self._epoll.modify(self.fd, interest)
        elif interest:
            self._epoll.register(self.fd, interest)
        elif self.interest:
            self._epoll.unregister(self.fd)
        self.interest = interest

    def end(self) -> None:
        """Read no more here. May be repeated."""
        self.want(self.interest & ~select.EPOLLIN)
        if not self.ended.done():
            self.ended.set_result(None)

    def read(self) -> None:
        """Carry a chunk from here to the peer."""
        # Runs for each message of each session: the usual case, all received and all sent, stays in one function.
        try:
            data = os.read(self.fd, self._chunk)
        except BlockingIOError:
            return
        except OSError:
            self._be_lost()
            return
        if not data:
            self._pass_on_end()
            return
        self._chunk = CHUNK_BYTES if len(data) == self._chunk else SMALL_CHUNK_BYTES
        try:
            sent = os.write(self.peer.fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.end()  # this direction alone: what the peer sent before it was lost may yet be read
            return
        if sent < len(data):
            self.want(self.interest & ~select.EPOLLIN)
            self.peer.keep(memoryview(data)[sent:])

    def keep(self, data: memoryview) -> None:
        """Hold what this socket cannot take yet, and write it as soon as it can."""
        self._waiting = data
        self.want(self.interest | select.EPOLLOUT)

    def flush(self) -> None:
        """Write what waits; when it is all written, the peer is read again."""
        try:
            self._waiting = self._waiting[os.write(self.fd, self._waiting) :]
        except BlockingIOError:
            return
        except OSError:
            self._waiting = memoryview(b"")
            self.peer.end()  # that direction alone: what this side sent before it was lost may yet be read
        if not self._waiting:
            self.want(self.interest & ~select.EPOLLOUT)
            if not self.peer.ended.done():
                self.peer.want(self.peer.interest | select.EPOLLIN)

    def _pass_on_end(self) -> None:
        with contextlib.suppress(OSError):  # a lost peer; its own direction reads what it left, then ends as well
            self.peer._socket.shutdown(socket.SHUT_WR)
        self.end()

    def _be_lost(self) -> None:
        # Nothing waits at the peer while this side is read, and what waits here has nowhere to go.
        self._waiting = memoryview(b"")
        self.want(0)
        self.end()
        self.peer.end()
