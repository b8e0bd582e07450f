"""The relay between real TCP connections."""

import asyncio
import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from gateway.fakes import eventually
from zorya.gateway import relay

KERNEL_BUFFER_BYTES = 64 * 1024


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one connection with buffers of a known size."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Accepted connections have the buffers of the listener; they are set before the connection is there.
        near = socket.socket()
        for sock in (listener, near):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


@dataclass(frozen=True, kw_only=True)
class Relayed:
    """The far ends of a relay's two connections, and the task that carries between the near ones."""

    client: socket.socket
    engine: socket.socket
    task: asyncio.Task[None]


async def carry_and_close(client: socket.socket, engine: socket.socket) -> None:
    with contextlib.closing(relay.Relay()) as carrier, client, engine:
        await carrier.carry(client, engine)


@pytest_asyncio.fixture
async def relayed() -> AsyncIterator[Relayed]:
    client, client_near = tcp_pair()
    engine, engine_near = tcp_pair()
    task = asyncio.create_task(carry_and_close(client_near, engine_near), name="relay")
    with client, engine:
        yield Relayed(client=client, engine=engine, task=task)
        task.cancel()
        await asyncio.wait([task])
    client_near.close()
    engine_near.close()


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sock, data), 20)


async def receive(sock: socket.socket, size: int = 65536) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, size), 20)


async def receive_all(sock: socket.socket) -> bytes:
    chunks = []
    while chunk := await receive(sock):
        chunks.append(chunk)
    return b"".join(chunks)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_bytes_arrive_in_both_directions(relayed: Relayed) -> None:
    await send(relayed.client, b"question")
    assert await receive(relayed.engine) == b"question"
    await send(relayed.engine, b"answer")
    assert await receive(relayed.client) == b"answer"


async def test_engine_still_answers_when_the_client_has_ended_its_side(relayed: Relayed) -> None:
    await send(relayed.client, b"last question")
    relayed.client.shutdown(socket.SHUT_WR)
    assert await receive_all(relayed.engine) == b"last question"
    await send(relayed.engine, b"last answer")
    assert await receive(relayed.client) == b"last answer"
    relayed.engine.close()
    assert await receive(relayed.client) == b""
    await asyncio.wait_for(relayed.task, 20)


async def test_client_can_still_send_when_the_engine_has_ended_its_side(relayed: Relayed) -> None:
    relayed.engine.shutdown(socket.SHUT_WR)
    assert await receive(relayed.client) == b""
    await send(relayed.client, b"more")
    assert await receive(relayed.engine) == b"more"
    relayed.client.close()
    assert await receive(relayed.engine) == b""
    await asyncio.wait_for(relayed.task, 20)


async def test_relay_ends_when_the_client_does_not_follow_the_engine(
    relayed: Relayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LINGER_S", 0.05)
    relayed.engine.close()
    assert await receive(relayed.client) == b""
    await asyncio.wait_for(relayed.task, 20)


async def test_engine_loses_its_connection_when_the_client_resets(relayed: Relayed) -> None:
    await send(relayed.client, b"x")
    assert await receive(relayed.engine) == b"x"
    reset(relayed.client)
    with contextlib.suppress(ConnectionResetError):
        assert await receive(relayed.engine) == b""
    await asyncio.wait_for(relayed.task, 20)


async def test_client_loses_its_connection_when_the_engine_resets(relayed: Relayed) -> None:
    await send(relayed.client, b"x")
    assert await receive(relayed.engine) == b"x"
    reset(relayed.engine)
    with contextlib.suppress(ConnectionResetError):
        assert await receive(relayed.client) == b""
    await asyncio.wait_for(relayed.task, 20)


async def test_last_words_arrive_when_the_engine_ends_while_the_client_sends(relayed: Relayed) -> None:
    await send(relayed.engine, b"terminating connection")
    relayed.engine.close()
    with contextlib.suppress(OSError):
        await send(relayed.client, b"question")
    assert await receive(relayed.client) == b"terminating connection"


async def test_sender_is_held_back_when_the_receiver_does_not_read(relayed: Relayed) -> None:
    sent = 0

    def sender_is_held_back() -> bool:
        nonlocal sent
        before = sent
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += relayed.engine.send(bytes(16384))
        return sent == before > 0

    await eventually(sender_is_held_back, "nothing more is taken")
    # Linux doubles the size that is asked for; there are four kernel buffers on the way, and one chunk of the relay.
    assert sent <= 4 * 2 * KERNEL_BUFFER_BYTES + relay.CHUNK_BYTES
    received = 0
    while received < sent:
        received += len(await receive(relayed.client))


async def test_fifty_megabytes_arrive_whole_when_the_reader_is_slow(relayed: Relayed) -> None:
    block = hashlib.sha256(b"seed").digest() * 2048
    count = 50 * 1024 * 1024 // len(block)

    async def send_all() -> None:
        for number in range(count):
            await asyncio.get_running_loop().sock_sendall(relayed.engine, number.to_bytes(8) + block)
        relayed.engine.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send_all(), name="sender")
    seen = hashlib.sha256()
    received = 0
    while chunk := await receive(relayed.client, 8192):
        seen.update(chunk)
        received += len(chunk)
    await sending
    expected = hashlib.sha256()
    for number in range(count):
        expected.update(number.to_bytes(8) + block)
    assert received == count * (8 + len(block))
    assert seen.digest() == expected.digest()


async def test_both_sides_are_let_go_when_the_relay_is_cancelled(relayed: Relayed) -> None:
    await send(relayed.client, b"x")
    assert await receive(relayed.engine) == b"x"
    relayed.task.cancel()
    await asyncio.wait([relayed.task])
    assert await receive(relayed.client) == b""
    assert await receive(relayed.engine) == b""


async def test_session_ends_when_the_engine_says_its_last_words_and_is_lost_in_the_same_instant(
    relayed: Relayed,
) -> None:
    # What a backend does that PostgreSQL ends because another one crashed, while its client's next query is on its way.
    await send(relayed.client, b"query")
    await asyncio.get_running_loop().sock_recv(relayed.engine, 1)
    relayed.engine.send(b"last words")
    reset(relayed.engine)
    with contextlib.suppress(ConnectionResetError):
        assert await receive_all(relayed.client) in {b"last words", b""}
    await asyncio.wait_for(relayed.task, 20)


async def test_session_ends_when_a_side_is_lost_while_both_directions_are_full(relayed: Relayed) -> None:
    for sender in (relayed.client, relayed.engine):
        await fill(sender)
    reset(relayed.client)
    with contextlib.suppress(ConnectionResetError):
        await receive_all(relayed.engine)
    await asyncio.wait_for(relayed.task, 20)


async def fill(sender: socket.socket) -> None:
    """Send until nothing more is taken, neither by the kernel nor by the relay."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError):
        while True:
            await asyncio.wait_for(loop.sock_sendall(sender, bytes(65536)), 0.2)
