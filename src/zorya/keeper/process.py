"""The keeper: `python -m zorya.keeper.process RUN_FOLDER KEEP_S`.

It serves one server at a time; another that connects waits until the first has ended. When the server ends, however it
does, the guarded engines are thawed at once. The sockets are held for `keep_s` more seconds, or until a server comes,
which gets them back. Then, or when dismissed, or on SIGTERM, it closes all, removes its own socket and ends.

It has to stay small and to start quickly, so it imports little and has no event loop.
"""

import contextlib
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from zorya.compute import freezer
from zorya.core import errors
from zorya.keeper import wire

GREETING_S = 1.0
"""How long one that connects may take to say that it is a server. Nobody is served meanwhile, and nothing is frozen."""

HANDING_BACK_S = 5.0
"""How long a server may take to read what it gets back."""

FIRST_SERVER_S = 10.0
"""How long a new keeper waits for its first server at least."""

BACKLOG = 16
"""Connections that wait while a server is served."""

MAX_UNREAD = 10_000
"""Messages read at the end; a connection's buffer holds fewer."""

_SPARE_DESCRIPTORS = 300
"""What held sockets leave free of the process's descriptors: one packet of them, and its own."""


class KeeperProcess:
    """All that a keeper has. `run` does everything, in one thread."""

    def __init__(self, run: Path, keep_s: float) -> None:
        """Listen in `run`. Raises OSError."""
        self._path = run / wire.SOCKET
        self._keep_s = keep_s
        self._held: dict[int, Sequence[int]] = {}
        self._room = _raise_descriptor_limit() - _SPARE_DESCRIPTORS
        self._guarded: dict[str, freezer.Freezer] = {}
        self._server: socket.socket | None = None
        self._has_complained = False
        self._has_ended = False
        self._until_s: float | None = time.monotonic() + max(keep_s, FIRST_SERVER_S)
        self._selector = selectors.DefaultSelector()
        self._listener = _listen(self._path)
        self._inode = self._path.stat().st_ino
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def run(self, signals: socket.socket) -> None:
        """Serve until dismissed, until no server came in time, or until `signals` can be read."""
        self._selector.register(signals, selectors.EVENT_READ, self._end)
        while not self._has_ended:
            left_s = None if self._until_s is None else max(0.0, self._until_s - time.monotonic())
            for key, _ in self._selector.select(left_s):
                key.data()
            if self._until_s is not None and time.monotonic() >= self._until_s:
                _say("No server came in time.")
                self._end()
        self._close()

    def _end(self) -> None:
        self._has_ended = True

    def _close(self) -> None:
        # An engine may be frozen as soon as the server has sent that it is to be guarded.
        for _ in range(MAX_UNREAD):
            if not self._read():
                break
        self._thaw()
        for port in list(self._held):
            self._let_go(port)
        # In this order: whoever is cut off by the closing finds neither a socket nor a port that is still taken. The
        # file may be another keeper's by now.
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            _say(f"Accepting failed: {error}.")
            return
        try:
            greeting = _read_greeting(connection)
            self._hand_back(connection)
        except (OSError, errors.ProtocolViolation) as error:
            _say(f"One that connected is no server: {error}")
            connection.close()
            return
        self._serve(connection, greeting)

    def _hand_back(self, connection: socket.socket) -> None:
        deadline_s = time.monotonic() + HANDING_BACK_S
        for port, descriptors in self._held.items():
            connection.settimeout(max(0.001, deadline_s - time.monotonic()))
            wire.send(connection, wire.Keep(port=port), descriptors)
        wire.send(connection, wire.All())

    def _serve(self, connection: socket.socket, greeting: wire.Serve) -> None:
        connection.settimeout(0)
        self._server = connection
        self._has_complained = False
        self._keep_s = greeting.keep_s
        self._until_s = None
        self._selector.unregister(self._listener)
        self._selector.register(connection, selectors.EVENT_READ, self._read)

    def _read(self) -> bool:
        """Do what the next message says; answer False when there is none now."""
        if self._server is None:
            return False
        try:
            received = wire.receive(self._server)
        except errors.ProtocolViolation as error:
            self._complain(str(error))
            return True
        except ConnectionResetError:
            # Told once and before the packets that came earlier; the end follows them.
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            _say(f"Reading failed: {error}.")
            received = None
        if received is None:
            self._lose_server()
            return False
        self._obey(*received)
        return True

    def _obey(self, message: wire.Message, descriptors: Sequence[int]) -> None:
        match message:
            case wire.Keep(port=port):
                self._keep(port, descriptors)
            case wire.LetGo(port=port):
                self._let_go(port)
            case wire.Guard(name=name):
                self._guarded[name] = message.freezer
            case wire.Forget(name=name):
                self._guarded.pop(name, None)
            case wire.Serve(keep_s=keep_s):
                self._keep_s = keep_s
            case wire.Dismiss():
                self._end()
            case wire.All():
                self._complain("A server sent what only a keeper sends.")

    def _keep(self, port: int, descriptors: Sequence[int]) -> None:
        self._let_go(port)
        if sum(map(len, self._held.values())) + len(descriptors) > self._room:
            wire.close(descriptors)
            self._complain(f"Port {port} cannot be held: the process may not have more descriptors.")
        else:
            self._held[port] = descriptors

    def _let_go(self, port: int) -> None:
        wire.close(self._held.pop(port, ()))

    def _lose_server(self) -> None:
        self._thaw()
        assert self._server is not None
        self._selector.unregister(self._server)
        self._server.close()
        self._server = None
        self._until_s = time.monotonic() + self._keep_s
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        _say(f"The server has ended; {len(self._held)} ports are held for {self._keep_s:g} s.")

    def _thaw(self) -> None:
        for guarded in self._guarded.values():
            freezer.thaw(guarded)
        if self._guarded:
            _say(f"Engines that run again: {', '.join(self._guarded)}.")
        self._guarded.clear()

    def _complain(self, text: str) -> None:
        """Say what is wrong with the server's messages, once, so that it cannot fill the log."""
        if not self._has_complained:
            self._has_complained = True
            _say(f"{text} What follows of this kind is not logged.")


def _read_greeting(connection: socket.socket) -> wire.Serve:
    connection.settimeout(GREETING_S)
    _, uid = wire.read_peer(connection)
    if uid != os.geteuid():
        raise errors.ProtocolViolation(f"User {uid} may not use this keeper.")
    match wire.receive(connection):
        case (wire.Serve() as greeting, _):
            return greeting
        case (_, descriptors):
            wire.close(descriptors)
    raise errors.ProtocolViolation("It did not say so.")


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.settimeout(0)
    listener.listen(BACKLOG)
    return listener


def _raise_descriptor_limit() -> int:
    """Allow as many descriptors as this process may allow itself; answer how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


def _say(text: str) -> None:
    # A full disk must not end the keeper.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
        sys.stderr.flush()


def _watch_signals() -> socket.socket:
    """Ignore SIGINT; answer a socket that can be read after SIGTERM."""
    reader, writer = socket.socketpair()
    writer.settimeout(0)
    signal.set_wakeup_fd(writer.detach())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    return reader


def main(run: str, keep_s: str) -> None:
    """Be a keeper until its end."""
    with _watch_signals() as signals:
        KeeperProcess(Path(run), float(keep_s)).run(signals)


if __name__ == "__main__":
    main(*sys.argv[1:])
