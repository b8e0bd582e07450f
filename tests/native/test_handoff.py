"""native/handoff.c in servers that wait and accept as PostgreSQL and MariaDB do."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from native.acceptors import (
    MOST_DESCRIPTORS,
    Acceptor,
    assert_connected,
    assert_served,
    connected,
    give,
    is_full,
    prologue,
    send,
)
from native.conftest import Run
from waiting import wait_until
from zorya.core.account import Account
from zorya.gateway import handoff


def connect_to_listener(acceptor: Acceptor) -> socket.socket:
    """Connect to the socket that an acceptor gives up where it can be handed clients."""
    of_tcp = acceptor.listener.isdecimal()
    client = socket.socket(socket.AF_INET if of_tcp else socket.AF_UNIX)
    client.settimeout(20)
    try:
        if of_tcp:
            client.connect(("127.0.0.1", int(acceptor.listener)))
        else:
            client.connect(acceptor.listener)
    except OSError:
        client.close()
        raise
    return client


@pytest.mark.parametrize("host", ["127.0.0.1", "127.12.0.99", "::1"])
def test_client_comes_with_its_own_address_when_it_is_handed_over(acceptor: Acceptor, kind: str, host: str) -> None:
    with connected(host) as client:
        assert give(client, acceptor.inlet)
        client.near.close()
        assert_served(client.far)
        ((via, *address, blocking, inherited, raw, real),) = acceptor.accepted()
    assert (via, address) == ("given", client.address)
    # As from the calls that the two make: accept, and accept4 with SOCK_CLOEXEC.
    assert (blocking, inherited) == ("blocking", "cloexec" if kind == "mariadb" else "inherited")
    assert raw == real == handoff.pack(client.peer).hex()


def test_clients_are_served_side_by_side_and_let_go_when_they_leave(acceptor: Acceptor) -> None:
    before = acceptor.descriptors()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected()) for _ in range(50)]
        for client in clients:
            assert give(client, acceptor.inlet)
            client.near.close()
        for client in clients:
            assert_served(client.far)
        assert [line[1:3] for line in acceptor.accepted(50)] == [client.address for client in clients]
    acceptor.assert_descriptors(before)


def test_other_listening_sockets_are_left_alone(acceptor: Acceptor) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(acceptor.unix))
        assert_served(client)
        assert acceptor.accepted()[0][0] == "unix"
    with socket.create_connection(acceptor.tcp, timeout=20) as client:
        assert_served(client)
        assert acceptor.accepted(2)[1][:3] == ["tcp", "127.0.0.1", str(client.getsockname()[1])]


def test_nobody_listens_at_the_address_that_was_given_up(acceptor: Acceptor) -> None:
    with pytest.raises(ConnectionRefusedError):
        connect_to_listener(acceptor)


def test_accept_fails_as_ever_on_a_datagram_socket_that_is_not_the_inlet(acceptor: Acceptor) -> None:
    assert acceptor.said("unrelated") == [[str(errno.EOPNOTSUPP)]]


def test_programs_that_the_engine_starts_inherit_nothing_of_it(acceptor: Acceptor) -> None:
    assert acceptor.environment().keys() - {"PWD", "SHLVL", "OLDPWD", "_"} == {"PATH"}


def test_only_the_engines_user_and_root_can_reach_the_inlet(acceptor: Acceptor, engine_account: Account) -> None:
    found = acceptor.inlet.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, engine_account.uid)


def test_sender_is_refused_when_it_is_another_user(run: Run) -> None:
    with run({"ZORYA_HANDOFF_UID": str(os.getuid() + 1)}) as acceptor, connected() as client:
        before = acceptor.descriptors()
        assert not give(client, acceptor.inlet)
        assert_connected(client.near, client.far)
        wait_until(lambda: acceptor.said("failed"), "an accept has failed")
        assert acceptor.said("failed") == [[str(errno.ECONNABORTED)]]
        acceptor.assert_descriptors(before)
        assert acceptor.said("accepted") == []


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What wrong datagrams are made of."""

    address: bytes
    client: int
    receipt: int
    prologue: int
    useless_receipts: Sequence[int]
    no_clients: Sequence[int]
    no_prologues: Sequence[int]


@contextlib.contextmanager
def parts() -> Iterator[Parts]:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(connected("::1"))
        _, receipt = map(stack.enter_context, socket.socketpair())
        _, engines_end = stack.enter_context(prologue())
        ours, given_up = map(stack.enter_context, socket.socketpair())
        ours.close()
        _, full = map(stack.enter_context, socket.socketpair())
        full.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                full.send(bytes(4096))
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        stack.callback(os.close, writing)
        folder = os.open("/", os.O_RDONLY)
        stack.callback(os.close, folder)
        path_only = os.open("/etc/passwd", os.O_PATH)
        stack.callback(os.close, path_only)
        file = stack.enter_context(Path("/etc/passwd").open("rb"))
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        packets, _ = map(stack.enter_context, socket.socketpair(type=socket.SOCK_SEQPACKET))
        yield Parts(
            address=handoff.pack(client.peer),
            client=client.near.fileno(),
            receipt=receipt.fileno(),
            useless_receipts=[given_up.fileno(), full.fileno(), reading, writing, folder, path_only, file.fileno()],
            prologue=engines_end.fileno(),
            no_clients=[receipt.fileno(), datagrams.fileno(), reading, writing, folder, path_only, file.fileno()],
            no_prologues=[
                *(client.near.fileno(), datagrams.fileno(), packets.fileno()),
                *(reading, writing, folder, path_only, file.fileno()),
            ],
        )


Datagram = tuple[bytes, Sequence[int]]
Wrong = Callable[[Parts], list[Datagram]]

WRONG: dict[str, Wrong] = {
    "empty": lambda _: [(b"", [])],
    "without descriptors": lambda p: [(p.address, [])],
    "without a receipt": lambda p: [(p.address, [p.client])],
    "with something else for the prologue": lambda p: [
        (p.address, [p.client, p.receipt, one]) for one in p.no_prologues
    ],
    "with a prologue and no receipt": lambda p: [
        (p.address, [p.client, one, p.prologue]) for one in p.useless_receipts
    ],
    "with a fourth descriptor": lambda p: [(p.address, [p.client, p.receipt, p.prologue, p.prologue])],
    "with all descriptors that the kernel takes": lambda p: [(p.address, [p.client] * 253)],
    "in the wrong order": lambda p: [(p.address, [p.receipt, p.client])],
    "with something else for the client": lambda p: [(p.address, [one, p.receipt]) for one in p.no_clients],
    "with a receipt that cannot be given": lambda p: [(p.address, [p.client, one]) for one in p.useless_receipts],
    "with no address": lambda p: [(b"", [p.client, p.receipt])],
    "with a part of an address": lambda p: [(p.address[:n], [p.client, p.receipt]) for n in (1, 2, 16, 27)],
    "with too long an address": lambda p: [(p.address + bytes(n), [p.client, p.receipt]) for n in (1, 100, 5000)],
    "with an address of another family": lambda p: [
        (family.to_bytes(2, "little") + p.address[2:], [p.client, p.receipt])
        for family in (0, socket.AF_UNIX, socket.AF_INET, 0xFFFF)
    ],
}


def every_wrong_datagram(made: Parts) -> list[Datagram]:
    return [one for kind in WRONG.values() for one in kind(made)]


@pytest.mark.parametrize("wrong", WRONG)
def test_next_client_is_served_when_a_datagram_is_wrong(acceptor: Acceptor, wrong: str) -> None:
    before = acceptor.descriptors()
    with parts() as made, connected() as client:
        for data, given in WRONG[wrong](made):
            send(acceptor.inlet, data, given)
        assert give(client, acceptor.inlet)
        # The refused client was not touched: the gateway's event loop still has it.
        assert not os.get_blocking(made.client)
        client.near.close()
        assert_served(client.far)
        assert [line[1:3] for line in acceptor.accepted()] == [client.address]
    acceptor.assert_descriptors(before)


def test_nothing_is_leaked_when_thousands_of_datagrams_are_wrong(acceptor: Acceptor) -> None:
    before = acceptor.descriptors()
    with parts() as made, connected() as client:
        wrong = every_wrong_datagram(made)
        for number in range(3000):
            send(acceptor.inlet, *wrong[number % len(wrong)])
        assert give(client, acceptor.inlet)
        client.near.close()
        assert_served(client.far)
    acceptor.assert_descriptors(before)


def test_no_accept_fails_when_wrong_datagrams_stand_before_a_client(acceptor: Acceptor) -> None:
    acceptor.stop()
    with parts() as made, contextlib.ExitStack() as stack:
        for data, given in every_wrong_datagram(made)[:8]:
            send(acceptor.inlet, data, given)
        client = stack.enter_context(connected())
        ours, theirs = map(stack.enter_context, socket.socketpair())
        send(acceptor.inlet, handoff.pack(client.peer), [client.near.fileno(), theirs.fileno()])
        acceptor.go_on()
        ours.settimeout(20)
        assert ours.recv(1)
        assert_served(client.far)
    assert acceptor.said("failed") == []


def test_acceptor_serves_others_when_a_sender_only_connects(acceptor: Acceptor) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent, connected() as client:
        silent.connect(str(acceptor.inlet))
        assert give(client, acceptor.inlet)
        assert_served(client.far)


def test_acceptor_serves_others_when_a_client_has_been_reset(acceptor: Acceptor) -> None:
    before = acceptor.descriptors()
    with connected() as gone, connected() as client:
        gone.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        gone.far.close()
        give(gone, acceptor.inlet)
        assert give(client, acceptor.inlet)
        assert_served(client.far)
    acceptor.assert_descriptors(before)


@pytest.mark.parametrize("free", [0, 1, 2])
def test_acceptor_lives_on_when_it_has_no_descriptor_left(acceptor: Acceptor, free: int) -> None:
    before = acceptor.descriptors()
    with connected() as client, prologue() as (_, engines_end):
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_DESCRIPTORS - before - free):
                assert_served(stack.enter_context(socket.create_connection(acceptor.tcp, timeout=20)))
            # Two are enough for a client without a prologue.
            assert not give(client, acceptor.inlet, engines_end if free == 2 else None)
            assert not os.get_blocking(client.near.fileno())
            wait_until(lambda: acceptor.said("failed"), "an accept has failed")
            assert acceptor.said("failed") == [[str(errno.EMFILE)]]
            acceptor.assert_descriptors(MOST_DESCRIPTORS - free)
        acceptor.assert_descriptors(before)
        assert give(client, acceptor.inlet)
        client.near.close()
        assert_served(client.far)
    acceptor.assert_descriptors(before)


def leave_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))


@pytest.mark.parametrize(
    "leave",
    [leave_socket, Path.touch, lambda path: path.symlink_to("/nowhere/at/all")],
    ids=["socket", "file", "dangling link"],
)
def test_inlet_is_opened_when_something_is_left_at_its_path(
    run: Run, new_folder: Callable[[], Path], leave: Callable[[Path], None]
) -> None:
    folder = new_folder()
    (folder / "engine").mkdir()
    leave(folder / "engine" / "inlet")
    with run(folder=folder) as acceptor, connected() as client:
        assert give(client, acceptor.inlet)
        assert_served(client.far)


def test_only_that_listen_fails_when_the_inlet_cannot_be_opened(run: Run, new_folder: Callable[[], Path]) -> None:
    folder = new_folder()
    (folder / "engine" / "inlet").mkdir(parents=True)
    with run(folder=folder) as acceptor, socket.socket() as client:
        assert acceptor.said("no") == [["listener", str(errno.EADDRINUSE)]]
        client.settimeout(20)
        client.connect(acceptor.tcp)
        assert_served(client)
    assert (folder / "engine" / "inlet").is_dir()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("ZORYA_HANDOFF_LISTENER", ""),
        ("ZORYA_HANDOFF_LISTENER", "/somewhere/else"),
        ("ZORYA_HANDOFF_LISTENER", "1"),
        ("ZORYA_HANDOFF_LISTENER", "x" * 108),
        ("ZORYA_HANDOFF_SOCKET", "x" * 108),
        ("ZORYA_HANDOFF_UID", ""),
        ("ZORYA_HANDOFF_UID", "root"),
        ("ZORYA_HANDOFF_UID", "0 "),
    ],
)
def test_server_listens_as_ever_when_the_settings_name_nothing(run: Run, setting: str, value: str) -> None:
    with run({setting: value}) as acceptor:
        with connect_to_listener(acceptor) as client:
            assert_served(client)
        assert not acceptor.inlet.exists()
        assert acceptor.accepted()[0][0] == "given"


def test_queue_is_bounded_when_the_acceptor_is_stuck(acceptor: Acceptor) -> None:
    acceptor.stop()
    wait_until(lambda: is_full(acceptor.inlet), "the queue is full")
    acceptor.go_on()
    with connected() as client:
        assert give(client, acceptor.inlet)
        assert_served(client.far)
