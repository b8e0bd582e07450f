"""What a client says first, looked at without being taken, so that whoever serves the client can still read it."""

import asyncio
import contextlib
import select
import socket

from zorya.gateway import pgwire


async def has_spoken(client: socket.socket, timeout_s: float) -> bool:
    """Wait for the client's first byte. False for one that left, or that was silent for `timeout_s`."""
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(timeout_s):
            return bool(await _peek(client, 0))
    return False


async def read(client: socket.socket, timeout_s: float) -> pgwire.Opening | None:
    """Answer what the client wants. Requests for encryption are refused on the way; what follows them is left unread.

    None stands for a client that left, or that took longer than `timeout_s` and deserves no more attention: PostgreSQL
    says nothing to those either. Raises ProtocolViolation.
    """
    with contextlib.suppress(OSError):
        async with asyncio.timeout(timeout_s):
            return await _converse(client)
    return None


async def has_left(client: socket.socket) -> None:
    """Return when the client has closed its connection, whatever it has sent before that nobody has read.

    One that has sent MAX_PACKET_BYTES, or as many small pieces as the kernel has room for, is not watched any longer.
    """
    seen = 0
    with contextlib.suppress(OSError):
        while seen < pgwire.MAX_PACKET_BYTES and len(data := await _peek(client, seen)) > seen:
            seen = len(data)
        if not _has_ended(client):
            await asyncio.get_running_loop().create_future()


async def _converse(client: socket.socket) -> pgwire.Opening | None:
    loop = asyncio.get_running_loop()
    framer = pgwire.StartupFramer()
    seen = 0
    while True:
        data = await _peek(client, seen)
        if len(data) <= seen:
            return None
        framer.receive(data[seen:])
        seen = len(data)
        while event := framer.next_event():
            if isinstance(event, pgwire.Opening):
                return event
            # The request is dealt with here, so nobody else may find it.
            seen -= len(client.recv(pgwire.ENCRYPTION_REQUEST_BYTES))
            await loop.sock_sendall(client, pgwire.ENCRYPTION_REFUSED)


async def _peek(client: socket.socket, seen: int) -> bytes:
    """Answer all that is unread as soon as it is more than `seen` bytes, or as the client has closed. Raises OSError.

    No more than MAX_PACKET_BYTES are looked at; `seen` must be less. What is answered is not more than `seen` bytes
    also when the kernel has no room for more: it keeps a buffer for each small piece that comes by itself.
    """
    with contextlib.suppress(BlockingIOError):
        data = client.recv(pgwire.MAX_PACKET_BYTES, socket.MSG_PEEK)
        if len(data) != seen or not data:
            return data
    # Bytes that are left unread keep a socket readable: the mark tells the kernel how many would be news. The end of
    # the connection is news in any case, and so is a full buffer.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
    try:
        await _readable(client)
        return client.recv(pgwire.MAX_PACKET_BYTES, socket.MSG_PEEK)
    finally:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _has_ended(client: socket.socket) -> bool:
    """Whether the client sends no more, be there something unread or not."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
