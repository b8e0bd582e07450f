"""TLS between the gateway and an engine, and a relay that has it on both sides."""

import asyncio
import contextlib
import hashlib
import random
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from gateway.fakes import eventually
from gateway.tls_ends import client_context, server_context, shake_hands
from zorya.gateway import relay, tls
from zorya.gateway.mariadb.introductions import trusting_context

TOTAL_BYTES = 20 * 1024 * 1024


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


async def connect_tls(near: socket.socket, far: socket.socket) -> tuple[tls.TlsSocket, ssl.SSLSocket]:
    """Answer the gateway's end and the engine's, which is Python's own."""
    far.settimeout(20)
    connecting = asyncio.create_task(tls.connect(near, trusting_context()), name="connect")
    wrapped = await asyncio.to_thread(server_context().wrap_socket, far, server_side=True, suppress_ragged_eofs=False)
    wrapped.setblocking(False)
    return await connecting, wrapped


@dataclass(frozen=True, kw_only=True)
class Session:
    """The far ends of a relay's two connections, and the task that carries between the near ones."""

    client: ssl.SSLSocket
    engine: ssl.SSLSocket
    task: asyncio.Task[None]


async def carry(client: socket.socket, engine: socket.socket) -> None:
    with contextlib.closing(relay.Relay()) as carrier, client, engine:
        await carrier.carry(client, engine)


@pytest_asyncio.fixture
async def session() -> AsyncIterator[Session]:
    client_near, client = await shake_hands(*pair(), server_context(), client_context())
    engine_near, engine = await connect_tls(*pair())
    task = asyncio.create_task(carry(client_near, engine_near), name="relay")
    with client, engine:
        yield Session(client=client, engine=engine, task=task)
        task.cancel()
        await asyncio.wait([task])


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.wait_for(tls.receive(sock, 65536), 20)


async def receive_all(sock: socket.socket, size: int) -> str:
    digest = hashlib.sha256()
    while size:
        data = await receive(sock)
        assert data
        size -= len(data)
        digest.update(data)
    return digest.hexdigest()


async def test_bytes_arrive_in_both_directions(session: Session) -> None:
    await tls.send_all(session.client, b"question")
    assert await receive(session.engine) == b"question"
    await tls.send_all(session.engine, b"answer")
    assert await receive(session.client) == b"answer"


async def test_megabytes_arrive_whole_in_each_direction_at_once(session: Session) -> None:
    sent = random.Random(7).randbytes(TOTAL_BYTES)
    async with asyncio.TaskGroup() as group:
        group.create_task(tls.send_all(session.client, sent))
        group.create_task(tls.send_all(session.engine, sent))
        heard = [group.create_task(receive_all(end, TOTAL_BYTES)) for end in (session.client, session.engine)]
    assert {one.result() for one in heard} == {hashlib.sha256(sent).hexdigest()}


async def test_client_sees_a_clean_end_when_the_engine_has_ended(session: Session) -> None:
    await tls.send_all(session.engine, b"last words")
    end(session.engine)
    assert await receive(session.client) == b"last words"
    assert await receive(session.client) == b""
    session.client.close()
    await asyncio.wait_for(asyncio.shield(session.task), 20)


async def test_engine_sees_a_clean_end_when_the_client_has_ended(session: Session) -> None:
    await tls.send_all(session.client, b"quit")
    end(session.client)
    assert await receive(session.engine) == b"quit"
    assert await receive(session.engine) == b""
    session.engine.close()
    await asyncio.wait_for(asyncio.shield(session.task), 20)


@pytest.mark.parametrize("which", ["client", "engine"])
async def test_session_ends_when_a_side_is_lost(session: Session, which: str) -> None:
    getattr(session, which).close()
    other = session.engine if which == "client" else session.client
    with contextlib.suppress(OSError):
        assert await receive(other) == b""
    other.close()
    await eventually(session.task.done, "the relay has ended")


def end(sock: ssl.SSLSocket) -> None:
    """Send close_notify, and do not wait for the other's."""
    with contextlib.suppress(ssl.SSLWantReadError):
        sock.unwrap()


@pytest.mark.parametrize("said", [b"", b"no TLS at all"], ids=["an end", "something else"])
async def test_handshake_fails_when_the_engine_does_no_tls(said: bytes) -> None:
    near, far = pair()
    with near, far:
        connecting = asyncio.create_task(tls.connect(near, trusting_context()), name="connect")
        far.sendall(said)
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionAbortedError, match="TLS handshake failed"):
            await asyncio.wait_for(connecting, 20)
        assert near.fileno() >= 0


async def test_connection_is_the_callers_when_the_handshake_is_cancelled() -> None:
    near, far = pair()
    with near, far:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await tls.connect(near, trusting_context())
        assert near.fileno() >= 0
        assert far.recv(1) == b"\x16"
