"""Servers that have native/handoff.c in them (acceptor.c), and clients to hand over to them."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from waiting import wait_until
from zorya.core.account import Account
from zorya.gateway import handoff

KINDS = ("postgres", "mariadb")
"""Those that serve all clients in one process."""
PATIENCE_S = 20.0
MOST_DESCRIPTORS = 128


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client's connection: the near end is the gateway's, the far one the client's own."""

    near: socket.socket
    far: socket.socket
    peer: handoff.Peer

    @property
    def address(self) -> list[str]:
        return [self.peer[0], str(self.peer[1])]


@contextlib.contextmanager
def connected(host: str = "127.0.0.1") -> Iterator[Client]:
    """A client that has connected to a gateway, which made the near end non-blocking."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        far = socket.create_connection(listener.getsockname()[:2], timeout=PATIENCE_S)
        near, peer = listener.accept()
    near.setblocking(False)
    with near, far:
        yield Client(near=near, far=far, peer=peer)


def assert_connected(one: socket.socket, other: socket.socket) -> None:
    """Both ends are there, and nothing else has been sent to either."""
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(b"hello")
        receiver.settimeout(PATIENCE_S)
        assert receiver.recv(100) == b"hello"


def assert_served(far: socket.socket) -> None:
    """The acceptor has the other end: it echoes."""
    far.sendall(b"echo")
    assert far.recv(100) == b"echo"


def read(sock: socket.socket, size: int) -> bytes:
    """Answer so many bytes, fewer when the end comes before."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def read_to_end(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


def has_come(sock: socket.socket) -> bool:
    """Answer whether something can be read."""
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        sock.settimeout(PATIENCE_S)


def is_lost(far: socket.socket) -> bool:
    """Wait for the end of a client's connection; answer whether it has ended without another word."""
    with contextlib.suppress(ConnectionResetError):  # something that it had sent was not read
        return not far.recv(1)
    return True


def is_waiting(pid: int) -> bool:
    """Answer whether a process is in poll(), or sleeps at all if the kernel does not tell in what."""
    if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        return False
    place = Path(f"/proc/{pid}/wchan").read_text()
    return place in {"", "0"} or "poll" in place


@dataclass(frozen=True, kw_only=True)
class Acceptor:
    """A running acceptor."""

    process: subprocess.Popen[bytes]
    inlet: Path
    listener: str
    unix: Path
    log: Path

    def said(self, word: str) -> list[list[str]]:
        """Answer the rest of every line so far that begins with `word`."""
        lines = [line.split() for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line[1:] for line in lines if line[0] == word]

    def accepted(self, count: int = 1) -> list[list[str]]:
        """Wait for so many connections and answer what is said about each."""
        wait_until(lambda: len(self.said("accepted")) >= count, f"the acceptor has accepted {count}", PATIENCE_S)
        return self.said("accepted")

    def environment(self) -> dict[str, str]:
        """Answer what a program gets that the acceptor starts."""
        return dict(line[0].split("=", 1) for line in self.said("environment"))

    @property
    def tcp(self) -> tuple[str, int]:
        """The ordinary TCP listener."""
        return "127.0.0.1", int(self.said("ready")[0][0])

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208 - a count of names, nothing more

    def assert_descriptors(self, count: int) -> None:
        wait_until(
            lambda: self.descriptors() == count, f"the acceptor has {count} descriptors, not {self.descriptors()}"
        )

    def servant(self) -> int:
        """Answer the process that serves the client which was accepted last, if the acceptor forks."""
        count = len(self.accepted())
        wait_until(lambda: len(self.said("serving")) == count, "the client is served")
        return int(self.said("serving")[-1][0])

    def stop(self) -> None:
        """Let it do nothing until it is continued."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(self._is_stopped, "the acceptor is stopped")

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _is_stopped(self) -> bool:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@dataclass(frozen=True, kw_only=True)
class Programs:
    """What is needed to run acceptors, where every account can reach it."""

    acceptor: Path
    library: Path


@contextlib.contextmanager
def running(
    programs: Programs, folder: Path, kind: str, account: Account, settings: Mapping[str, str] | None = None
) -> Iterator[Acceptor]:
    """Run an acceptor as `account` in the empty `folder`. `settings` go before those that make a handoff possible."""
    own = folder / "engine"
    own.mkdir(mode=0o700, exist_ok=True)
    if account.is_other:
        os.chown(own, account.uid, account.gid)
    log = folder / "log"
    with contextlib.ExitStack() as stack:
        listener = str(own / "given-up")
        if kind == "mariadb":
            # Bound and never listened on: nobody else gets the port meanwhile, but the acceptor does.
            reservation = stack.enter_context(socket.socket())
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reservation.bind(("127.0.0.1", 0))
            listener = str(reservation.getsockname()[1])
        process = stack.enter_context(
            subprocess.Popen(
                [str(programs.acceptor), kind, listener, str(own / "beside"), str(MOST_DESCRIPTORS)],
                stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(log.open("wb")),
                cwd=folder,
                env={
                    "PATH": "/usr/bin:/bin",
                    "LD_PRELOAD": str(programs.library),
                    "ZORYA_HANDOFF_LISTENER": listener,
                    "ZORYA_HANDOFF_SOCKET": str(own / "inlet"),
                    "ZORYA_HANDOFF_UID": str(os.getuid()),
                    **(settings or {}),
                },
                umask=0,
                **account.switch(),
            )
        )
        stack.callback(process.kill)
        made = Acceptor(process=process, inlet=own / "inlet", listener=listener, unix=own / "beside", log=log)
        wait_until(lambda: made.said("ready") or process.poll() is not None, "the acceptor is ready")
        assert process.poll() is None
        yield made


def send(inlet: Path, data: bytes, given: Sequence[int]) -> None:
    """Send one datagram, waiting for room."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as carrier:
        carrier.settimeout(PATIENCE_S)
        carrier.connect(str(inlet))
        socket.send_fds(carrier, [data], given)


@contextlib.contextmanager
def prologue() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The gateway's end, and the engine's."""
    near, far = socket.socketpair()
    near.settimeout(PATIENCE_S)
    with near, far:
        yield near, far


def give(client: Client, inlet: Path, prologue: socket.socket | None = None) -> bool:
    """Hand a client over as the gateway does, blocking; answer whether the acceptor has taken it.

    The prologue is closed here in any case.
    """
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(PATIENCE_S)
        with theirs:
            given = [client.near, theirs, *([prologue] if prologue else [])]
            send(inlet, handoff.pack(client.peer), [one.fileno() for one in given])
        if prologue:
            prologue.close()
        return ours.recv(1) != b""


def is_full(inlet: Path) -> bool:
    """Try whether the inlet's queue takes no more, by a datagram that means nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as carrier:
        carrier.setblocking(False)
        carrier.connect(str(inlet))
        try:
            carrier.send(b"")
        except BlockingIOError:
            return True
    return False
