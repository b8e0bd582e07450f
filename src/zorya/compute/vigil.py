"""Watching over the sockets of a frozen engine, so that whoever speaks to it wakes it.

Duplicates of its sockets are taken with pidfd_getfd(2) just before the freeze and closed at the thaw, so that the
engine alone owns its sockets while it runs. With counters that are read before the engine is asked what it does and
again after the freeze, it is certain that no byte slipped in between: see `Vigil.what_came`.
"""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import select
import socket
import struct
import termios
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from zorya.compute import procfs
from zorya.core import errors

_PROC = Path("/proc")
_PIDFD_GETFD = 438
_LIBC = ctypes.CDLL(None, use_errno=True)

_TCP_INFO_BYTES = 136
_BYTES_RECEIVED = struct.Struct("=128xQ")
"""tcpi_bytes_received in struct tcp_info (linux/tcp.h, since Linux 4.1)."""

SPARE_DESCRIPTORS = 16
"""How many descriptors are left, at least, for the clients and requests that come meanwhile; a twentieth of many."""

SPOKE = "A client sent something."
LEFT = "A client closed its connection."
CONNECTED = "A client connected."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Client:
    """A session's socket, and how many bytes had come in when it was taken."""

    sock: socket.socket
    received: int


class Vigil:
    """The duplicates of one engine's sockets. Close it, whatever happens."""

    def __init__(self) -> None:
        """Use `take`."""
        self._pids: frozenset[int] = frozenset()
        self._first = 0
        self._first_sockets: frozenset[int] = frozenset()
        self._clients: dict[int, _Client] = {}
        self._doors: dict[int, socket.socket] = {}
        """Sockets at which newcomers arrive: the engine's listening ones and its inlet."""
        self._unread = False
        self._room = 0
        """How many sockets may still be taken."""
        self._epoll: select.epoll | None = None

    @classmethod
    def take(cls, pids: Collection[int], *, first: int, ports: Collection[int]) -> "Vigil":
        """Take the sockets of the processes `pids`, of which `first` is the first. Blocking, some ms for many.

        A connection is a client's when its own end is at one of `ports`. Raises FreezeFailed where the kernel does not
        give sockets away or no descriptor is left; then nothing is kept.
        """
        vigil = cls()
        vigil._pids = frozenset(pids)
        vigil._first = first
        try:
            vigil._room = _free_descriptors()
            for pid in pids:
                vigil._take_from(pid, ports)
            vigil._first_sockets = frozenset(inode for _, inode in _sockets_of(first))
        except OSError as error:
            vigil.close()
            raise errors.FreezeFailed(
                f"The sockets of its sessions cannot be watched: {error.strerror}.", hint=_advice(error)
            ) from error
        return vigil

    @property
    def sessions(self) -> int:
        """How many clients' connections are watched."""
        return len(self._clients)

    def what_came(self, pids: Collection[int]) -> str:
        """Answer, of the frozen engine whose processes are `pids` now, what came since `take`; empty if nothing did.

        The engine was asked in between and every session was waiting for its client. A session that has read all that
        had come, that waits, and to which nothing came has nothing to do, so none was frozen within a statement.
        """
        if frozenset(pids) != self._pids:
            return "A process began or ended."
        if frozenset(inode for _, inode in _sockets_of(self._first)) != self._first_sockets:
            return CONNECTED
        if self._unread or any(_has_news(client) for client in self._clients.values()):
            return SPOKE
        return ""

    def watch(self, stirred: Callable[[str], None]) -> None:
        """Call `stirred` once, with a sentence that says why, when a client speaks, leaves or arrives."""
        self._epoll = select.epoll()
        for number in (*self._clients, *self._doors):
            self._epoll.register(number, select.EPOLLIN | select.EPOLLRDHUP)
        asyncio.get_running_loop().add_reader(self._epoll, self._look, stirred)

    def close(self) -> None:
        """Give the sockets back: the engine alone has them then. Idempotent."""
        self._end_watch()
        for client in self._clients.values():
            client.sock.close()
        for sock in self._doors.values():
            sock.close()
        self._clients.clear()
        self._doors.clear()

    def _look(self, stirred: Callable[[str], None]) -> None:
        assert self._epoll is not None
        ready = self._epoll.poll(0, maxevents=1)
        if not ready:
            return
        self._end_watch()
        number, events = ready[0]
        if number in self._doors:
            stirred(CONNECTED)
        else:
            stirred(LEFT if events & ~select.EPOLLIN else SPOKE)

    def _end_watch(self) -> None:
        epoll, self._epoll = self._epoll, None
        if epoll is not None:
            asyncio.get_running_loop().remove_reader(epoll)
            epoll.close()

    def _take_from(self, pid: int, ports: Collection[int]) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return  # `what_came` notices that it is gone
        try:
            self._take_all(pid, pidfd, ports)
        except PermissionError:
            # Of a process that is just ending the kernel shows nothing any more; `what_came` notices its end.
            if procfs.has_memory(pid):
                raise
        finally:
            os.close(pidfd)

    def _take_all(self, pid: int, pidfd: int, ports: Collection[int]) -> None:
        for number, _ in _sockets_of(pid):
            with contextlib.suppress(ProcessLookupError, _Closed), contextlib.ExitStack() as given:
                sock = given.enter_context(_duplicate(pidfd, number))
                if self._keep(sock, ports):
                    given.pop_all()
                    self._room -= 1
                if self._room < 0:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def _keep(self, sock: socket.socket, ports: Collection[int]) -> bool:
        """Keep the socket if it is one to be watched; answer whether it is."""
        if _is_door(sock):
            self._doors[sock.fileno()] = sock
        elif _is_client(sock, ports):
            self._clients[sock.fileno()] = _Client(sock=sock, received=_received(sock))
            self._unread = self._unread or _unread(sock) > 0
        else:
            return False
        return True


class _Closed(OSError):
    """The process has closed the descriptor meanwhile."""


def can_take() -> str:
    """Try it on this process: answer why sockets cannot be taken, empty if they can."""
    with socket.socket() as own:
        pidfd = os.pidfd_open(os.getpid())
        try:
            _duplicate(pidfd, own.fileno()).close()
        except OSError as error:
            return str(error.strerror)
        finally:
            os.close(pidfd)
    return ""


def _duplicate(pidfd: int, number: int) -> socket.socket:
    """Answer a duplicate of a socket of another process. Never changes its flags, which the processes share."""
    made = _LIBC.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if made < 0:
        code = ctypes.get_errno()
        if code == errno.EBADF:
            raise _Closed
        raise OSError(code, os.strerror(code))
    return socket.socket(fileno=made)


def _free_descriptors() -> int:
    """Answer how many descriptors may be taken without leaving too few for everything else; negative if none."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = sum(1 for _ in (_PROC / "self/fd").iterdir())
    return limit - used - max(SPARE_DESCRIPTORS, limit // 20)


def _sockets_of(pid: int) -> Iterator[tuple[int, int]]:
    """Answer the numbers and inodes of a process's sockets. Raises PermissionError."""
    # os and not pathlib: a hundred sessions have thousands of descriptors, and this is on the way of each freeze.
    folder = f"/proc/{pid}/fd"
    try:
        entries = os.listdir(folder)  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError):
        return
    for entry in entries:
        try:
            target = os.readlink(f"{folder}/{entry}")  # noqa: PTH115
        except (FileNotFoundError, ProcessLookupError):
            continue
        if target.startswith("socket:["):
            yield int(entry), int(target[8:-1])


def _is_door(sock: socket.socket) -> bool:
    if sock.type == socket.SOCK_STREAM:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_DGRAM and bool(sock.getsockname())


def _is_client(sock: socket.socket, ports: Collection[int]) -> bool:
    is_tcp = sock.family in {socket.AF_INET, socket.AF_INET6} and sock.type == socket.SOCK_STREAM
    return is_tcp and sock.getsockname()[1] in ports


def _received(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    count: int = _BYTES_RECEIVED.unpack_from(info)[0]
    return count


def _unread(sock: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), "little")


def _has_news(client: _Client) -> bool:
    return _received(client.sock) != client.received or _unread(client.sock) > 0


def _advice(error: OSError) -> str:
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return "Raise the limit of open files."
    if error.errno in {errno.EPERM, errno.EACCES}:
        return "The kernel allows it to root and, with kernel.yama.ptrace_scope = 0, to the engines' own user."
    return ""
