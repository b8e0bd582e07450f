"""Both ends of a TLS connection: contexts with a certificate made for the occasion, and the handshake between two."""

import asyncio
import datetime
import functools
import socket
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zorya.gateway import tls

HOST = "shop.zorya.localhost"


@functools.cache
def server_pem() -> bytes:
    """A key and a self-signed certificate for HOST."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)


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
