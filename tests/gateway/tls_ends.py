"""Both ends of a TLS connection: contexts with a certificate made for the occasion, and the handshake between two."""

import asyncio
import functools
import socket
import ssl
import tempfile
from pathlib import Path

from certificates import new_tls
from zorya.gateway import tls

HOST = "shop.zorya.localhost"


@functools.cache
def server_pem() -> bytes:
    """A key and a self-signed certificate for HOST."""
    made = new_tls(HOST)
    return (made.key.value + made.certificate).encode()


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "server.pem")
        path.write_bytes(server_pem())
        context.load_cert_chain(path)
    # As PostgreSQL does. Tickets that a client leaves unread would make the kernel reset the connection.
    context.num_tickets = 0
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def shake_hands(
    near: socket.socket, far: socket.socket, server: ssl.SSLContext, client: ssl.SSLContext
) -> tuple[tls.TlsSocket, ssl.SSLSocket]:
    """Answer the two ends, both non-blocking. An end of the client that lacks close_notify is an error to it."""
    far.settimeout(20)
    accepting = asyncio.create_task(tls.accept(near, server), name="accept")
    wrapped = await asyncio.to_thread(client.wrap_socket, far, server_hostname=HOST, suppress_ragged_eofs=False)
    wrapped.setblocking(False)
    return await accepting, wrapped
