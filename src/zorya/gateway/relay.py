"""The relay: carries bytes between a client and its engine, both ways, until both are done.

Built on the descriptors themselves and the event loop's readiness callbacks: a chunk goes from one `read` into one
`write`, and is kept only while the receiver cannot take it. Four fifths of the time that this takes is the kernel's;
the loop's transports, an epoll set of the relay's own and a thread of its own were measured and gained nothing.
"""

import asyncio
import contextlib
import os
import socket

CHUNK_BYTES = 64 * 1024
"""The most that is read at once, and the most that waits in one direction."""

SMALL_CHUNK_BYTES = 8 * 1024
"""What is read at once as long as messages are small: `read` allocates as much as it may get."""

LINGER_S = 60.0
"""How long a client may go on after its engine has ended the session.

PostgreSQL never half-closes: what the client sends after that is lost, and one that never noticed would count as a
session for as long as its program runs.
"""


async def carry(client: socket.socket, engine: socket.socket) -> None:
    """Carry bytes between two connected, non-blocking sockets until both directions have ended.

    The end of one direction is passed on as the end of that direction alone, so a half-closed connection goes on the
    other way. A lost connection ends both directions, after what it had sent is delivered. A side that does not read
    stops the reading of the other. Raises nothing for what happens to either connection. Closes neither: the caller
    does, also on cancellation, and with that a side still open learns that the other is gone.
    """
    upstream = _Lane(client, engine)
    downstream = _Lane(engine, client)
    upstream.start(opposite=downstream)
    downstream.start(opposite=upstream)
    try:
        await downstream.ended
        await asyncio.wait([upstream.ended], timeout=LINGER_S)
    finally:
        upstream.end()
        downstream.end()


class _Lane:
    """One direction. Reads its source only while nothing waits for its sink."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._from = source.fileno()
        self._to = sink.fileno()
        self._chunk = SMALL_CHUNK_BYTES
        self._waiting = memoryview(b"")
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def start(self, *, opposite: "_Lane") -> None:
        """Begin to carry."""
        self._opposite = opposite
        self._loop.add_reader(self._source, self._read)

    def end(self) -> None:
        """Stop carrying, whatever waits. May be repeated."""
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        if not self.ended.done():
            self.ended.set_result(None)

    def _read(self) -> None:
        # Runs for each message of each session: the usual case, all received and all sent, stays in one function.
        try:
            data = os.read(self._from, self._chunk)
        except BlockingIOError:
            return
        except OSError:
            # Nothing waits here while the source is read, and what waits in the opposite lane has nowhere to go.
            self.end()
            self._opposite.end()
            return
        if not data:
            self._pass_on_end()
            return
        self._chunk = CHUNK_BYTES if len(data) == self._chunk else SMALL_CHUNK_BYTES
        try:
            sent = os.write(self._to, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.end()  # this lane alone: what the sink sent before it was lost may yet be read
            return
        if sent < len(data):
            self._waiting = memoryview(data)[sent:]
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._flush)

    def _flush(self) -> None:
        try:
            self._waiting = self._waiting[os.write(self._to, self._waiting) :]
        except BlockingIOError:
            return
        except OSError:
            self.end()  # this lane alone: what the sink sent before it was lost may yet be read
            return
        if not self._waiting:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._read)

    def _pass_on_end(self) -> None:
        with contextlib.suppress(OSError):  # a lost sink; the opposite lane reads what it left, then ends as well
            self._sink.shutdown(socket.SHUT_WR)
        self.end()
