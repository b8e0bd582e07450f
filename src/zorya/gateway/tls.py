"""TLS on connections: the handshake with clients and engines, and reading and writing that serve plain ones as well.

All sockets are non-blocking. What is held of a connection is bounded: CHUNK_BYTES each way, and a record.
"""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from zorya.gateway import sockets

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CHUNK_BYTES = 64 * 1024
"""The most that is encrypted at once, and taken out of the kernel."""

SMALL_CHUNK_BYTES = 8 * 1024
"""What is taken out of the kernel as long as little data is in it."""

RECORD_BYTES = 16 * 1024
"""The most that a record holds (RFC 8446, section 5.1)."""

CLOSE_NOTIFY_TIMEOUT_S = 1.0
"""How long the last record may wait for room in the kernel's buffer."""

_T = TypeVar("_T")
_Wait = Callable[[socket.socket], Coroutine[Any, Any, None]]


class TlsSocket(socket.socket):
    """A connection with TLS. It blocks as a plain socket does, by raising BlockingIOError.

    OpenSSL is handed what has come, a little at a time, and never the descriptor. Left to itself it reads on as long as
    records come that are not data, such as KeyUpdate: one client that sends nothing else would hold up all others.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, *, server_side: bool = True) -> None:
        """Share the connection's descriptor, until one of the two is detached from it."""
        super().__init__(plain.family, plain.type, plain.proto, plain.fileno())
        self.settimeout(0)
        self.has_more = True
        """Whether something may be read that the kernel does not have any more."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._unsent = memoryview(b"")
        self._covered = 0
        """How much of the caller's data is in what is unsent."""
        self._chunk = SMALL_CHUNK_BYTES
        self._failure: OSError | None = None
        """What came behind the data that was read last."""
        self._is_agreed = False
        self._is_ending = False
        self._is_over = False
        if not server_side:
            # A client speaks first: its hello is unsent from here on.
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()

    def version(self) -> str | None:
        """Answer the version of TLS, in OpenSSL's words."""
        return self._tls.version()

    def selected_alpn_protocol(self) -> str | None:
        """Answer the protocol inside that both sides agree on, if the client has named any."""
        return self._tls.selected_alpn_protocol()

    def do_handshake(self) -> None:
        """Go on with the handshake.

        Raises BlockingIOError when it waits for the client, SSLWantWriteError when it waits for room, and OSError for
        one that failed, whose alert is sent then.
        """
        self._flush_first()
        if self._is_agreed:
            return
        self._fill()
        try:
            self._tls.do_handshake()
            self._is_agreed = True
        except ssl.SSLWantReadError:
            pass
        except OSError:
            with contextlib.suppress(OSError):
                self._flush()
            raise
        self._flush_first()
        if not self._is_agreed:
            raise BlockingIOError

    def recv(self, limit: int, flags: int = 0, /) -> bytes:
        """Answer what has come, of several records if need be; nothing for close_notify. After `shutdown`: as it is.

        Raises SSLWantWriteError when something has to be sent first, SSLEOFError for an end without close_notify.
        """
        if self._is_over:
            return super().recv(limit, flags)
        if flags:
            raise ValueError("TLS has no flags")
        # Data that the client does not take is no reason not to hear it. But what it makes OpenSSL say is bounded.
        if not self._covered or self._outgoing.pending > RECORD_BYTES:
            self._flush_first()
        if self._failure is not None:
            raise self._failure
        if not self.has_more:
            self._fill()
        data = self._decrypt(limit)
        # Keys that are changed or other records without data do not count: they cost more time than data.
        self._chunk = CHUNK_BYTES if len(data) > self._chunk // 2 else SMALL_CHUNK_BYTES
        return data

    def send(self, data: "ReadableBuffer", flags: int = 0, /) -> int:
        """Send some of the data, and answer how much. After BlockingIOError the same data has to come again."""
        if self._is_over:
            return super().send(data, flags)
        if flags:
            raise ValueError("TLS has no flags")
        if not self._covered:
            self._flush()
            part = memoryview(data)[:CHUNK_BYTES]
            while self._covered < len(part):
                self._covered += self._tls.write(part[self._covered :])
        self._flush()
        sent, self._covered = self._covered, 0
        return sent

    def give_up_sending(self) -> None:
        """Let other data come than that which could not be sent, of which a part may yet go."""
        self._covered = 0

    def close_notify(self) -> None:
        """Tell the client that nothing more comes. Raises BlockingIOError if it has to be repeated, and OSError."""
        if not self._is_ending:
            self._is_ending = True
            # Python asks for the client's close_notify too. No application waits for that.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        self._flush()

    def shutdown(self, how: int, /) -> None:
        """End the connection in one direction. What comes is no longer decrypted, and nothing can be sent."""
        self._is_over = True
        super().shutdown(how)

    def _decrypt(self, limit: int) -> bytes:
        parts: list[bytes] = []
        self.has_more = False
        while limit:
            try:
                part = self._tls.read(min(limit, RECORD_BYTES))
            except ssl.SSLWantReadError:
                break
            except OSError as error:
                if not parts:
                    raise
                self._failure, self.has_more = error, True
                break
            if not part:
                if not parts:
                    return b""
                self.has_more = True
                break
            parts.append(part)
            limit -= len(part)
        else:
            self.has_more = True
        if not parts:
            raise BlockingIOError
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fill(self) -> None:
        data = super().recv(self._chunk)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        while self._unsent or self._outgoing.pending:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            self._unsent = self._unsent[super().send(self._unsent) :]

    def _flush_first(self) -> None:
        try:
            self._flush()
        except BlockingIOError as error:
            raise ssl.SSLWantWriteError from error


async def accept(client: socket.socket, context: ssl.SSLContext) -> TlsSocket:
    """Answer the client's connection once both sides agree on TLS. Waits as long as the client takes over it.

    When this returns, the answer has the connection, and `client` has none. Otherwise, also on cancellation, the
    connection is still the client's, at whatever point the handshake has come to, and nothing else holds it.

    Raises ConnectionAbortedError, with the reason, for everything that a client may do wrong: no TLS, a version or a
    cipher that is not served, leaving. OpenSSL's alert is sent then, so there is nothing more to tell.
    """
    return await _agree(client, TlsSocket(client, context))


async def connect(engine: socket.socket, context: ssl.SSLContext) -> TlsSocket:
    """Begin TLS with an engine, as its client; see `accept`. Raises ConnectionAbortedError, with the reason.

    No name is sent or compared: the context has to say whom it trusts.
    """
    return await _agree(engine, TlsSocket(engine, context, server_side=False))


async def _agree(plain: socket.socket, secured: TlsSocket) -> TlsSocket:
    try:
        await _until_done(secured, secured.do_handshake, sockets.readable)
    except OSError as error:
        secured.detach()
        raise ConnectionAbortedError(f"TLS handshake failed: {_explain(error)}") from error
    except BaseException:
        secured.detach()
        raise
    plain.detach()
    return secured


async def receive(sock: socket.socket, limit: int) -> bytes:
    """Answer what has come, `limit` bytes at most, as soon as there is something; nothing stands for the end.

    A TLS connection that ends without close_notify has ended all the same: PostgreSQL's messages tell where they end.
    Raises OSError for a connection that is reset, and for records that are not what the client has sent.
    """
    try:
        return await _until_done(sock, functools.partial(sock.recv, limit), sockets.readable)
    except ssl.SSLEOFError:
        return b""


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send everything. Raises OSError. After an error or a cancellation nobody knows how much has gone."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[await _until_done(sock, functools.partial(sock.send, rest), sockets.writable) :]
    except BaseException:
        if isinstance(sock, TlsSocket):
            sock.give_up_sending()
        raise


async def close_notify(sock: socket.socket) -> None:
    """Tell the client that nothing more comes: close_notify in TLS, then the end of this direction of the connection.

    Waits for room in the kernel's buffer, CLOSE_NOTIFY_TIMEOUT_S at most, and not for the client's answer. Afterwards
    `receive` answers what comes as it is, still encrypted: good to wait for the client's end, and for nothing else.
    Raises nothing for what happens to the connection.
    """
    with contextlib.suppress(OSError):  # TimeoutError is one
        if isinstance(sock, TlsSocket):
            async with asyncio.timeout(CLOSE_NOTIFY_TIMEOUT_S):
                await _until_done(sock, sock.close_notify, sockets.writable)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


async def _until_done(sock: socket.socket, attempt: Callable[[], _T], until_ready: _Wait) -> _T:
    """Try until it does not block, whenever the socket is ready again; it may also be Python's own SSLSocket."""
    wait: _Wait
    while True:
        try:
            return attempt()
        except BlockingIOError:
            wait = until_ready
        except ssl.SSLWantReadError:
            wait = sockets.readable
        except ssl.SSLWantWriteError:
            wait = sockets.writable
        await wait(sock)


def _explain(error: OSError) -> str:
    """Answer the reason in OpenSSL's words, which stand between brackets and source lines, or in the kernel's."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)
