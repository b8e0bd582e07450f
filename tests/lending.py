"""One server for many tests: each has cluster "main" new and asleep, and only the server itself is used again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from fix_home import make_folder, prepare_home
from harness import Server, end, processes_below, remove_when_left
from waiting import wait_until


class Lender:
    """Starts a server when a test wants one, and keeps it for the next as long as they leave it as it was.

    A test may do to clusters what it likes, and kill the server if it starts it again. A server that is down at the
    end, or was started with something of the test's own, is not used again.
    """

    def __init__(self, templates: Path, **env: str) -> None:
        self._templates = templates
        self._env = env
        self._idle: Server | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._idle is not None:
            self._idle.stop()
            self._idle.check_log()
            self._end(self._idle)

    @contextmanager
    def lend(self) -> Iterator[Server]:
        """Have a test use the server for the block; fails when it left something behind or unexpected in the log."""
        server, self._idle = self._idle, None
        if server is None:
            server = self._prepare()
        try:
            if server.process is None:
                server.start()
            else:
                server.api.create({"name": "main"})
            yield server
            if server.is_as_usual and server.is_running():
                self._clear(server)
                self._idle = server
            else:
                server.stop()
                server.check_log()
        finally:
            if self._idle is None:
                self._end(server)

    def _prepare(self) -> Server:
        server = Server(prepare_home(make_folder(), self._templates))
        server.env |= self._env
        return server

    def _clear(self, server: Server) -> None:
        for cluster in server.api.clusters():
            server.api.delete(cluster["name"])
        server.check_log()
        clusters = server.home / "clusters"
        wait_until(lambda: not processes_below(clusters), "no engine is left", 15)
        assert list(clusters.iterdir()) == []
        server.begin_events()

    def _end(self, server: Server) -> None:
        end(server)
        remove_when_left(server.home.parent)
