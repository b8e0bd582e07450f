"""Serves the API on a Unix socket and on TCP, inside the caller's event loop: in clear on loopback, else over TLS.

uvicorn speaks HTTP; the sockets, the signals and the end are the caller's. A stop takes as long as the requests that
are being answered: those that wait for events are let go at once, those still running after GRACE_S are answered 503,
and a client that does not read its answer is cut off after as long again.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from zorya.api import app
from zorya.api.guard import Guard
from zorya.api.long_poll import LongPolls
from zorya.api.server_control import ServerControl
from zorya.control.facade import Clusters
from zorya.core import errors, logging
from zorya.core.model import Address, Secret
from zorya.trust import names
from zorya.trust.identity import ServerIdentity

GRACE_S = 1.0
_BACKLOG = 128
_ALPN = "http/1.1"

_log = logging.get("zorya.api")


class Api:
    """The API of one server. The caller must hold the home's lock: a socket file that is there is a dead server's."""

    def __init__(
        self,
        *,
        server: ServerControl,
        clusters: Clusters,
        token: Secret,
        socket_path: Path,
        port: int,
        bind: str = "127.0.0.1",
        identity: Callable[[], ServerIdentity] | None = None,
    ) -> None:
        """`bind` is an IP address. Beyond loopback `identity` has to answer the certificate for each new connection.

        Raises InvalidSetting when `bind` is no address.
        """
        self._server = server
        self._clusters = clusters
        self._token = token
        self._socket_path = socket_path
        self._address = Address(host=bind, port=port)
        self._identity = None if _parse(bind).is_loopback else identity
        if self._identity is None and not _parse(bind).is_loopback:
            raise ValueError(f"an API on {bind} needs a certificate")

    async def run(self, *, on_ready: Callable[[int], None]) -> None:
        """Serve until cancelled. `on_ready` gets the TCP port once both sockets accept connections.

        The Unix socket has mode 0600 from its first moment and is gone when this returns. If the port is taken, any
        free one is used. Raises HomeUnusable when the Unix socket cannot be made, and InvalidSetting when this host
        does not have the address to listen on.
        """
        polls = LongPolls()
        # The permissions of its file guard the Unix socket.
        unguarded = app.build(self._server, self._clusters, polls=polls)
        guarded = Guard(unguarded, token=self._token, read_names=self._read_names)
        context = None if self._identity is None else _serve_latest(self._identity)
        with _unix_listener(self._socket_path) as unix, _tcp_listener(self._address) as tcp:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_Http(unguarded, polls).serve(sockets=[unix]), name="api on the Unix socket")
                tasks.create_task(_Http(guarded, polls, context).serve(sockets=[tcp]), name="api on TCP")
                on_ready(tcp.getsockname()[1])

    def url(self, port: int) -> str:
        """Answer how a client on this host reaches the API on its TCP port."""
        address = _parse(self._address.host)
        if address.is_unspecified:
            return f"https://localhost:{port}"
        scheme = "http" if self._identity is None else "https"
        return f"{scheme}://{Address(host=str(address), port=port)}"

    def _read_names(self) -> Collection[str]:
        return names.LOCAL if self._identity is None else (*names.LOCAL, *self._identity().names)


def _parse(bind: str) -> names.IPAddress:
    try:
        return ipaddress.ip_address(bind)
    except ValueError as error:
        raise errors.InvalidSetting(
            f"api_bind: {bind!r} is not an IP address.", hint="Give an address such as 127.0.0.1 or 0.0.0.0."
        ) from error


def _serve_latest(identity: Callable[[], ServerIdentity]) -> ssl.SSLContext:
    """Answer a context that gives each new connection the certificate that `identity` answers then.

    OpenSSL calls back in every handshake, also when the client names no server.
    """
    used = identity()
    context = latest = used.new_context(min_version="1.2", alpn=[_ALPN])

    def take_latest(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal used, latest
        if identity() is not used:
            used = identity()
            latest = used.new_context(min_version="1.2", alpn=[_ALPN])
        connection.context = latest

    context.sni_callback = take_latest
    return context


class _Http(uvicorn.Server):
    """A uvicorn server that leaves signals alone, serves until its task is cancelled and then stops cleanly."""

    def __init__(self, application: ASGIApp, polls: LongPolls, context: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            application,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            # Its warnings are of what strangers send.
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
        )
        config.load()
        # Its own settings take files, and older versions nothing else.
        config.ssl = context
        super().__init__(config)
        self._polls = polls

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handler."""
        yield

    async def main_loop(self) -> None:
        """Return when cancelled, since `serve` then shuts down. uvicorn's own wakes ten times a second."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop as the module says."""
        self._polls.end()
        loop = asyncio.get_running_loop()
        deadlines = (loop.call_later(GRACE_S, self._cut), loop.call_later(2 * GRACE_S, self._drop))
        try:
            await super().shutdown(sockets)
        finally:
            for deadline in deadlines:
                deadline.cancel()

    def _cut(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()

    def _drop(self) -> None:
        for connection in self.server_state.connections:
            connection.transport.abort()


@contextlib.contextmanager
def _unix_listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # Linux gives a bound socket's file the mode of the socket itself, less the umask (unix(7), bind).
        os.fchmod(listener.fileno(), 0o600)
        try:
            path.unlink(missing_ok=True)
            listener.bind(str(path))
        except OSError as error:
            raise errors.HomeUnusable(
                f"The API's socket {path} cannot be made: {error}.",
                hint="Choose a home that you can write to, with a short path.",
            ) from error
        try:
            listener.listen(_BACKLOG)
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _tcp_listener(address: Address) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind((address.host, address.port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise errors.InvalidSetting(
                    f"api_bind: this host cannot listen on {address.host}: {error.strerror}.",
                    hint="`ip address` lists the addresses that this host has.",
                ) from error
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
            listener.bind((address.host, 0))
            used = listener.getsockname()[1]
            _log.warning("the API's port is not free, using another", wanted=address.port, used=used)
        listener.listen(_BACKLOG)
        yield listener
