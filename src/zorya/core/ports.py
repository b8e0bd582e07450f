"""TCP ports of this host for programs that are about to be started."""

import asyncio
import os
import socket

KEPT_S = 5.0
"""How long a port stays reserved: a program that was started with it has bound it by then, as a rule."""


def reserve() -> int:
    """Answer a TCP port of 127.0.0.1 that is free, and see to it that nobody is given it by chance before it is used.

    A socket that is bound, does not listen and has SO_REUSEADDR is in nobody's way who has that too, as servers do
    (socket(7)). But the kernel gives its port neither to who connects nor to who wants any free one. Without an event
    loop there is nobody who could let it go later, and it is free at once.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return port
        # Only now: with it, a port that others have reserved would count as free.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A descriptor and not a socket: if the loop ends before, the process does too.
        loop.call_later(KEPT_S, os.close, sock.detach())
    return port
