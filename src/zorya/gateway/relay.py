"""The relay: carries bytes between clients and their engines, both ways, until both are done.

Either side may be TLS. A chunk is kept only while its receiver cannot take it.

All sessions share one epoll set, which the event loop watches as a single descriptor. The loop's own readers would not
do: uvloop calls one a last time when a connection is lost and then forgets it, so that an engine's last words would
hide from a session that its engine is gone.
"""

import asyncio
import contextlib
import functools
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterator

from zorya.gateway import tls

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

        A side that speaks TLS (a `tls.TlsSocket`) gets close_notify when the other has ended. What it sends after that
        is read and dropped, so that nothing keeps the other's last words from it.
        """
        with self._pair(client, engine) as (from_client, from_engine):
            await from_engine.ended
            await asyncio.wait([from_client.ended], timeout=LINGER_S)

    @contextlib.contextmanager
    def _pair(self, client: socket.socket, engine: socket.socket) -> Iterator[tuple["_Side", "_Side"]]:
        left, right = self._side(client), self._side(engine)
        left.peer, right.peer = right, left
        self._sides |= {left.fd: left, right.fd: right}
        try:
            left.resume()
            right.resume()
            yield left, right
        finally:
            for side in (left, right):
                side.end()
                side.want(0)
                del self._sides[side.fd]

    def _side(self, sock: socket.socket) -> "_Side":
        return _TlsSide(sock, self._epoll) if isinstance(sock, tls.TlsSocket) else _Side(sock, self._epoll)

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
                if events & ~select.EPOLLOUT and side.watched & select.EPOLLIN:
                    side.read()


class _Side:
    """One socket of a session: the source of one direction, and the sink of the other."""

    peer: "_Side"

    def __init__(self, sock: socket.socket, epoll: select.epoll) -> None:
        self.fd = sock.fileno()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when no more is read here."""
        self.receive: Callable[[int], bytes] = functools.partial(os.read, self.fd)
        self.send: Callable[[bytes | memoryview], int] = functools.partial(os.write, self.fd)
        self._socket = sock
        self._epoll = epoll
        self.interest = 0
        """What is to happen here: EPOLLIN to read, EPOLLOUT to write what waits."""
        self.watched = 0
        """The events that this socket is watched for, so that it happens."""
        self._chunk = SMALL_CHUNK_BYTES
        self._waiting = memoryview(b"")
        """What came from the peer and could not be written here yet; the peer is not read meanwhile."""

    def want(self, interest: int) -> None:
        """Do this here from now on, and nothing else."""
        self.interest = interest
        self._watch(interest)

    def _watch(self, events: int) -> None:
        """Watch this socket for these events.

        A socket that nothing is wanted of leaves the set, which would else report a lost connection over and over.
        """
        if events and self.watched:
            self._epoll.modify(self.fd, events)
        elif events:
            self._epoll.register(self.fd, events)
        elif self.watched:
            self._epoll.unregister(self.fd)
        self.watched = events

    def resume(self) -> None:
        """Read here, for the first time or again."""
        self.want(self.interest | select.EPOLLIN)

    def end(self) -> None:
        """Read no more here. May be repeated."""
        self.want(self.interest & ~select.EPOLLIN)
        if not self.ended.done():
            self.ended.set_result(None)

    def read(self) -> None:
        """Carry a chunk from here to the peer."""
        # Runs for each message of each session: the usual case, all received and all sent, stays in one function.
        try:
            data = self.receive(self._chunk)
        except BlockingIOError:
            return
        except OSError:
            self._be_lost()
            return
        if not data:
            self.peer.finish()
            self.end()
            return
        self._chunk = CHUNK_BYTES if len(data) == self._chunk else SMALL_CHUNK_BYTES
        try:
            sent = self.peer.send(data)
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
            self._waiting = self._waiting[self.send(self._waiting) :]
        except BlockingIOError:
            return
        except OSError:
            self._waiting = memoryview(b"")
            self.peer.end()  # that direction alone: what this side sent before it was lost may yet be read
        if not self._waiting:
            self.want(self.interest & ~select.EPOLLOUT)
            if not self.peer.ended.done():
                self.peer.resume()

    def finish(self) -> None:
        """Pass on that the peer sends no more."""
        with contextlib.suppress(OSError):  # lost; its own direction reads what it left, then ends as well
            self._socket.shutdown(socket.SHUT_WR)

    def _be_lost(self) -> None:
        # Nothing waits at the peer while this side is read, and what waits here has nowhere to go.
        self._waiting = memoryview(b"")
        self.want(0)
        self.end()
        self.peer.end()


class _TlsSide(_Side):
    """A socket with TLS."""

    _socket: tls.TlsSocket

    def __init__(self, sock: tls.TlsSocket, epoll: select.epoll) -> None:
        super().__init__(sock, epoll)
        self.receive = self._receive_or_wait
        self.send = sock.send
        self._reading_awaits = select.EPOLLIN
        """The event that reading goes on with: TLS may have something to send first."""
        self._is_finishing = False

    def want(self, interest: int) -> None:
        """Do this here from now on, and nothing else."""
        self.interest = interest
        events = interest & select.EPOLLOUT | (self._reading_awaits if interest & select.EPOLLIN else 0)
        if events != self.watched:
            self._watch(events)

    def resume(self) -> None:
        """Read here, for the first time or again."""
        super().resume()
        if not self._is_finishing:
            self._read_more()

    def read(self) -> None:
        """Go on with what waited for the client to send something."""
        if self._is_finishing:
            self._drop()
        else:
            super().read()
            self._read_more()

    def flush(self) -> None:
        """Go on with what waited for room."""
        if self._is_finishing:
            self.finish()
            return
        if self.interest & select.EPOLLOUT:
            super().flush()
        if self.interest & select.EPOLLIN and self._reading_awaits == select.EPOLLOUT:
            self.read()

    def finish(self) -> None:
        """Send close_notify as soon as there is room for it, and from then on read only to see the other's end."""
        self._is_finishing, self._reading_awaits = True, select.EPOLLIN
        try:
            self._socket.close_notify()
        except BlockingIOError:
            self.want(select.EPOLLOUT)
            return
        except OSError:
            pass  # lost: it hears nothing more
        super().finish()
        self.want(0 if self.ended.done() else select.EPOLLIN)

    def _read_more(self) -> None:
        """Read what has been taken out of the kernel already, of which epoll knows nothing."""
        while self.watched & self.interest & select.EPOLLIN and self._socket.has_more:
            super().read()

    def _receive_or_wait(self, _limit: int) -> bytes:
        awaits = select.EPOLLIN
        try:
            return self._socket.recv(CHUNK_BYTES)
        except ssl.SSLWantWriteError as error:
            awaits = select.EPOLLOUT
            raise BlockingIOError from error
        finally:
            if awaits != self._reading_awaits:
                self._reading_awaits = awaits
                self.want(self.interest)

    def _drop(self) -> None:
        try:
            if self._socket.recv(CHUNK_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # as good as an end
        self.end()
