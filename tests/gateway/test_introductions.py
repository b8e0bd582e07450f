"""What an engine is told before it has its client, and what it says meanwhile."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from e2e.raw_client import LoginRefused, RawClient
from gateway.fakes import FakeEndpoint, RunningGateway, startup
from gateway.hostile import IDENTITIES, SCRAM_PROOF, make_role, make_verifier
from zorya.core import errors
from zorya.core.model import Address, Entrance, Handoff
from zorya.gateway import boarding, introductions
from zorya.gateway.postgres.introductions import Proved, Said
from zorya.gateway.postgres.pgwire import ENCRYPTION_GRANTED, SSL_REQUEST

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def to_engine() -> Iterator[Pair]:
    """The gateway's end, and the engine's."""
    yield from connected_pair()


@pytest.fixture
def to_client() -> Iterator[Pair]:
    """The gateway's end, and the client's."""
    yield from connected_pair()


def connected_pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(0)
        far.settimeout(20)
        yield near, far


REQUEST = Said(data=SSL_REQUEST, answered=ENCRYPTION_GRANTED)


async def test_answer_that_the_client_has_already_is_kept_back(to_engine: Pair, to_client: Pair) -> None:
    near, engine = to_engine
    engine.sendall(b"Smore")
    await REQUEST.conduct(near, to_client[0])
    assert engine.recv(100) == SSL_REQUEST
    # What follows is the client's.
    engine.shutdown(socket.SHUT_WR)
    await introductions.pass_on_rest(near, to_client[0])
    assert to_client[1].recv(100) == b"more"
    assert engine.recv(100) == b""


async def test_long_answer_is_kept_back_in_any_chunking(to_engine: Pair, to_client: Pair) -> None:
    near, engine = to_engine
    conducting = asyncio.create_task(Said(data=b"question", answered=b"answer").conduct(near, to_client[0]))
    for letter in (b"a", b"ns", b"wer"):
        engine.sendall(letter)
        await asyncio.sleep(0.01)
    await conducting


async def test_other_answer_than_the_client_has_is_a_problem(to_engine: Pair, to_client: Pair) -> None:
    to_engine[1].sendall(b"N")
    with pytest.raises(errors.EngineProblem, match="otherwise"):
        await REQUEST.conduct(to_engine[0], to_client[0])


@pytest.mark.parametrize("said", [b"", b"ans"])
async def test_another_engine_may_be_tried_when_one_ends_before_it_has_answered(
    to_engine: Pair, to_client: Pair, said: bytes
) -> None:
    to_engine[1].sendall(said)
    to_engine[1].shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match=r"Broken pipe|ended the connection"):
        await Said(data=b"question", answered=b"answer").conduct(to_engine[0], to_client[0])


async def test_no_other_engine_may_be_tried_when_one_ends_while_it_lets_the_client_in(
    to_engine: Pair, to_client: Pair
) -> None:
    near, engine = to_engine
    introduction = Proved(startup=startup(), user="ann", proof=SCRAM_PROOF)
    conducting = asyncio.create_task(introduction.conduct(near, to_client[0]))
    assert await asyncio.to_thread(engine.recv, 1000) == startup()
    engine.close()
    with pytest.raises(errors.EngineProblem, match="ended while"):
        await conducting


async def test_no_other_engine_is_tried_when_one_takes_too_long_over_letting_the_client_in(
    gateway: RunningGateway, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boarding, "INTRODUCTION_TIMEOUT_S", 0.2)
    # As many iterations as a client insists on.
    role = make_role(make_verifier(b"right", iterations=4096))
    endpoint.identities = replace(IDENTITIES, roles={"ann": role})
    port = gateway.open(endpoint)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address(host="127.0.0.1", port=silent.getsockname()[1])
        endpoint.starts(Entrance(address=address, handoff=Handoff(inlet=None, reason="The test says so.")))
        with pytest.raises(LoginRefused, match="57P03"):
            await asyncio.to_thread(log_in, port)
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def log_in(port: int) -> None:
    with RawClient(port) as client:
        for _ in client.log_in({"user": "ann", "database": "shop"}, "right"):
            pass


async def test_engine_that_turns_the_client_down_is_heard_by_it(to_engine: Pair, to_client: Pair) -> None:
    error = b"E" + (4 + 20).to_bytes(4) + b"SFATAL\0C53300\0Mno\0\0\0"
    to_engine[1].sendall(error)
    await Proved(startup=startup(), user="ann", proof=SCRAM_PROOF).conduct(to_engine[0], to_client[0])
    assert to_client[1].recv(100) == error


async def test_client_that_reads_slowly_gets_everything(to_client: Pair) -> None:
    near, client = to_client
    data = bytes(range(256)) * 20_000
    near.setblocking(True)  # An engine that has the client may have it so; see introductions.send.
    sending = asyncio.create_task(introductions.send(near, data))

    def read() -> bytes:
        parts = [client.recv(10_000)]
        while sum(map(len, parts)) < len(data):
            parts.append(client.recv(10_000))
        return b"".join(parts)

    assert await asyncio.to_thread(read) == data
    await sending
