"""TLS on real TCP connections, with clients of Python's own in threads, which know nothing of the code under test."""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fakes import SSL_REQUEST, startup
from gateway.tls_ends import client_context, server_context, shake_hands
from zorya.gateway import sockets, tls

PATIENCE_S = 20.0
FATAL_ALERT = 0x15


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The two ends of a connection."""

    near: socket.socket
    """The gateway's, non-blocking."""
    far: socket.socket
    """The client's, which blocks."""


@contextlib.contextmanager
def connection() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # A size that is set is not changed by the kernel later on.
        far = socket.socket()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        far.settimeout(PATIENCE_S)
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    near.setblocking(False)
    with near, far:
        yield Ends(near=near, far=far)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with connection() as made:
        yield made


@contextlib.asynccontextmanager
async def secured(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> AsyncIterator[Ends]:
    """Two ends that have agreed on TLS."""
    context = client_context()
    context.minimum_version = context.maximum_version = version
    with connection() as ends:
        near, far = await shake_hands(ends.near, ends.far, server_context(), context)
        far.settimeout(PATIENCE_S)
        with near, far:
            yield Ends(near=near, far=far)


@contextlib.asynccontextmanager
async def connected(*, with_tls: bool) -> AsyncIterator[Ends]:
    if with_tls:
        async with secured() as ends:
            yield ends
    else:
        with connection() as ends:
            yield ends


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(65536)):
        data += more
    return data


async def accept(near: socket.socket, context: ssl.SSLContext | None = None) -> tls.TlsSocket:
    async with asyncio.timeout(PATIENCE_S):
        return await tls.accept(near, context or server_context())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_ends_hear_each_other_when_they_agree(version: ssl.TLSVersion) -> None:
    async with secured(version) as ends:
        assert isinstance(ends.near, tls.TlsSocket)
        assert ends.near.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        await asyncio.to_thread(ends.far.sendall, b"question")
        assert await tls.receive(ends.near, 100) == b"question"
        await tls.send_all(ends.near, b"answer")
        assert await asyncio.to_thread(ends.far.recv, 100) == b"answer"


async def test_connection_has_one_owner_when_the_handshake_is_done(ends: Ends) -> None:
    before = descriptors()
    near, far = await shake_hands(ends.near, ends.far, server_context(), client_context())
    with far:
        assert (ends.near.fileno(), ends.far.fileno()) == (-1, -1)
        assert near.gettimeout() == 0
        assert descriptors() == before
        near.close()
        far.settimeout(PATIENCE_S)
        with pytest.raises(ssl.SSLEOFError):
            far.recv(1)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", startup(), SSL_REQUEST + startup(), bytes(2000), b"\x16\x03\x01\x00\x05\x02aaaa"],
    ids=["HTTP", "startup", "request", "zeros", "no hello"],
)
async def test_caller_keeps_the_client_when_it_speaks_no_tls(ends: Ends, data: bytes) -> None:
    before = descriptors()
    ends.far.sendall(data)
    with pytest.raises(ConnectionAbortedError, match=r"TLS handshake failed: [a-z]"):
        await accept(ends.near)
    assert descriptors() == before
    ends.near.shutdown(socket.SHUT_WR)
    assert await asyncio.to_thread(ends.far.recv, 100) in {b"", *alerts()}


def alerts() -> set[bytes]:
    """All fatal alerts in a record, in the versions that OpenSSL may give it."""
    return {bytes([FATAL_ALERT, 3, minor, 0, 2, 2, reason]) for minor in range(5) for reason in range(256)}


async def test_client_hears_why_when_its_version_is_not_served(ends: Ends) -> None:
    server, client = server_context(), client_context()
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    accepting = asyncio.create_task(accept(ends.near, server), name="accept")
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        await asyncio.to_thread(client.wrap_socket, ends.far)
    with pytest.raises(ConnectionAbortedError, match="unsupported protocol"):
        await accepting
    assert ends.near.fileno() != -1


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_handshake_fails_when_the_client_leaves(ends: Ends, said: bytes, how: str, when: str) -> None:
    before = descriptors()
    ends.far.sendall(said)
    accepting = None
    if when == "meanwhile":
        accepting = asyncio.create_task(accept(ends.near), name="accept")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not accepting.done()
    if how == "resets":
        reset(ends.far)
    else:
        ends.far.close()
    with pytest.raises(ConnectionAbortedError):
        await (accepting or accept(ends.near))
    assert ends.near.fileno() != -1
    assert descriptors() == before - 1


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_caller_keeps_the_client_when_it_is_given_up(ends: Ends, said: bytes) -> None:
    before = descriptors()
    ends.far.sendall(said)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await tls.accept(ends.near, server_context())
    assert descriptors() == before
    ends.near.send(b"farewell")
    assert await asyncio.to_thread(ends.far.recv, 100) == b"farewell"


@pytest.mark.parametrize("with_tls", [False, True])
@settings(max_examples=25)
@given(pieces=st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=6), limit=st.integers(1, 30_000))
async def test_bytes_arrive_as_they_were_sent_when_read_in_any_pieces(
    with_tls: bool, pieces: list[bytes], limit: int
) -> None:
    async with connected(with_tls=with_tls) as ends:

        async def send() -> None:
            for piece in pieces:
                await tls.send_all(ends.near, piece)

        sending = asyncio.create_task(send(), name="send")
        whole = b"".join(pieces)
        assert await asyncio.to_thread(receive_exactly, ends.far, len(whole)) == whole
        await sending
        sending_back = asyncio.create_task(asyncio.to_thread(ends.far.sendall, whole), name="send back")
        received = bytearray()
        async with asyncio.timeout(PATIENCE_S):
            # Small limits leave most of a record with OpenSSL, of which the kernel knows nothing.
            while len(received) < len(whole):
                piece = await tls.receive(ends.near, limit)
                assert 0 < len(piece) <= limit
                received += piece
        assert received == whole
        await sending_back


@pytest.mark.parametrize("with_tls", [False, True])
async def test_sending_waits_when_the_receiver_does_not_read(with_tls: bool) -> None:
    data = os.urandom(8 * 1024 * 1024)
    async with connected(with_tls=with_tls) as ends:
        sending = asyncio.create_task(tls.send_all(ends.near, data), name="send")
        await asyncio.wait([sending], timeout=0.1)
        assert not sending.done()
        assert await asyncio.to_thread(receive_exactly, ends.far, len(data)) == data
        await sending


@pytest.mark.parametrize("with_tls", [False, True])
@pytest.mark.parametrize("politely", [False, True])
async def test_receiving_ends_when_the_client_ends(with_tls: bool, politely: bool) -> None:
    async with connected(with_tls=with_tls) as ends:
        await asyncio.to_thread(ends.far.sendall, b"last")
        if politely and isinstance(ends.far, ssl.SSLSocket):
            ends.far.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                ends.far.unwrap()
        ends.far.close()
        assert await tls.receive(ends.near, 100) == b"last"
        assert await tls.receive(ends.near, 100) == b""


@pytest.mark.parametrize("with_tls", [False, True])
async def test_receiving_fails_when_the_client_resets(with_tls: bool) -> None:
    async with connected(with_tls=with_tls) as ends:
        reset(ends.far)
        with pytest.raises(ConnectionResetError):
            await tls.receive(ends.near, 100)


async def test_receiving_fails_when_bytes_come_that_the_client_did_not_encrypt() -> None:
    async with secured() as ends:
        socket.socket.send(ends.far, b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ssl.SSLError):
            await tls.receive(ends.near, 100)


@pytest.mark.parametrize("with_tls", [False, True])
async def test_client_sees_a_clean_end_when_it_is_told_that_nothing_more_comes(with_tls: bool) -> None:
    async with connected(with_tls=with_tls) as ends:
        # What it has sent, and what it still sends, changes nothing.
        await asyncio.to_thread(ends.far.sendall, b"unread")
        await tls.send_all(ends.near, b"farewell")
        await tls.close_notify(ends.near)
        await asyncio.to_thread(ends.far.sendall, b"more")
        assert await asyncio.to_thread(receive_exactly, ends.far, 100) == b"farewell"
        ends.far.close()
        async with asyncio.timeout(PATIENCE_S):
            while await tls.receive(ends.near, 100):
                pass


async def test_close_notify_gives_up_when_there_is_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "CLOSE_NOTIFY_TIMEOUT_S", 0.05)
    async with secured() as ends:
        await fill(ends.near)
        async with asyncio.timeout(PATIENCE_S):
            await tls.close_notify(ends.near)


@pytest.mark.parametrize("with_tls", [False, True])
async def test_close_notify_says_nothing_when_the_client_is_gone(with_tls: bool) -> None:
    async with connected(with_tls=with_tls) as ends:
        reset(ends.far)
        await tls.close_notify(ends.near)


async def fill(sock: socket.socket) -> int:
    """Send zeros until no more are taken, not even after a while; answer how many were."""
    taken = 0
    with contextlib.suppress(TimeoutError):
        while True:
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken += sock.send(bytes(16384))
            async with asyncio.timeout(0.2):
                await sockets.writable(sock)
    return taken


async def test_client_is_heard_when_it_does_not_take_what_it_is_sent() -> None:
    async with secured() as ends:
        await fill(ends.near)
        await asyncio.to_thread(ends.far.sendall, b"question")
        async with asyncio.timeout(PATIENCE_S):
            assert await tls.receive(ends.near, 100) == b"question"


async def test_receiving_waits_when_something_has_to_be_sent_first() -> None:
    async with secured() as ends:
        assert isinstance(ends.near, tls.TlsSocket)
        taken = await fill(ends.near)
        ends.near.give_up_sending()  # the rest of the record is nobody's data now
        await asyncio.to_thread(ends.far.sendall, b"question")
        receiving = asyncio.create_task(tls.receive(ends.near, 100), name="receive")
        await asyncio.wait([receiving], timeout=0.1)
        assert not receiving.done()
        assert await asyncio.to_thread(receive_exactly, ends.far, taken) == bytes(taken)
        assert await receiving == b"question"


async def test_last_words_arrive_behind_what_was_sent_when_sending_was_given_up() -> None:
    async with secured() as ends:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await tls.send_all(ends.near, bytes(8 * 1024 * 1024))
        farewell = asyncio.create_task(tls.send_all(ends.near, b"farewell"), name="farewell")
        received = b""
        while not received.endswith(b"farewell"):
            received += await asyncio.to_thread(ends.far.recv, 65536)
        await farewell
        assert received.removesuffix(b"farewell").strip(b"\0") == b""
