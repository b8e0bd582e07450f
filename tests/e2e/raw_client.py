"""A client that goes through the start of a connection a step at a time, and can stop after any of them."""

import contextlib
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import scramp

from zorya.gateway.postgres.pgwire import SSL_REQUEST

TIMEOUT_S = 60


class RawClient:
    """One connection, plain until `secure`."""

    def __init__(self, port: int, *, host_name: str = "localhost", source: str = "127.0.0.1") -> None:
        """`host_name` is what a TLS hello is to ask for; `source` is the client's own address."""
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_mute = False
        """Whether `send` does nothing, for what has been sent in another way."""
        self._host_name = host_name
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def vanish(self) -> None:
        """End the connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def hello(self, alpn: Sequence[str] = (), **more: Any) -> bytes:
        """Begin with TLS: answer the hello, which is to be sent. `more` are attributes of the context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        if alpn:
            context.set_alpn_protocols(alpn)
        for name, value in more.items():
            setattr(context, name, value)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._host_name)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    def ask_for_tls(self) -> None:
        """Ask, and be granted it."""
        self.socket.sendall(SSL_REQUEST)
        assert self.socket.recv(1) == b"S"

    def shake_hands(self) -> None:
        """Finish what `hello` has begun. Raises SSLError for an alert."""
        assert self._tls is not None
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            else:
                self._flush()
                return

    def secure(self, **more: Any) -> None:
        """Ask for TLS and do it."""
        self.ask_for_tls()
        self.socket.sendall(self.hello(**more))
        self.shake_hands()

    def send(self, data: bytes) -> None:
        """Send it, within TLS if there is any."""
        if self.is_mute:
            return
        if self._tls is None:
            self.socket.sendall(data)
            return
        self._tls.write(data)
        self._flush()

    def receive(self) -> bytes:
        """Answer what comes; nothing for the end, be it a reset."""
        try:
            if self._tls is None:
                return self.socket.recv(65536)
            while True:
                try:
                    return self._tls.read(65536)
                except ssl.SSLWantReadError:
                    self._fill()
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def message(self) -> tuple[bytes, bytes]:
        """Answer the next message's type and body; two times nothing for the end."""
        while len(self._buffer) < 5 or len(self._buffer) < 1 + int.from_bytes(self._buffer[1:5]):
            data = self.receive()
            if not data:
                return b"", b""
            self._buffer += data
        end = 1 + int.from_bytes(self._buffer[1:5])
        message, self._buffer = self._buffer[:end], self._buffer[end:]
        return message[:1], message[5:]

    def rest(self) -> bytes:
        """Answer all that comes until the end."""
        said = self._buffer
        while data := self.receive():
            said += data
        return said

    def log_in(self, parameters: Mapping[str, str], password: str) -> Iterator[str]:
        """Log in with SCRAM; stop before each message that is to be sent, and when the session is there.

        Raises LoginRefused for an error.
        """
        yield "startup"
        self.send(startup(**parameters))
        kind, body = self._answer()
        assert (kind, body[:4]) == (b"R", (10).to_bytes(4)), (kind, body)
        scram = scramp.ScramClient(["SCRAM-SHA-256"], "ignored", password)
        first = scram.get_client_first().encode()
        yield "first"
        self.send(_response(b"SCRAM-SHA-256\0" + len(first).to_bytes(4) + first))
        kind, body = self._answer()
        scram.set_server_first(body[4:].decode())
        yield "final"
        self.send(_response(scram.get_client_final().encode()))
        yield "proved"
        kind, body = self._answer()
        scram.set_server_final(body[4:].decode())
        yield "believed"
        while self._answer()[0] != b"Z":
            pass
        yield "ready"

    def _answer(self) -> tuple[bytes, bytes]:
        kind, body = self.message()
        if kind in (b"", b"E"):
            raise LoginRefused(body.replace(b"\0", b" ").decode(errors="replace"))
        return kind, body

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.socket.sendall(self._outgoing.read())

    def _fill(self) -> None:
        data = self.socket.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


class LoginRefused(Exception):
    """What the server said of it; nothing if it just closed."""


def startup(**parameters: str) -> bytes:
    """Answer a startup packet of protocol 3.0."""
    strings = "\0".join(text for parameter in parameters.items() for text in parameter)
    body = b"\0\3\0\0" + strings.encode("utf-8", "surrogateescape") + b"\0\0"
    return (4 + len(body)).to_bytes(4) + body


def _response(body: bytes) -> bytes:
    return b"p" + (4 + len(body)).to_bytes(4) + body


def all_end(opened: list[socket.socket]) -> None:
    """Wait until the other side has ended all of them; what it says is dropped."""
    deadline = time.monotonic() + 40
    with selectors.DefaultSelector() as selector:
        for one in opened:
            one.settimeout(0)
            selector.register(one, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} of {len(opened)} are still connected"
            for key, _ in selector.select(1):
                assert isinstance(key.fileobj, socket.socket)
                try:
                    if key.fileobj.recv(65536):
                        continue
                except OSError:
                    pass
                selector.unregister(key.fileobj)
