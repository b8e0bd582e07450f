"""Processes that have Zorya imported already: to import it takes a server most of the time until it is up.

`start` has a process of its own, that has done nothing but import, fork another, which then does what
`python -m zorya` does. So each is a process like any other, except that its parent is not the one that started it.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

_MESSAGE_BYTES = 64 * 1024


class Process:
    """One such process, to be used as subprocess.Popen is."""

    def __init__(self, parent: "_Parent", pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent
        self._pidfd = pidfd
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Answer its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._code_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended. Raises subprocess.TimeoutExpired."""
        code = self._code_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("zorya", timeout or 0)
        return code

    def _code_within(self, timeout_s: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                end = select.poll()
                end.register(self._pidfd, select.POLLIN)
                if end.poll(None if timeout_s is None else 1000 * timeout_s):
                    self.returncode = self._parent.code_of(self.pid)
                    os.close(self._pidfd)
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def start(words: Sequence[str], *, env: Mapping[str, str], log: BinaryIO) -> Process:
    """Run the `zorya` command with these words in a new process and session; it writes to `log`."""
    return _parent().fork(words, env, log)


class _Parent:
    """The process that forks them. It ends with the one that has started it; those that it forked do not."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONWARNINGS": "error"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._lock = threading.Lock()
        self._codes: dict[int, int] = {}
        atexit.register(self.end)

    def end(self) -> None:
        self._socket.close()
        self._process.wait()

    def fork(self, words: Sequence[str], env: Mapping[str, str], log: BinaryIO) -> Process:
        asked = json.dumps({"words": list(words), "env": dict(env)}).encode()
        assert len(asked) < _MESSAGE_BYTES
        with self._lock:
            socket.send_fds(self._socket, [asked], [log.fileno()])
            while True:
                said, descriptors, _, _ = socket.recv_fds(self._socket, _MESSAGE_BYTES, 1)
                if descriptors:
                    return Process(self, json.loads(said)["pid"], descriptors[0])
                self._note(said)

    def code_of(self, pid: int) -> int:
        """Answer the exit code of a process that has ended, which is told a moment later."""
        with self._lock:
            while pid not in self._codes:
                self._note(self._socket.recv(_MESSAGE_BYTES))
            return self._codes.pop(pid)

    def _note(self, said: bytes) -> None:
        assert said, "the process that forks servers has ended"
        told = json.loads(said)
        self._codes[told["ended"]] = told["code"]


@functools.cache
def _parent() -> _Parent:
    return _Parent()


def _serve(link: socket.socket) -> None:
    """Fork on demand, and tell of each that ended; returns in the forked process, with all as it was asked for."""
    wakes, woken = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([link, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_of_the_ended(link)
        if link in ready:
            said, descriptors, _, _ = socket.recv_fds(link, _MESSAGE_BYTES, 1)
            if not said:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (link, wakes, woken):
                    one.close()
                _become(json.loads(said), descriptors[0])
                return
            pidfd = os.pidfd_open(pid)
            socket.send_fds(link, [json.dumps({"pid": pid}).encode()], [pidfd])
            for descriptor in (pidfd, *descriptors):
                os.close(descriptor)


def _tell_of_the_ended(link: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(found[1])
            link.send(json.dumps({"ended": found[0], "code": code}).encode())


def _become(asked: dict[str, Any], log: int) -> None:
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    sys.argv = ["zorya", *asked["words"]]


if __name__ == "__main__":
    # As in the command: see cli/launch.py.
    gc.disable()
    import zorya.server  # noqa: F401
    from zorya.cli import main

    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    gc.enable()
    main.main()
