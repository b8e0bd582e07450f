"""The relay between real TCP connections, the client's with TLS or without."""

import asyncio
import contextlib
import hashlib
import random
import select
import shutil
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from gateway.fakes import eventually
from gateway.tls_ends import client_context, server_context, shake_hands
from zorya.gateway import relay, tls

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
    """A plain client's session."""
    async with relaying(with_tls=False) as made:
        yield made


@pytest_asyncio.fixture(params=[False, True], ids=["plain", "TLS"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[Relayed]:
    """A session of a client with TLS, or without."""
    async with relaying(with_tls=request.param) as made:
        yield made


@pytest_asyncio.fixture
async def encrypted() -> AsyncIterator[Relayed]:
    """A session of a client with TLS."""
    async with relaying(with_tls=True) as made:
        yield made


@contextlib.asynccontextmanager
async def relaying(*, with_tls: bool) -> AsyncIterator[Relayed]:
    client_near: socket.socket
    client: socket.socket
    client, client_near = tcp_pair()
    if with_tls:
        client_near, client = await shake_hands(client_near, client, server_context(), client_context())
    engine, engine_near = tcp_pair()
    task = asyncio.create_task(carry_and_close(client_near, engine_near), name="relay")
    with client, engine:
        yield Relayed(client=client, engine=engine, task=task)
        task.cancel()
        await asyncio.wait([task])
    client_near.close()
    engine_near.close()


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.wait_for(tls.send_all(sock, data), 20)


async def receive(sock: socket.socket, size: int = 65536) -> bytes:
    return await asyncio.wait_for(tls.receive(sock, size), 20)


async def receive_all(sock: socket.socket) -> bytes:
    chunks = []
    while chunk := await receive(sock):
        chunks.append(chunk)
    return b"".join(chunks)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_bytes_arrive_in_both_directions(either: Relayed) -> None:
    await send(either.client, b"question")
    assert await receive(either.engine) == b"question"
    await send(either.engine, b"answer")
    assert await receive(either.client) == b"answer"


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
    either: Relayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LINGER_S", 0.05)
    either.engine.close()
    assert await receive(either.client) == b""
    await asyncio.wait_for(either.task, 20)


async def test_engine_loses_its_connection_when_the_client_resets(either: Relayed) -> None:
    await send(either.client, b"x")
    assert await receive(either.engine) == b"x"
    reset(either.client)
    with contextlib.suppress(ConnectionResetError):
        assert await receive(either.engine) == b""
    await asyncio.wait_for(either.task, 20)


async def test_client_loses_its_connection_when_the_engine_resets(either: Relayed) -> None:
    await send(either.client, b"x")
    assert await receive(either.engine) == b"x"
    reset(either.engine)
    with contextlib.suppress(ConnectionResetError):
        assert await receive(either.client) == b""
    await asyncio.wait_for(either.task, 20)


async def test_last_words_arrive_when_the_engine_ends_while_the_client_sends(either: Relayed) -> None:
    await send(either.engine, b"terminating connection")
    either.engine.close()
    with contextlib.suppress(OSError):
        await send(either.client, b"question")
    assert await receive(either.client) == b"terminating connection"


async def test_sender_is_held_back_when_the_receiver_does_not_read(either: Relayed) -> None:
    sent = 0

    def sender_is_held_back() -> bool:
        nonlocal sent
        before = sent
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += either.engine.send(bytes(16384))
        return sent == before > 0

    await eventually(sender_is_held_back, "nothing more is taken")
    # Linux doubles the size that is asked for; there are four kernel buffers on the way, and one chunk of the relay.
    assert sent <= 4 * 2 * KERNEL_BUFFER_BYTES + relay.CHUNK_BYTES
    received = 0
    while received < sent:
        received += len(await receive(either.client))


async def test_fifty_megabytes_arrive_whole_when_the_reader_is_slow(either: Relayed) -> None:
    block = hashlib.sha256(b"seed").digest() * 2048
    count = 50 * 1024 * 1024 // len(block)

    async def send_all() -> None:
        for number in range(count):
            await asyncio.get_running_loop().sock_sendall(either.engine, number.to_bytes(8) + block)
        either.engine.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send_all(), name="sender")
    seen = hashlib.sha256()
    received = 0
    while chunk := await receive(either.client, 8192):
        seen.update(chunk)
        received += len(chunk)
    await sending
    expected = hashlib.sha256()
    for number in range(count):
        expected.update(number.to_bytes(8) + block)
    assert received == count * (8 + len(block))
    assert seen.digest() == expected.digest()


async def test_both_sides_are_let_go_when_the_relay_is_cancelled(either: Relayed) -> None:
    await send(either.client, b"x")
    assert await receive(either.engine) == b"x"
    either.task.cancel()
    await asyncio.wait([either.task])
    assert await receive(either.client) == b""
    assert await receive(either.engine) == b""


async def test_session_ends_when_the_engine_says_its_last_words_and_is_lost_in_the_same_instant(
    either: Relayed,
) -> None:
    # What a backend does that PostgreSQL ends because another one crashed, while its client's next query is on its way.
    await send(either.client, b"query")
    await asyncio.get_running_loop().sock_recv(either.engine, 1)
    either.engine.send(b"last words")
    reset(either.engine)
    with contextlib.suppress(ConnectionResetError):
        assert await receive_all(either.client) in {b"last words", b""}
    await asyncio.wait_for(either.task, 20)


async def test_session_ends_when_a_side_is_lost_while_both_directions_are_full(either: Relayed) -> None:
    for sender in (either.client, either.engine):
        await fill(sender)
    reset(either.client)
    with contextlib.suppress(ConnectionResetError):
        await receive_all(either.engine)
    await asyncio.wait_for(either.task, 20)


async def fill(sender: socket.socket) -> None:
    """Send until nothing more is taken, neither by the kernel nor by the relay."""
    with contextlib.suppress(TimeoutError):
        while True:
            await asyncio.wait_for(tls.send_all(sender, bytes(65536)), 0.2)


async def test_client_sees_a_clean_end_when_the_engine_has_ended(encrypted: Relayed) -> None:
    await send(encrypted.engine, b"last words")
    encrypted.engine.close()
    # Its end raises SSLEOFError where close_notify is missing, which `receive` would hide.
    received = b""
    while piece := await asyncio.to_thread(blocking_receive, encrypted.client):
        received += piece
    assert received == b"last words"
    encrypted.client.close()
    await asyncio.wait_for(encrypted.task, 20)


def blocking_receive(sock: socket.socket) -> bytes:
    sock.settimeout(20)
    return sock.recv(65536)


@pytest.mark.parametrize("size", [1, 16384, 300_000, 1_000_001])
async def test_everything_and_close_notify_arrive_when_the_client_reads_late(encrypted: Relayed, size: int) -> None:
    data = random.Random(size).randbytes(size)
    sending = asyncio.create_task(send(encrypted.engine, data), name="send")
    await asyncio.wait([sending], timeout=0.1)
    received = b""
    while len(received) < len(data):
        received += await receive(encrypted.client, 1000)
        if sending.done():
            encrypted.engine.close()
    encrypted.engine.close()
    assert received == data
    assert await asyncio.to_thread(blocking_receive, encrypted.client) == b""


async def test_client_that_sends_on_hears_the_last_words_when_the_engine_has_ended(encrypted: Relayed) -> None:
    await send(encrypted.engine, b"last words")
    encrypted.engine.close()
    poll = select.poll()
    poll.register(encrypted.client, select.POLLRDHUP)
    await eventually(lambda: bool(poll.poll(0)), "the relay has said all it has to say")
    for _ in range(100):
        await send(encrypted.client, bytes(10_000))
    assert await receive(encrypted.client) == b"last words"
    assert await asyncio.to_thread(blocking_receive, encrypted.client) == b""
    assert not encrypted.task.done()
    encrypted.client.close()
    await asyncio.wait_for(encrypted.task, 20)


async def test_engine_still_answers_when_the_client_has_sent_close_notify(encrypted: Relayed) -> None:
    assert isinstance(encrypted.client, ssl.SSLSocket)
    await send(encrypted.client, b"last question")
    with pytest.raises(ssl.SSLWantReadError):
        encrypted.client.unwrap()
    assert await receive_all(encrypted.engine) == b"last question"
    await send(encrypted.engine, b"last answer")
    assert await receive(encrypted.client) == b"last answer"
    encrypted.engine.close()
    with pytest.raises(ssl.SSLZeroReturnError):  # which is how Python tells one that has said it too
        await asyncio.to_thread(blocking_receive, encrypted.client)
    await asyncio.wait_for(encrypted.task, 20)


async def test_session_ends_when_the_client_is_gone_without_close_notify(encrypted: Relayed) -> None:
    await send(encrypted.client, b"last words")
    encrypted.client.close()
    assert await receive_all(encrypted.engine) == b"last words"
    await asyncio.wait_for(encrypted.task, 20)


async def test_session_ends_when_what_comes_is_not_what_the_client_encrypted(encrypted: Relayed) -> None:
    socket.socket.send(encrypted.client, b"\x17\x03\x03\x00\x20" + bytes(32))
    assert await receive(encrypted.engine) == b""
    await asyncio.wait_for(encrypted.task, 20)


async def test_what_openssl_holds_already_is_carried_when_the_client_sends_nothing_more() -> None:
    client, client_near = tcp_pair()
    near, far = await shake_hands(client_near, client, server_context(), client_context())
    engine, engine_near = tcp_pair()
    data = random.Random(1).randbytes(16384)
    with far, engine:
        await send(far, data)
        begin = await receive(near, 10)
        task = asyncio.create_task(carry_and_close(near, engine_near), name="relay")
        received = b""
        while len(received) < len(data) - len(begin):
            received += await receive(engine)
        assert begin + received == data
        task.cancel()
        await asyncio.wait([task])


async def test_what_openssl_holds_already_waits_when_the_engine_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CHUNK_BYTES", 1000)
    async with relaying(with_tls=True) as relayed:
        data = random.Random(2).randbytes(4 * 1024 * 1024)
        sending = asyncio.create_task(send(relayed.client, data), name="send")
        await asyncio.wait([sending], timeout=0.1)
        assert not sending.done()
        received = bytearray()
        while len(received) < len(data):
            received += await receive(relayed.engine, 5000)
        assert received == data
        await sending


async def test_engine_hears_the_client_when_the_client_does_not_read(either: Relayed) -> None:
    await fill(either.engine)
    await send(either.client, b"question")
    assert await receive(either.engine) == b"question"


async def test_client_is_heard_when_something_has_to_be_sent_to_it_first() -> None:
    client, client_near = tcp_pair()
    near, far = await shake_hands(client_near, client, server_context(), client_context())
    engine, engine_near = tcp_pair()
    with far, engine:
        await fill(near)
        await send(far, b"question")
        task = asyncio.create_task(carry_and_close(near, engine_near), name="relay")
        hearing = asyncio.create_task(receive(engine), name="hear")
        await asyncio.wait([hearing], timeout=0.1)
        assert not hearing.done()
        reading = asyncio.create_task(receive_all(far), name="read")
        assert await hearing == b"question"
        task.cancel()
        await asyncio.wait([task, reading])


def pieces(seed: int, total: int) -> Iterator[bytes]:
    """Pieces of all sizes, most of them small, `total` bytes together."""
    source = random.Random(seed)
    while total > 0:
        piece = source.randbytes(min(total, int(source.paretovariate(0.4)) % 100_000 + 1))
        total -= len(piece)
        yield piece


async def converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: Iterator[bytes], expected: Iterator[bytes]
) -> None:
    """Send the one while the other comes."""

    async def send_all() -> None:
        for piece in sent:
            writer.write(piece)
            await writer.drain()

    async def receive_all() -> None:
        for piece in expected:
            assert await reader.readexactly(len(piece)) == piece

    async with asyncio.TaskGroup() as both:
        both.create_task(send_all(), name="send")
        both.create_task(receive_all(), name="receive")


@contextlib.asynccontextmanager
async def streams(carrier: relay.Relay) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """The far ends of a session of their own: the client's, which does TLS as asyncio does, and the engine's."""
    client, client_near = tcp_pair()
    engine, engine_near = tcp_pair()

    async def carry() -> None:
        with engine_near, client_near, await tls.accept(client_near, server_context()) as near:
            await carrier.carry(near, engine_near)

    task = asyncio.create_task(carry(), name="session")
    ends = [
        await asyncio.open_connection(sock=client, ssl=client_context(), server_hostname="shop"),
        await asyncio.open_connection(sock=engine),
    ]
    yield ends
    for _, writer in reversed(ends):
        writer.close()
        await writer.wait_closed()
    await asyncio.wait_for(task, 20)


@pytest.mark.parametrize("seed", range(3))
async def test_ten_megabytes_arrive_whole_in_each_direction_at_once(seed: int) -> None:
    size = 10 * 1024 * 1024
    with contextlib.closing(relay.Relay()) as carrier:
        async with streams(carrier) as (client, engine), asyncio.timeout(60):
            await asyncio.gather(
                converse(*client, pieces(seed, size), pieces(-seed - 1, size)),
                converse(*engine, pieces(-seed - 1, size), pieces(seed, size)),
            )


async def test_many_sessions_do_not_mix() -> None:
    with contextlib.closing(relay.Relay()) as carrier:

        async def session(number: int) -> None:
            async with streams(carrier) as (client, engine):
                await asyncio.gather(
                    converse(*client, pieces(number, 200_000), pieces(-number - 1, 200_000)),
                    converse(*engine, pieces(-number - 1, 200_000), pieces(number, 200_000)),
                )

        async with asyncio.timeout(60), asyncio.TaskGroup() as sessions:
            for number in range(40):
                sessions.create_task(session(number), name=f"session {number}")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
@pytest.mark.parametrize("command", [b"k", b"K"], ids=["for its own side", "for both sides"])
async def test_session_goes_on_when_the_client_takes_new_keys(command: bytes) -> None:
    engine, engine_near = tcp_pair()
    with contextlib.closing(relay.Relay()) as carrier, engine, engine_near, listening() as listener:
        client = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-tls1_3", "-msg"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        client_near, _ = await asyncio.get_running_loop().sock_accept(listener)
        with await tls.accept(client_near, server_context()) as near:
            task = asyncio.create_task(carrier.carry(near, engine_near), name="relay")
            for number in range(20):
                client.stdin.write(b"line %d\n" % number)
                assert await receive(engine) == b"line %d\n" % number
                client.stdin.write(command + b"\n")
                # What comes with a command is part of it.
                await asyncio.wait_for(client.stdout.readuntil(b"KeyUpdate\n"), 20)
                await send(engine, b"answer %d\n" % number)
                await asyncio.wait_for(client.stdout.readuntil(b"answer %d\n" % number), 20)
            client.stdin.write(b"Q\n")
            assert await receive(engine) == b""
            engine.close()
            await asyncio.wait_for(client.wait(), 20)
            await asyncio.wait_for(task, 20)


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener
