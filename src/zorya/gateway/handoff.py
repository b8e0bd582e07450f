"""Handing a client's connection to an engine: one datagram to the inlet that native/handoff.c opens in it.

The datagram's data is the client's address as accept() would answer it, its descriptors are the client's connection and
one end of a socket pair. The engine writes one byte to that when it has the connection; when the datagram is lost, as
it is with an engine that ends, the kernel closes the end instead. So a client is never lost in between.
"""

import asyncio
import ipaddress
import socket
import sys
from pathlib import Path

Peer = tuple[str, int] | tuple[str, int, int, int]
"""A client's address as `socket.accept` answers it for IPv4 or IPv6."""


def pack(peer: Peer) -> bytes:
    """Answer the address as the kernel lays it out: struct sockaddr_in, or sockaddr_in6 for an IPv6 address."""
    host = ipaddress.ip_address(peer[0].partition("%")[0])
    port = peer[1].to_bytes(2)
    if host.version == 4:
        return socket.AF_INET.to_bytes(2, sys.byteorder) + port + host.packed + bytes(8)
    flow, scope = (peer[2], peer[3]) if len(peer) == 4 else (0, 0)
    family = socket.AF_INET6.to_bytes(2, sys.byteorder)
    return family + port + flow.to_bytes(4) + host.packed + scope.to_bytes(4, sys.byteorder)


async def hand_over(client: socket.socket, peer: Peer, inlet: Path) -> bool:
    """Give the connection to the engine at `inlet`; answer whether the engine has it. Waits as long as the engine does.

    When this answers True the caller closes its own descriptor and has nothing more to do with the client. Otherwise,
    and when it raises OSError (there is no engine any more), the connection is still the caller's alone.
    """
    loop = asyncio.get_running_loop()
    with _connect(inlet) as carrier:
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                await _send(carrier, pack(peer), [client, theirs])
            return await loop.sock_recv(ours, 1) != b""


def _connect(inlet: Path) -> socket.socket:
    carrier = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        carrier.setblocking(False)
        carrier.connect(str(inlet))
    except OSError:
        carrier.close()
        raise
    return carrier


async def _send(carrier: socket.socket, data: bytes, given: list[socket.socket]) -> None:
    """Send once the inlet's queue, which is short, has room."""
    descriptors = [one.fileno() for one in given]
    while True:
        try:
            socket.send_fds(carrier, [data], descriptors)
        except BlockingIOError:
            await _writable(carrier)
        else:
            return


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    room = loop.create_future()
    loop.add_writer(sock, lambda: room.done() or room.set_result(None))
    try:
        await room
    finally:
        loop.remove_writer(sock)
