"""A prologue in native/handoff.c: the engine hears the gateway first, then the client, and each in order."""

import contextlib
import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from native.acceptors import (
    Acceptor,
    Client,
    assert_served,
    connected,
    give,
    has_come,
    is_lost,
    is_waiting,
    prologue,
    read,
    read_to_end,
    send,
)
from waiting import wait_until
from zorya.gateway import handoff

O_CLOEXEC = 0o2000000
"""As /proc shows it (open(2))."""


@pytest.fixture
def kind() -> str:
    """As PostgreSQL: a process for each client."""
    return "forking"


@dataclass(frozen=True, kw_only=True)
class Conducted:
    """A client whose start the gateway conducts, at `near`."""

    client: Client
    near: socket.socket

    def say(self, data: bytes) -> None:
        """Say this to the engine and hear it back, on the prologue alone."""
        self.near.sendall(data)
        assert read(self.near, len(data)) == data

    def finish(self) -> bytes:
        """Leave the client to the engine; answer what the engine had still said."""
        self.near.shutdown(socket.SHUT_WR)
        return read_to_end(self.near)

    def has_heard(self) -> bool:
        """Answer whether the client has been told anything."""
        return has_come(self.client.far)


@contextlib.contextmanager
def conducted(acceptor: Acceptor, *, first: bytes = b"", queued: bytes = b"") -> Iterator[Conducted]:
    """Hand over a client with a prologue. `first` is in the prologue before, `queued` in the client's connection."""
    with connected() as client, prologue() as (near, far):
        near.sendall(first)
        client.far.sendall(queued)
        assert give(client, acceptor.inlet, far)
        client.near.close()
        yield Conducted(client=client, near=near)


def test_engine_hears_the_gateway_first_and_then_the_client(acceptor: Acceptor) -> None:
    with conducted(acceptor, first=b"one ") as start:
        assert read(start.near, 4) == b"one "
        start.say(b"two ")
        start.say(b"three")
        assert not start.has_heard()
        assert start.finish() == b""
        assert_served(start.client.far)


def test_what_the_client_sends_waits_until_the_gateway_has_finished(acceptor: Acceptor) -> None:
    with conducted(acceptor, queued=b"before ") as start:
        start.say(b"the start")
        start.client.far.sendall(b"during")
        start.say(b" goes on")
        assert not start.has_heard()
        assert start.finish() == b""
        assert read(start.client.far, 13) == b"before during"
        assert_served(start.client.far)


def test_all_that_the_gateway_sent_is_read_before_the_client(acceptor: Acceptor) -> None:
    with connected() as client, prologue() as (near, far):
        client.far.sendall(b"the client")
        near.sendall(b"the gateway")
        near.shutdown(socket.SHUT_WR)
        assert give(client, acceptor.inlet, far)
        client.near.close()
        assert read_to_end(near) == b"the gateway"
        assert read(client.far, 10) == b"the client"


def test_client_is_served_at_once_when_the_gateway_has_nothing_to_say(acceptor: Acceptor) -> None:
    with conducted(acceptor) as start:
        start.near.shutdown(socket.SHUT_WR)
        assert_served(start.client.far)


def test_bytes_arrive_in_order_when_they_are_more_than_the_pair_holds(acceptor: Acceptor) -> None:
    words = os.urandom(5_000_000)
    with conducted(acceptor, queued=b"the client") as start:
        sender = threading.Thread(target=start.near.sendall, args=[words])
        sender.start()
        try:
            # Not read before both directions are full: the engine has to wait in send().
            wait_until(lambda: is_full(start.near) and is_waiting(acceptor.servant()), "the engine waits")
            assert read(start.near, len(words)) == words
        finally:
            start.near.shutdown(socket.SHUT_WR)
            sender.join()
        assert read(start.client.far, 10) == b"the client"
        assert_served(start.client.far)


def is_full(sock: socket.socket) -> bool:
    return not select.select([], [sock], [], 0)[1]


def test_engine_is_not_held_up_when_it_only_looks(acceptor: Acceptor) -> None:
    with conducted(acceptor, queued=b"the client") as start:
        wait_until(lambda: acceptor.said("looked"), "the engine has looked")
        assert acceptor.said("looked") == [[str(errno.EAGAIN), str(errno.EAGAIN)]]
        start.say(b"the gateway")


def test_engine_sees_what_is_there_when_it_only_looks(acceptor: Acceptor) -> None:
    with conducted(acceptor, first=b"the gateway", queued=b"the client") as start:
        assert read(start.near, 11) == b"the gateway"
        assert acceptor.said("looked") == [["0", "0"]]


def test_engine_looks_at_the_client_when_the_gateway_has_finished_before(acceptor: Acceptor) -> None:
    with connected() as client, prologue() as (near, far):
        client.far.sendall(b"the client")
        near.shutdown(socket.SHUT_WR)
        assert give(client, acceptor.inlet, far)
        assert read(client.far, 10) == b"the client"
        assert acceptor.said("looked") == [["0", "0"]]


def interrupt_until_said(acceptor: Acceptor, pid: int) -> list[str]:
    def interrupted() -> list[list[str]]:
        os.kill(pid, signal.SIGUSR1)
        return acceptor.said("interrupted")

    return wait_until(interrupted, "the engine's wait was interrupted")[0]


def test_signal_interrupts_the_engine_when_it_waits_for_the_gateway(acceptor: Acceptor) -> None:
    with conducted(acceptor) as start:
        assert interrupt_until_said(acceptor, acceptor.servant()) == [str(errno.EAGAIN)]
        start.say(b"the gateway")
        assert start.finish() == b""
        assert_served(start.client.far)


def test_gateway_sees_the_end_when_the_engines_process_ends(acceptor: Acceptor) -> None:
    with conducted(acceptor) as start:
        start.say(b"the gateway")
        os.kill(acceptor.servant(), signal.SIGKILL)
        # No other process has the prologue: not the one that accepted.
        assert read_to_end(start.near) == b""
        assert is_lost(start.client.far)


def test_engine_loses_the_client_when_the_gateway_ends_with_nothing_unread(acceptor: Acceptor) -> None:
    with conducted(acceptor, queued=b"the client") as start:
        start.say(b"the gateway")
        start.near.close()
        # Nobody knows how far the start had come, and the client would wait for ever for what is missing.
        assert is_lost(start.client.far)
        assert acceptor.said("closed") == [[str(errno.ECONNRESET)]]


def test_engine_loses_the_client_when_the_gateway_ends_without_reading(acceptor: Acceptor) -> None:
    with conducted(acceptor, first=b"unread", queued=b"the client") as start:
        wait_until(lambda: has_come(start.near), "the engine has answered")
        start.near.close()
        # What is missing must not be missed in the middle of what the client gets.
        assert is_lost(start.client.far)
        assert acceptor.said("closed") == [[str(errno.ECONNRESET)]]


def test_engine_loses_the_client_when_it_sends_to_a_gateway_that_has_ended(acceptor: Acceptor) -> None:
    with connected() as client, prologue() as (near, far):
        near.sendall(b"words")
        near.close()
        assert give(client, acceptor.inlet, far)
        client.near.close()
        assert is_lost(client.far)
        assert acceptor.said("closed") == [[str(errno.EPIPE)]]


def test_no_program_inherits_the_prologue(acceptor: Acceptor) -> None:
    with connected() as client, prologue() as (near, far):
        name = f"socket:[{os.fstat(far.fileno()).st_ino}]"
        near.sendall(b"words")
        assert give(client, acceptor.inlet, far)
        assert read(near, 5) == b"words"
        process = Path(f"/proc/{acceptor.servant()}")
        found = [int(one.name) for one in (process / "fd").iterdir() if str(one.readlink()) == name]
        assert len(found) == 1
        flags = (process / "fdinfo" / str(found[0])).read_text().split("flags:")[1].split()[0]
        assert int(flags, 8) & O_CLOEXEC


def test_nothing_is_left_in_the_first_process_when_many_clients_have_had_a_prologue(acceptor: Acceptor) -> None:
    before = acceptor.descriptors()
    for number in range(200):
        with conducted(acceptor, queued=b"the client") as start:
            start.say(b"the gateway")
            if number % 2:
                assert start.finish() == b""
                assert read(start.client.far, 10) == b"the client"
    acceptor.assert_descriptors(before)
    assert acceptor.said("failed") == []


def test_clients_with_and_without_a_prologue_are_served_side_by_side(acceptor: Acceptor) -> None:
    with conducted(acceptor) as one, conducted(acceptor) as other, connected() as plain:
        assert give(plain, acceptor.inlet)
        plain.near.close()
        for _ in range(3):
            one.say(b"one")
            other.say(b"other")
            assert_served(plain.far)
        assert one.finish() == b""
        assert_served(one.client.far)
        other.say(b"other")
        assert other.finish() == b""
        assert_served(other.client.far)


class TestOneProcess:
    """Servers that serve all clients in one process: one prologue at a time, and none of the others is touched."""

    @pytest.fixture(params=["postgres", "mariadb"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def start(self, acceptor: Acceptor) -> Iterator[Conducted]:
        # They wait for the client: it has to say something first.
        with conducted(acceptor, first=b"the gateway", queued=b"the client") as start:
            assert read(start.near, 11) == b"the gateway"
            yield start

    def test_second_prologue_is_refused_when_there_is_one(self, acceptor: Acceptor, start: Conducted) -> None:
        # The process waits for more words of the first, and accepts between two of them.
        interrupt_until_said(acceptor, acceptor.process.pid)
        with connected() as client, prologue() as (near, far), prologue() as (ours, theirs):
            send(acceptor.inlet, handoff.pack(client.peer), [client.near.fileno(), theirs.fileno(), far.fileno()])
            theirs.close()
            far.close()
            start.near.sendall(b"more")
            assert read_to_end(ours) == b""
            assert read_to_end(near) == b""
        assert read(start.near, 4) == b"more"
        assert start.finish() == b""
        assert read(start.client.far, 10) == b"the client"

    @pytest.mark.usefixtures("start")
    def test_signal_is_told_as_for_a_connection_that_blocks(self, acceptor: Acceptor) -> None:
        assert interrupt_until_said(acceptor, acceptor.process.pid) == [str(errno.EINTR)]

    def test_prologue_is_closed_with_its_client(self, acceptor: Acceptor) -> None:
        before = acceptor.descriptors()
        with conducted(acceptor, first=b"unread", queued=b"the client") as start:
            wait_until(lambda: has_come(start.near), "the engine has answered")
            start.near.close()
            assert is_lost(start.client.far)
        acceptor.assert_descriptors(before)
        with conducted(acceptor, first=b"the gateway", queued=b"the client") as start:
            assert read(start.near, 11) == b"the gateway"
            assert start.finish() == b""
            assert read(start.client.far, 10) == b"the client"
        acceptor.assert_descriptors(before)
