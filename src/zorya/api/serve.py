"""Serves the API on a Unix socket and on loopback TCP, inside the caller's event loop.

uvicorn speaks HTTP; the sockets, the signals and the end are the caller's. A stop takes as long as the requests that
are being answered: those that wait for events are let go at once, those still running after GRACE_S are answered 503,
and a client that does not read its answer is cut off after as long again.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from zorya.api import app
from zorya.api.long_poll import LongPolls
from zorya.api.server_control import ServerControl
from zorya.control.facade import Clusters
from zorya.core import errors, logging
from zorya.core.model import Secret

GRACE_S = 1.0
_BACKLOG = 128
_LOOPBACK = "127.0.0.1"

_log = logging.get("zorya.api")


class Api:
    """The API of one server. The caller must hold the home's lock: a socket file that is there is a dead server's."""

    def __init__(
        self, *, server: ServerControl, clusters: Clusters, token: Secret, socket_path: Path, port: int
    ) -> None:
        self._server = server
        self._clusters = clusters
        self._token = token
        self._socket_path = socket_path
        self._port = port

    async def run(self, *, on_ready: Callable[[int], None]) -> None:
        """Serve until cancelled. `on_ready` gets the TCP port once both sockets accept connections.

        The Unix socket has mode 0600 from its first moment and is gone when this returns. If the port is taken, any
        free one is used. Raises HomeUnusable when the Unix socket cannot be made.
        """
        polls = LongPolls()
        unguarded = app.build(self._server, self._clusters, token=None, polls=polls)
        guarded = app.build(self._server, self._clusters, token=self._token, polls=polls)
        with _unix_listener(self._socket_path) as unix, _tcp_listener(self._port) as tcp:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_Http(unguarded, polls).serve(sockets=[unix]), name="api on the Unix socket")
                tasks.create_task(_Http(guarded, polls).serve(sockets=[tcp]), name="api on loopback TCP")
                on_ready(tcp.getsockname()[1])


class _Http(uvicorn.Server):
    """A uvicorn server that leaves signals alone, serves until its task is cancelled and then stops cleanly."""

    def __init__(self, application: FastAPI, polls: LongPolls) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=_BACKLOG,
            )
        )
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
def _tcp_listener(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_LOOPBACK, port))
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
            listener.bind((_LOOPBACK, 0))
            _log.warning("the API's port is not free, using another", wanted=port, used=listener.getsockname()[1])
        listener.listen(_BACKLOG)
        yield listener
