"""What a client has sent, looked at without being taken, so that whoever serves the client can still read it."""

import asyncio
import contextlib
import select
import socket

from zorya.gateway import client_hello, sockets

MAX_WATCHED_BYTES = 16 * 1024
"""How much a client may have sent unread while it is still watched whether it leaves."""


async def hear_hello(client: socket.socket, timeout_s: float) -> client_hello.ClientHello | None:
    """Answer the client's first TLS message, left unread.

    None stands for a client that left, or that took longer than `timeout_s`. Raises ProtocolViolation.
    """
    framer = client_hello.ClientHelloFramer()
    seen = 0
    with contextlib.suppress(OSError):
        async with asyncio.timeout(timeout_s):
            while len(data := await look_further(client, seen, client_hello.MAX_HELLO_BYTES)) > seen:
                hello = framer.receive(data[seen:])
                if hello is not None:
                    return hello
                seen = len(data)
    return None


def take(client: socket.socket, size: int) -> None:
    """Read so many bytes that were heard, so that nobody else finds them. Raises OSError."""
    while size:
        taken = len(client.recv(size))
        if not taken:
            raise ConnectionResetError("the connection ended before what was heard in it")
        size -= taken


def says_more(client: socket.socket, than: int) -> bool:
    """Whether more bytes than these wait to be read. Raises OSError."""
    return len(client.recv(than + 1, socket.MSG_PEEK)) > than


async def has_left(client: socket.socket) -> None:
    """Return when the client has closed its connection, whatever it has sent before that nobody has read.

    One that has sent MAX_WATCHED_BYTES, or as many small pieces as the kernel has room for, is not watched any longer.
    """
    seen = 0
    with contextlib.suppress(OSError):
        while seen < MAX_WATCHED_BYTES and len(data := await look_further(client, seen, MAX_WATCHED_BYTES)) > seen:
            seen = len(data)
        if not _has_ended(client):
            await asyncio.get_running_loop().create_future()


async def look_further(client: socket.socket, seen: int, limit: int) -> bytes:
    """Answer all that is unread as soon as it is more than `seen` bytes, or as the client has closed. Raises OSError.

    No more than `limit` are looked at; `seen` must be less. What is answered is not more than `seen` bytes
    also when the kernel has no room for more: it keeps a buffer for each small piece that comes by itself.
    """
    with contextlib.suppress(BlockingIOError):
        data = _look(client, limit)
        if len(data) != seen or not data:
            return data
    # Bytes that are left unread keep a socket readable: the mark tells the kernel how many would be news. The end of
    # the connection is news in any case, and so is a full buffer.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
    try:
        await sockets.readable(client)
        return _look(client, limit)
    finally:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _look(client: socket.socket, limit: int) -> bytes:
    # A TlsSocket's own recv takes no flags: what is looked at are the bytes of the connection itself.
    return socket.socket.recv(client, limit, socket.MSG_PEEK)


def _has_ended(client: socket.socket) -> bool:
    """Whether the client sends no more, be there something unread or not."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))
