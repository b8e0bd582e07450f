"""TLS on clients' connections: the handshake, and reading and writing that serve plain connections as well.

All sockets are non-blocking. What OpenSSL holds of a connection is bounded: one record of 16 KiB each way. It reads no
further ahead than the record that was asked for, so whatever else a client sends stays in the kernel.
"""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

CLOSE_NOTIFY_TIMEOUT_S = 1.0
"""How long the last record may wait for room in the kernel's buffer."""

_T = TypeVar("_T")
_Wait = Callable[[socket.socket], Coroutine[Any, Any, None]]


async def accept(client: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Answer the client's connection once both sides agree on TLS. Waits as long as the client takes over it.

    `client` is closed when this returns: the answer has the connection, and whoever called closes it. Otherwise the
    connection is still the caller's alone, at whatever point the handshake has come to, and nothing else holds it.

    Raises ConnectionAbortedError, with the reason, for everything that a client may do wrong: no TLS, a version or a
    cipher that is not served, leaving. OpenSSL has sent its alert then, so there is nothing more to tell. Raises
    OSError if no descriptor is left.
    """
    # OpenSSL gets a descriptor of its own, for Python takes the one away from the socket that is wrapped, and a failed
    # handshake is to leave the caller what it came with.
    with client.dup() as ours:
        try:
            ours.getpeername()  # wrap_socket forgets to close the descriptor of a client that has just gone
            wrapped = context.wrap_socket(
                ours, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except OSError as error:
            raise ConnectionAbortedError(f"no TLS handshake: {_explain(error)}") from error
    try:
        await _until_done(wrapped, wrapped.do_handshake, _readable)
    except OSError as error:
        wrapped.close()
        raise ConnectionAbortedError(f"TLS handshake failed: {_explain(error)}") from error
    except BaseException:
        wrapped.close()
        raise
    client.close()
    return wrapped


async def receive(sock: socket.socket, limit: int) -> bytes:
    """Answer what has come, `limit` bytes at most, as soon as there is something; nothing stands for the end.

    A TLS connection that ends without close_notify, or is reset, which OpenSSL does not tell apart, has ended as well:
    PostgreSQL's messages tell where they end. Raises OSError for a plain connection that is reset, and for records that
    are not what the client has sent.
    """
    try:
        return await _until_done(sock, functools.partial(sock.recv, limit), _readable)
    except ssl.SSLEOFError:
        return b""


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send everything. Raises OSError. After an error or a cancellation nobody knows how much has gone."""
    rest = memoryview(data)
    while rest:
        # OpenSSL insists on getting the same bytes again when it could not send them.
        rest = rest[await _until_done(sock, functools.partial(sock.send, rest), _writable) :]


async def close_notify(sock: socket.socket) -> None:
    """Tell the client that nothing more comes: close_notify in TLS, then the end of this direction of the connection.

    Waits for room in the kernel's buffer, CLOSE_NOTIFY_TIMEOUT_S at most, and not for the client's answer. Afterwards
    `receive` answers what comes as it is, still encrypted: good to wait for the client's end, and for nothing else.
    Raises nothing for what happens to the connection.
    """
    with contextlib.suppress(OSError):  # TimeoutError is one
        if isinstance(sock, ssl.SSLSocket):
            async with asyncio.timeout(CLOSE_NOTIFY_TIMEOUT_S):
                await _until_done(sock, functools.partial(try_close_notify, sock), _writable)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def try_close_notify(sock: ssl.SSLSocket) -> None:
    """Send close_notify, and wait for nothing. Raises SSLWantWriteError if it cannot be sent yet, and OSError."""
    # Python asks for the client's close_notify too, once the own one is sent. No application waits for that.
    with contextlib.suppress(ssl.SSLWantReadError):
        sock.unwrap()


async def _until_done(sock: socket.socket, attempt: Callable[[], _T], until_ready: _Wait) -> _T:
    """Try again whenever the socket is ready: plain ones as `until_ready` says, TLS as OpenSSL says."""
    wait: _Wait
    while True:
        try:
            return attempt()
        except ssl.SSLWantReadError:
            wait = _readable
        except ssl.SSLWantWriteError:
            wait = _writable
        except BlockingIOError:
            wait = until_ready
        await wait(sock)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)


def _explain(error: OSError) -> str:
    """Answer the reason in OpenSSL's words, which stand between brackets and source lines, or in the kernel's."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)
