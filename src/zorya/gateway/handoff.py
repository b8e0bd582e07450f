"""Handing a client's connection to an engine: one datagram to the inlet that native/handoff.c opens in it.

The datagram's data is the client's address as accept() would answer it, its descriptors are the client's connection and
one end of a socket pair. The engine keeps the client if, and only if, it has written one byte to that end. So there is
exactly one owner at any time, whatever happens to either side:

- The engine refuses the datagram, or ends with it in its queue: the kernel closes that end, and no byte comes.
- The sender gives up: it closes the pair, the engine cannot write the byte and drops its descriptor.
- Both in the same instant: the kernel lets the byte come before or not at all, and the sender looks once more.

The queue is short (net.unix.max_dgram_qlen, 10 by default). While it is full, as it is with an engine that is frozen or
stuck, senders wait, and connections wait with them.

A third descriptor, the prologue, lets the sender conduct the client's start. It is the engine's end of a stream socket
pair: what the engine would read from the client it reads from there, and what it would send to the client it sends
there, until the sender shuts its own end down for writing. At its next read the engine then goes over to the client,
where it finds whatever the client has sent meanwhile, and its end is closed. So a sender that reads its end until it is
at an end has all that the engine sent before it went over, and then owes the client nothing more.
"""

import asyncio
import ipaddress
import socket
import sys
from pathlib import Path

from zorya.gateway import sockets

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


async def hand_over(client: socket.socket, peer: Peer, inlet: Path, prologue: socket.socket | None = None) -> bool:
    """Give the connection to the engine at `inlet`; answer whether the engine has it. Waits as long as the engine does.

    Nobody may use `client` meanwhile: once the engine has it, it reads from it and makes it block.

    `prologue` is the engine's end of a pair of connected AF_UNIX, SOCK_STREAM sockets; the sender's own may have been
    written to already. It stays the caller's, whatever the answer is, and unread when that is not True, so that it can
    be given again. When it is True the caller closes it at once, or its own end never comes to an end; it keeps
    `client` as long as it conducts the start, to write to it what the engine sends to the prologue, and does so without
    waiting for it (MSG_DONTWAIT): whether that descriptor blocks is the engine's affair now.

    When this answers True the caller closes its own descriptor and has nothing more to do with the client. Otherwise
    the connection is still the caller's alone and as it was; so it is when this raises OSError (the engine has ended,
    or no descriptor is left) and when it is cancelled. A cancellation that comes too late, when the engine has the
    client already, is not raised: the answer is True.
    """
    with _connect(inlet) as carrier:
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(0)
            with theirs:
                await _send(carrier, pack(peer), [client, theirs, *([prologue] if prologue else [])])
            try:
                return await _receive_receipt(ours)
            except asyncio.CancelledError:
                # From here on the byte cannot be written any more; one that was written before can still be read.
                ours.shutdown(socket.SHUT_RD)
                if ours.recv(1):
                    return True
                raise


def _connect(inlet: Path) -> socket.socket:
    carrier = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        carrier.settimeout(0)
        carrier.connect(str(inlet))
    except OSError:
        carrier.close()
        raise
    return carrier


async def _send(carrier: socket.socket, data: bytes, given: list[socket.socket]) -> None:
    """Send once the inlet's queue has room."""
    descriptors = [one.fileno() for one in given]
    while True:
        try:
            socket.send_fds(carrier, [data], descriptors)
        except BlockingIOError:
            await sockets.writable(carrier)
        else:
            return


async def _receive_receipt(ours: socket.socket) -> bool:
    """Wait for the byte or the end. loop.sock_recv will not do: cancelled in the wrong instant it loses the byte."""
    while True:
        try:
            return ours.recv(1) != b""
        except BlockingIOError:
            await sockets.readable(ours)
