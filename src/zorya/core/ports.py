"""TCP ports of this host for programs that are about to be started."""

import os
import socket
from collections import deque

KEPT = 64
"""How many of the ports that were reserved last stay so: a start takes a moment, and few are under way at once."""

_reserved: deque[int] = deque()
"""Descriptors of bound sockets; they end with the process."""


def reserve() -> int:
    """Answer a TCP port of 127.0.0.1 that is free, and see to it that nobody is given it by chance before it is used.

    A socket that is bound, does not listen and has SO_REUSEADDR is in nobody's way who has that too, as servers do
    (socket(7)). But the kernel gives its port neither to who connects nor to who wants any free one.
    """
    while len(_reserved) >= KEPT:
        os.close(_reserved.popleft())
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        # Only now: with it, one that others have reserved would count as free.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port: int = sock.getsockname()[1]
        _reserved.append(sock.detach())
    return port
