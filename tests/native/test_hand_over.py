"""gateway/handoff.py: a client has exactly one owner, whatever becomes of the engine and of who hands it over."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.acceptors import (
    PATIENCE_S,
    Acceptor,
    Client,
    assert_connected,
    assert_served,
    connected,
    is_full,
    prologue,
    read_to_end,
)
from waiting import wait_until
from zorya.gateway import handoff

OwnDescriptors = Callable[[], int]


async def within(what: Coroutine[Any, Any, bool]) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        return await what


def start(client: Client, inlet: Path) -> asyncio.Task[bool]:
    return asyncio.create_task(handoff.hand_over(client.near, client.peer, inlet), name=f"hand over {client.peer}")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_engine_has_the_client_when_it_is_handed_over(
    own_descriptors: OwnDescriptors, acceptor: Acceptor, host: str
) -> None:
    with connected(host) as client:
        assert await within(handoff.hand_over(client.near, client.peer, acceptor.inlet))
        client.near.close()
        assert_served(client.far)
        assert acceptor.accepted()[0][1:3] == client.address


async def test_what_the_client_has_sent_before_is_still_there_for_the_engine(acceptor: Acceptor) -> None:
    with connected() as client:
        client.far.sendall(b"first words")
        assert await within(handoff.hand_over(client.near, client.peer, acceptor.inlet))
        client.near.close()
        assert client.far.recv(100) == b"first words"


async def test_engine_hears_the_prologue_first_when_one_is_handed_over(
    own_descriptors: OwnDescriptors, acceptor: Acceptor
) -> None:
    with connected() as client, prologue() as (near, far):
        near.sendall(b"first words")
        near.shutdown(socket.SHUT_WR)
        client.far.sendall(b"the client")
        assert await within(handoff.hand_over(client.near, client.peer, acceptor.inlet, far))
        client.near.close()
        far.close()
        assert read_to_end(near) == b"first words"
        assert client.far.recv(100) == b"the client"


async def test_prologue_can_be_given_again_when_the_engine_does_not_have_the_client(
    own_descriptors: OwnDescriptors, acceptor: Acceptor
) -> None:
    one, other = socket.socketpair()
    with one, other, connected() as client, prologue() as (near, far):
        near.sendall(b"first words")
        assert not await within(handoff.hand_over(one, ("192.0.2.1", 1), acceptor.inlet, far))
        assert await within(handoff.hand_over(client.near, client.peer, acceptor.inlet, far))
        far.close()
        client.far.sendall(b"the client")
        assert near.recv(100) == b"first words"


async def test_all_arrive_when_more_wait_than_the_queue_holds(
    own_descriptors: OwnDescriptors, acceptor: Acceptor
) -> None:
    acceptor.stop()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected()) for _ in range(40)]
        tasks = [start(client, acceptor.inlet) for client in clients]
        await asyncio.to_thread(wait_until, lambda: is_full(acceptor.inlet), "the queue is full")
        assert not any(task.done() for task in tasks)
        acceptor.go_on()
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.gather(*tasks) == [True] * 40
        for client in clients:
            client.near.close()
            assert_served(client.far)
        assert sorted(line[1:3] for line in acceptor.accepted(40)) == sorted(client.address for client in clients)
        assert not acceptor.said("failed")


async def test_clients_stay_with_the_gateway_when_the_engine_is_killed(
    own_descriptors: OwnDescriptors, acceptor: Acceptor
) -> None:
    acceptor.stop()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected()) for _ in range(40)]
        tasks = [start(client, acceptor.inlet) for client in clients]
        await asyncio.to_thread(wait_until, lambda: is_full(acceptor.inlet), "the queue is full")
        acceptor.process.send_signal(signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        # Those in the queue hear the pair close, those that waited for room find nobody.
        assert False in results
        assert any(isinstance(result, ConnectionRefusedError) for result in results)
        assert all(result is False or isinstance(result, ConnectionRefusedError) for result in results)
        for client in clients:
            assert not os.get_blocking(client.near.fileno())
            assert_connected(client.near, client.far)


@pytest.mark.parametrize("leaves", ["its socket", "nothing", "something else", "a longer path than a socket can have"])
async def test_hand_over_fails_when_there_is_no_engine(
    own_descriptors: OwnDescriptors, new_folder: Callable[[], Path], leaves: str
) -> None:
    inlet = new_folder() / ("inlet" * (1 if "longer" not in leaves else 40))
    if leaves == "its socket":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as old:
            old.bind(str(inlet))
    elif leaves == "something else":
        inlet.touch()
    with connected() as client:
        with pytest.raises(OSError):
            await within(handoff.hand_over(client.near, client.peer, inlet))
        assert_connected(client.near, client.far)


async def test_client_stays_with_the_gateway_when_it_is_refused(
    own_descriptors: OwnDescriptors, acceptor: Acceptor
) -> None:
    one, other = socket.socketpair()
    with one, other:
        assert not await within(handoff.hand_over(one, ("192.0.2.1", 1), acceptor.inlet))
        assert_connected(one, other)


async def test_engine_does_not_get_a_client_when_the_hand_over_is_cancelled_before(
    own_descriptors: OwnDescriptors, acceptor: Acceptor
) -> None:
    acceptor.stop()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected()) for _ in range(40)]
        tasks = [start(client, acceptor.inlet) for client in clients]
        await asyncio.to_thread(wait_until, lambda: is_full(acceptor.inlet), "the queue is full")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        acceptor.go_on()
        with connected() as next_one:
            assert await within(handoff.hand_over(next_one.near, next_one.peer, acceptor.inlet))
            next_one.near.close()
            assert_served(next_one.far)
            assert [line[1:3] for line in acceptor.accepted()] == [next_one.address]
        for client in clients:
            assert not os.get_blocking(client.near.fileno())
            assert_connected(client.near, client.far)


class Receiver:
    """An inlet whose every step the test takes, as native/handoff.c takes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.setblocking(False)
        self.held: list[int] = []

    def receive(self) -> None:
        """Take a datagram, if there is one, but write no byte yet."""
        with contextlib.suppress(BlockingIOError):
            assert not self.held
            _, self.held, _, _ = socket.recv_fds(self.sock, 128, 2)

    def write(self) -> bool:
        """Write the byte; answer whether that makes the client the engine's."""
        if not self.held:
            return False
        with socket.socket(fileno=os.dup(self.held[1])) as receipt:
            try:
                return receipt.send(b"\0", socket.MSG_DONTWAIT) == 1
            except BrokenPipeError:
                return False

    def close(self) -> None:
        self.sock.close()
        for descriptor in self.held:
            os.close(descriptor)
        self.held = []


@pytest.fixture
def receiver(own_descriptors: OwnDescriptors, new_folder: Callable[[], Path]) -> Iterator[Receiver]:
    made = Receiver(new_folder() / "inlet")
    yield made
    made.close()


async def turns(count: int) -> None:
    """Let the event loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("before_cancel", range(5))
@pytest.mark.parametrize("before_byte", range(5))
@pytest.mark.parametrize("order", ["byte first", "cancel first"])
async def test_client_has_one_owner_when_the_hand_over_is_cancelled_at_any_step(
    receiver: Receiver, before_byte: int, before_cancel: int, order: str
) -> None:
    with connected() as client:
        task = start(client, receiver.path)
        engine_has_it = False
        await turns(before_byte)
        receiver.receive()
        if order == "byte first":
            engine_has_it = receiver.write()
        await turns(before_cancel)
        task.cancel()
        if order == "cancel first":
            # The task has not run since; what it does about the cancellation comes only after the byte.
            engine_has_it = receiver.write()
        await asyncio.wait([task])
        if not receiver.held:
            receiver.receive()
        engine_has_it = receiver.write() or engine_has_it
        assert engine_has_it == (not task.cancelled() and task.result())


async def test_no_time_runs_out_when_the_engine_has_the_client_already(receiver: Receiver) -> None:
    wrote = []

    def take() -> None:
        receiver.receive()
        wrote.append(receiver.write())

    with connected() as client:
        # Called one after the other in the first turn of the event loop: the byte is there when the time is up.
        asyncio.get_running_loop().call_soon(take)
        async with asyncio.timeout(0) as deadline:
            assert await handoff.hand_over(client.near, client.peer, receiver.path)
    assert wrote == [True]
    assert deadline.expired()


async def test_receiver_cannot_keep_a_client_that_was_taken_back(receiver: Receiver) -> None:
    with connected() as client:
        task = start(client, receiver.path)
        await turns(3)
        receiver.receive()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not receiver.write()


async def test_answer_is_false_when_the_receiver_closes_without_a_byte(receiver: Receiver) -> None:
    with connected() as client:
        task = start(client, receiver.path)
        await turns(3)
        receiver.receive()
        receiver.close()
        async with asyncio.timeout(PATIENCE_S):
            assert not await task
        assert_connected(client.near, client.far)


libc = ctypes.CDLL(None, use_errno=True)


def kernel_name(sock: socket.socket) -> bytes:
    """Answer the socket's own address as the kernel lays it out."""
    room = ctypes.create_string_buffer(128)
    size = ctypes.c_uint32(len(room))
    assert libc.getsockname(sock.fileno(), room, ctypes.byref(size)) == 0
    return room.raw[: size.value]


@given(st.ip_addresses(v=4, network="127.0.0.0/8"), st.sampled_from(["", "::ffff:"]))
def test_address_is_packed_as_the_kernel_does(address: object, mapped: str) -> None:
    with socket.socket(socket.AF_INET6 if mapped else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((f"{mapped}{address}", 0))
        assert handoff.pack(sock.getsockname()) == kernel_name(sock)


PORTS = st.integers(0, 65535)


def read_back(packed: bytes) -> tuple[str, str]:
    """Answer host and port as the C library reads them."""
    host, port = ctypes.create_string_buffer(1025), ctypes.create_string_buffer(32)
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert libc.getnameinfo(packed, len(packed), host, len(host), port, len(port), numeric) == 0
    return host.value.decode(), port.value.decode()


@given(st.ip_addresses(v=4), PORTS)
def test_ipv4_address_is_read_back_by_the_c_library(address: object, port: int) -> None:
    assert read_back(handoff.pack((str(address), port))) == (str(address), str(port))


@given(st.ip_addresses(v=6), PORTS, st.integers(0, 2**20 - 1), st.integers(0, 2**32 - 1))
def test_ipv6_address_is_read_back_by_the_c_library(address: object, port: int, flow: int, scope: int) -> None:
    host, read_port = read_back(handoff.pack((f"{address}%lo", port, flow, scope)))
    # What stands behind the % is the scope, which may be the name of an interface; the C library shows it if not 0.
    assert socket.inet_pton(socket.AF_INET6, host.partition("%")[0]) == socket.inet_pton(socket.AF_INET6, str(address))
    assert read_port == str(port)
    if host.partition("%")[2].isdecimal():
        assert int(host.partition("%")[2]) == scope


def test_a_packed_address_has_the_parts_where_the_c_headers_put_them() -> None:
    # struct sockaddr_in6, ipv6(7): the flow information is in network order and the scope in the host's.
    class Inet6(ctypes.Structure):
        _fields_ = (
            ("family", ctypes.c_uint16),
            ("port", ctypes.c_uint8 * 2),
            ("flow", ctypes.c_uint8 * 4),
            ("address", ctypes.c_uint8 * 16),
            ("scope", ctypes.c_uint32),
        )

    packed = Inet6.from_buffer_copy(handoff.pack(("fe80::1%eth0", 0x1234, 0x54321, 7)))
    assert (packed.family, bytes(packed.port), bytes(packed.flow)) == (socket.AF_INET6, b"\x12\x34", b"\0\5\x43\x21")
    assert (bytes(packed.address), packed.scope) == (socket.inet_pton(socket.AF_INET6, "fe80::1"), 7)
