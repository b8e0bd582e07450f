"""A server's link to its keeper: to the one that lives, or to one that is started. Everything here blocks, briefly.

Whether there is a keeper is told by its socket. One that answers nothing is left alone: it may be another server's, and
if it hangs, a second could not have its ports anyway.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zorya.core import errors
from zorya.keeper import wire

JOIN_S = 10.0
"""How long joining may take, with the start of a new keeper."""

_LOOK_AGAIN_S = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A connection to a keeper, non-blocking, and what tells that the keeper's process has ended."""

    connection: socket.socket
    pid: int
    pidfd: int

    def send(self, message: wire.Message, descriptors: Sequence[int], *, within_s: float) -> None:
        """Send at once, or else when the keeper has read enough. Raises OSError, also when that takes too long."""
        try:
            wire.send(self.connection, message, descriptors)
        except BlockingIOError:
            room = select.poll()
            room.register(self.connection, select.POLLOUT)
            room.poll(within_s * 1000)
            wire.send(self.connection, message, descriptors)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the keeper has ended, and take its exit status if this process has started it."""
        ended = select.poll()
        ended.register(self.pidfd, select.POLLIN)
        if not ended.poll(timeout_s * 1000):
            return False
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        return True

    def kill(self) -> None:
        """End the keeper by force. Nothing is thawed."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the keeper, to which this looks like the end of the server. Once only."""
        self.connection.close()
        os.close(self.pidfd)


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """A link, and the listening sockets that came over it, by port."""

    link: Link
    held: Mapping[int, Sequence[socket.socket]]


def join(run: Path, *, log: Path, keep_s: float) -> Joined:
    """Link with the keeper whose socket is in `run`, or start one. Raises HostProblem when that takes over JOIN_S."""
    deadline_s = time.monotonic() + JOIN_S
    child: subprocess.Popen[bytes] | None = None
    try:
        while True:
            try:
                joined = _try_join(run, keep_s, deadline_s)
            except (FileNotFoundError, ConnectionRefusedError):
                joined = None
                child = child or _start(run, log, keep_s)
            if joined is not None:
                _disown(child)
                return joined
            _check(child, log, deadline_s)
            time.sleep(_LOOK_AGAIN_S)
    except OSError as error:
        _end(child)
        raise errors.HostProblem(f"The keeper cannot be started: {error}.") from error
    except BaseException:
        _end(child)
        raise


def _try_join(run: Path, keep_s: float, deadline_s: float) -> Joined | None:
    """Answer None when the keeper does not take another connection now, or ends before it has said all.

    Raises FileNotFoundError or ConnectionRefusedError when no keeper listens.
    """
    try:
        connection = wire.connect(run, timeout_s=max(0.001, deadline_s - time.monotonic()))
    except BlockingIOError:
        return None
    with contextlib.ExitStack() as failed:
        failed.callback(connection.close)
        pid, _ = wire.read_peer(connection)
        try:
            # Opened before the keeper is heard, so that it is the keeper's and not a later process's of that number.
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        failed.callback(os.close, pidfd)
        held: dict[int, list[socket.socket]] = {}
        failed.callback(close_all, held)
        try:
            _read_held(connection, keep_s, held)
        except (EOFError, ConnectionError, TimeoutError, errors.ProtocolViolation):
            return None
        failed.pop_all()
    connection.settimeout(0)
    return Joined(link=Link(connection=connection, pid=pid, pidfd=pidfd), held=held)


def _read_held(connection: socket.socket, keep_s: float, held: dict[int, list[socket.socket]]) -> None:
    """Greet, and put what the keeper hands back into `held`. Raises EOFError when it ends before it has said all."""
    wire.send(connection, wire.Serve(keep_s=keep_s))
    while True:
        received = wire.receive(connection)
        if received is None:
            raise EOFError
        message, descriptors = received
        if isinstance(message, wire.All):
            return
        if not isinstance(message, wire.Keep):
            raise errors.ProtocolViolation(f"No keeper says this: {message}.")
        held[message.port] = [_open(descriptor) for descriptor in descriptors]


def _open(descriptor: int) -> socket.socket:
    opened = socket.socket(fileno=descriptor)
    opened.settimeout(0)
    return opened


def close_all(held: Mapping[int, Sequence[socket.socket]]) -> None:
    """Close what is not wanted of the sockets that came back; the keeper has its own."""
    for listeners in held.values():
        for listener in listeners:
            listener.close()


def _start(run: Path, log: Path, keep_s: float) -> subprocess.Popen[bytes]:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "zorya.keeper.process", str(run), str(keep_s)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(output)


def _check(child: subprocess.Popen[bytes] | None, log: Path, deadline_s: float) -> None:
    """Raise HostProblem when there is nothing to wait for any more."""
    if child is not None and child.poll() is not None:
        raise errors.HostProblem(f"The keeper ended at its start with code {child.returncode}; {log} may say why.")
    if time.monotonic() >= deadline_s:
        raise errors.HostProblem(f"The keeper did not answer within {JOIN_S:g} s.")


def _end(child: subprocess.Popen[bytes] | None) -> None:
    if child is not None:
        child.kill()
        child.wait()


def _disown(child: subprocess.Popen[bytes] | None) -> None:
    if child is not None:
        # Popen warns when it is dropped with a live child; here that is the intent. `Link.wait` reaps it.
        child.returncode = 0
