"""The relay: carries bytes between clients and their engines, both ways, until both are done.

A client's side may be TLS; the engine's never is. A chunk is kept only while its receiver cannot take it.

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

RECORD_BYTES = 16 * 1024
"""The most that a TLS record holds (RFC 8446, section 5.1), and what is read of one at once."""

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

        A client that speaks TLS (an `ssl.SSLSocket` whose handshake is done) gets close_notify when the engine has
        ended. What it sends after that is read and dropped, so that nothing keeps the engine's last words from it.
        """
        with self._pair(client, engine) as (from_client, from_engine):
            await from_engine.ended
            await asyncio.wait([from_client.ended], timeout=LINGER_S)

    @contextlib.contextmanager
    def _pair(self, client: socket.socket, engine: socket.socket) -> Iterator[tuple["_Side", "_Side"]]:
        left = _TlsSide(client, self._epoll) if isinstance(client, ssl.SSLSocket) else _Side(client, self._epoll)
        right = _Side(engine, self._epoll)
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
    """A client's socket with TLS. OpenSSL may have to write in order to read, and the other way round."""

    _socket: ssl.SSLSocket

    def __init__(self, sock: ssl.SSLSocket, epoll: select.epoll) -> None:
        super().__init__(sock, epoll)
        self.receive = self._decrypt
        self.send = self._encrypt
        self._reading_awaits = select.EPOLLIN
        self._writing_awaits = select.EPOLLOUT
        """The events that the two go on with."""
        self._is_finishing = False

    def want(self, interest: int) -> None:
        """Do this here from now on, and nothing else."""
        self.interest = interest
        reading = self._reading_awaits if interest & select.EPOLLIN else 0
        writing = self._writing_awaits if interest & select.EPOLLOUT else 0
        if reading | writing != self.watched:
            self._watch(reading | writing)

    def resume(self) -> None:
        """Read here, for the first time or again."""
        super().resume()
        self._read_pending()

    def read(self) -> None:
        """Go on with what waited until there is something to read."""
        self._go_on(select.EPOLLIN)

    def flush(self) -> None:
        """Go on with what waited until there is room to write."""
        self._go_on(select.EPOLLOUT)

    def finish(self) -> None:
        """Send close_notify as soon as there is room for it, and from then on read only to see the client's end."""
        self._is_finishing = True
        self._reading_awaits, self._writing_awaits = select.EPOLLIN, select.EPOLLOUT
        try:
            tls.try_close_notify(self._socket)
        except ssl.SSLWantWriteError:
            self.want(select.EPOLLOUT)
            return
        except OSError:
            pass  # lost, or busy sending; either way it hears nothing more
        super().finish()
        self.want(0 if self.ended.done() else select.EPOLLIN)

    def _go_on(self, event: int) -> None:
        if self._is_finishing:
            if event == select.EPOLLOUT:
                self.finish()
            else:
                self._drop()
            return
        if self.interest & select.EPOLLOUT and self._writing_awaits == event:
            super().flush()
        if self.interest & select.EPOLLIN and self._reading_awaits == event:
            super().read()
            self._read_pending()
        self.want(self.interest)

    def _read_pending(self) -> None:
        """Read what OpenSSL has taken out of the kernel already, of which epoll knows nothing."""
        while self.interest & select.EPOLLIN and self._socket.pending():
            super().read()

    def _decrypt(self, _limit: int) -> bytes:
        """Answer the content of one record at most."""
        self._reading_awaits = select.EPOLLIN
        try:
            return self._socket.recv(RECORD_BYTES)
        except ssl.SSLWantReadError as error:
            raise BlockingIOError from error
        except ssl.SSLWantWriteError as error:
            self._reading_awaits = select.EPOLLOUT
            raise BlockingIOError from error

    def _encrypt(self, data: bytes | memoryview) -> int:
        """Send what there is room for, and answer how much that is. OpenSSL wants the rest again from its first byte.

        It may have encrypted some of the rest already, so the rest must come again as it is, and not less of it.
        """
        self._writing_awaits = select.EPOLLOUT
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._socket.send(rest) :]
        except ssl.SSLWantWriteError:
            pass
        except ssl.SSLWantReadError:
            self._writing_awaits = select.EPOLLIN
        return len(data) - len(rest)

    def _drop(self) -> None:
        try:
            if os.read(self.fd, CHUNK_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # as good as an end
        self.end()
