"""Watching the sockets of another process, which is a real one that serves real connections."""

import asyncio
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from waiting import wait_until
from zorya.compute import freezer, procfs, vigil
from zorya.compute.freezer import Freezer, Way
from zorya.compute.vigil import Vigil
from zorya.core import errors

CYCLES = 10_000

ECHO = """
import os, selectors, socket, sys
door = socket.create_server(("127.0.0.1", 0))
inlet = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
inlet.bind(sys.argv[1])
print(door.getsockname()[1], flush=True)
watched = selectors.DefaultSelector()
watched.register(door, selectors.EVENT_READ)
outgoing = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
while True:
    for key, _ in watched.select():
        if key.fileobj is door:
            watched.register(door.accept()[0], selectors.EVENT_READ)
        elif data := key.fileobj.recv(65536):
            key.fileobj.sendall(data)
        else:
            watched.unregister(key.fileobj)
            key.fileobj.close()
"""


class Echo:
    """A process with a listening socket, an inlet, clients, and a connection of its own to somebody else."""

    def __init__(self, folder: Path) -> None:
        self.inlet = folder / "inlet"
        self.elsewhere = socket.create_server(("127.0.0.1", 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", ECHO, str(self.inlet), str(self.elsewhere.getsockname()[1])], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.process.stdout.close()
        self.other_end, _ = self.elsewhere.accept()
        identity = procfs.read_identity(self.process.pid)
        assert identity is not None
        self.freezer = Freezer(way=Way.SIGNALS, folder="", pid=identity.pid, start_ticks=identity.start_ticks)

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        return client

    def take(self) -> Vigil:
        return Vigil.take({self.process.pid}, first=self.process.pid, ports={self.port})

    def freeze(self) -> None:
        freezer.begin(self.freezer)
        wait_until(lambda: freezer.is_complete(self.freezer), "it is frozen")

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.elsewhere.close()
        self.other_end.close()


@pytest.fixture
def echo(new_folder: Callable[[], Path]) -> Iterator[Echo]:
    made = Echo(new_folder())
    yield made
    made.end()


@contextmanager
def watched(echo: Echo) -> Iterator[Vigil]:
    """Take its sockets and freeze it."""
    taken = echo.take()
    try:
        echo.freeze()
        yield taken
    finally:
        freezer.thaw(echo.freezer)
        taken.close()


async def stirred_by(taken: Vigil, action: Callable[[], object]) -> str:
    """Answer what the watcher is told once `action` is done."""
    told = asyncio.get_running_loop().create_future()
    taken.watch(told.set_result)
    action()
    return await asyncio.wait_for(told, 20)


def test_clients_are_watched_and_nothing_else(echo: Echo) -> None:
    with echo.connect(), echo.connect(), watched(echo) as taken:
        assert taken.sessions == 2
        assert taken.what_came({echo.process.pid}) == ""


async def test_byte_of_a_client_stirs(echo: Echo) -> None:
    with echo.connect() as client, watched(echo) as taken:
        assert await stirred_by(taken, lambda: client.send(b"x")) == vigil.SPOKE


@pytest.mark.parametrize("reset", [False, True])
async def test_leaving_client_stirs(echo: Echo, reset: bool) -> None:
    with echo.connect() as client, watched(echo) as taken:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert await stirred_by(taken, client.close) == vigil.LEFT


async def test_new_connection_stirs(echo: Echo) -> None:
    with watched(echo) as taken, socket.socket() as newcomer:
        address = ("127.0.0.1", echo.port)
        assert await stirred_by(taken, lambda: newcomer.connect(address)) == vigil.CONNECTED


async def test_datagram_at_the_inlet_stirs(echo: Echo) -> None:
    with watched(echo) as taken, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        assert await stirred_by(taken, lambda: sender.sendto(b"x", str(echo.inlet))) == vigil.CONNECTED


def test_what_came_between_taking_and_freezing_is_noticed(echo: Echo) -> None:
    with echo.connect() as client:
        taken = echo.take()
        client.send(b"x")
        assert client.recv(1) == b"x"  # read and answered: only the counter tells
        echo.freeze()
        assert taken.what_came({echo.process.pid}) == vigil.SPOKE
        taken.close()


def test_what_is_still_unread_is_noticed(echo: Echo) -> None:
    with echo.connect() as client, watched(echo) as taken:
        client.send(b"x")
        wait_until(lambda: taken.what_came({echo.process.pid}) == vigil.SPOKE, "the byte has arrived")


def notices_something_unread(echo: Echo) -> bool:
    taken = echo.take()
    try:
        return taken.what_came({echo.process.pid}) == vigil.SPOKE
    finally:
        taken.close()


def test_what_was_unread_when_the_sockets_were_taken_is_noticed(echo: Echo) -> None:
    with echo.connect() as client:
        echo.freeze()
        client.send(b"x")
        wait_until(lambda: notices_something_unread(echo), "the byte has arrived")


def test_connection_that_was_accepted_meanwhile_is_noticed(echo: Echo) -> None:
    taken = echo.take()
    with echo.connect():
        echo.freeze()
        assert taken.what_came({echo.process.pid}) == vigil.CONNECTED
    taken.close()


def test_process_that_came_or_went_is_noticed(echo: Echo) -> None:
    with watched(echo) as taken:
        assert taken.what_came({echo.process.pid, os.getpid()}) == "A process began or ended."
        assert taken.what_came(set()) == "A process began or ended."


def test_client_learns_at_once_that_its_session_is_over_when_the_duplicates_are_given_back(echo: Echo) -> None:
    with echo.connect() as client:
        with watched(echo):
            client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_sockets_of_a_process_that_has_ended_are_none(echo: Echo) -> None:
    echo.process.kill()
    echo.process.wait()
    taken = echo.take()
    assert taken.sessions == 0
    taken.close()


def test_nothing_is_kept_when_descriptors_run_out(echo: Echo) -> None:
    clients = [echo.connect() for _ in range(20)]
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(client.fileno() for client in clients)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, hard))
    try:
        with pytest.raises(errors.FreezeFailed, match="Too many open files"):
            echo.take()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
    for client in clients:
        client.close()


async def test_no_descriptor_is_lost_over_ten_thousand_sleeps(echo: Echo) -> None:
    def stir(_why: str) -> None:
        raise AssertionError("nobody came")

    clients = [echo.connect() for _ in range(3)]
    before = (sum(1 for _ in Path("/proc/self/fd").iterdir()), echo.descriptors())
    for _ in range(CYCLES):
        taken = echo.take()
        assert taken.sessions == 3
        taken.watch(stir)
        taken.close()
    assert (sum(1 for _ in Path("/proc/self/fd").iterdir()), echo.descriptors()) == before
    for client in clients:
        client.close()
