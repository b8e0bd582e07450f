"""What becomes of a client whose engine misbehaves, or who misbehaves itself, while it is let in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gateway.fakes import FakeEndpoint, RunningGateway, eventually
from gateway.mariadb.raw_client import Attempt, RawClient, converse, respond
from gateway.mariadb.test_connection import error
from zorya.core.model import Address, Entrance, Handoff
from zorya.engines.mariadb.configuration import RELAY_ADDRESS
from zorya.gateway import boarding
from zorya.gateway.mariadb import proxy, wire
from zorya.gateway.mariadb.wire import Greeting, Packet

ANN = Attempt(user=b"ann")
MODERN = Attempt(user=b"modern", plugin=b"other")
SWITCH = wire.switch_body("client_ed25519", b"n" * 32)
OFFERED = 0x1D_81FF_FFFE

Play = Callable[["Engine"], Awaitable[None]]


class Engine:
    """The engine's side of one connection, as a test has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.header = b""

    async def greet(self) -> None:
        """Take the PROXY header, send a greeting, and read the response."""
        self.header = await self.reader.readexactly(28)
        greeting = Greeting(
            version="5.5.5-10.11.0-MariaDB",
            connection_id=1,
            scramble=b"s" * 20,
            capabilities=OFFERED,
            collation=45,
            plugin=wire.NATIVE,
        )
        self.say(0, greeting.to_body())
        await self.hear()

    def say(self, number: int, body: bytes) -> None:
        self.writer.write(wire.packet(number, body))

    async def hear(self) -> Packet:
        header = await self.reader.readexactly(4)
        return Packet(number=header[3], body=await self.reader.readexactly(int.from_bytes(header[:3], "little")))


@contextlib.asynccontextmanager
async def playing(play: Play, cluster: FakeEndpoint) -> AsyncIterator[list[Engine]]:
    """Let the cluster wake to an engine that does this on each connection; answer those that there were."""
    met: list[Engine] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine = Engine(reader, writer)
        met.append(engine)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await play(engine)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        address = Address(host=host, port=port)
        cluster.starts(Entrance(address=address, handoff=Handoff(inlet=None, reason="The test says so.")))
        yield met


async def end_at_once(engine: Engine) -> None:
    await engine.reader.readexactly(28)


async def end_after_switch(engine: Engine) -> None:
    await engine.greet()
    engine.say(2, SWITCH)
    await engine.hear()


async def say_nothing(engine: Engine) -> None:
    await engine.reader.read()


async def say_nonsense(engine: Engine) -> None:
    engine.say(0, b"\x09 not a greeting")
    await engine.reader.read()


async def say_too_much(engine: Engine) -> None:
    engine.writer.write(b"\xff\xff\xff\0")
    await engine.reader.read()


async def fail_tls(engine: Engine) -> None:
    await engine.greet()
    engine.writer.write(b"no TLS")
    await engine.reader.read()


@pytest.mark.parametrize(
    ("play", "one", "number", "connections"),
    [
        (end_at_once, ANN, 2, 3),
        (end_at_once, MODERN, 2, 3),
        (end_after_switch, MODERN, 4, 1),
        (say_nothing, ANN, 2, 1),
        (say_nonsense, ANN, 2, 1),
        (say_too_much, ANN, 2, 1),
        (fail_tls, Attempt(user=b"ann", is_tls=True), 3, 3),
    ],
)
async def test_client_is_told_when_the_engine_does_not_let_it_in(
    gateway: RunningGateway,
    cluster: FakeEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    play: Play,
    one: Attempt,
    number: int,
    connections: int,
) -> None:
    if play is say_nothing:
        monkeypatch.setattr(boarding, "INTRODUCTION_TIMEOUT_S", 0.2)
    async with playing(play, cluster) as met:
        assert error(await asyncio.to_thread(converse, gateway.open(cluster), one))[:2] == (number, 1053)
        assert len(met) == connections
        await eventually(lambda: cluster.present == 0, "the client is counted out")


async def test_engine_is_let_go_when_the_client_leaves_while_it_proves_itself(
    gateway: RunningGateway, cluster: FakeEndpoint
) -> None:
    ended = asyncio.Event()

    async def ask(engine: Engine) -> None:
        await engine.greet()
        engine.say(2, SWITCH)
        assert await engine.reader.read() == b""
        ended.set()

    port = gateway.open(cluster)
    async with playing(ask, cluster):
        await asyncio.to_thread(begin, port, b"")
        await asyncio.wait_for(ended.wait(), 20)
        await eventually(lambda: cluster.present == 0, "the client is counted out")


async def test_engine_is_let_go_when_the_client_speaks_out_of_order_while_it_proves_itself(
    gateway: RunningGateway, cluster: FakeEndpoint
) -> None:
    ended = asyncio.Event()

    async def ask(engine: Engine) -> None:
        await engine.greet()
        engine.say(2, SWITCH)
        assert await engine.reader.read() == b""
        ended.set()

    port = gateway.open(cluster)
    async with playing(ask, cluster):
        await asyncio.to_thread(begin, port, wire.packet(77, b"signature"))
        await asyncio.wait_for(ended.wait(), 20)


def begin(port: int, more: bytes) -> None:
    """Log in as far as the request for another proof, say this, and leave."""
    with RawClient(port) as client:
        client.receive()
        client.send(respond(MODERN, bytes(20)).to_body())
        assert client.receive().kind == wire.SWITCH
        client.stream.sendall(more)


async def test_engine_may_say_several_things_in_a_row(gateway: RunningGateway, cluster: FakeEndpoint) -> None:
    async def talk(engine: Engine) -> None:
        await engine.greet()
        engine.say(2, SWITCH)
        assert (await engine.hear()).number == 3
        engine.say(4, b"\1one")
        engine.say(5, b"\1two")
        assert await engine.hear() == Packet(number=6, body=b"answer")
        engine.say(7, b"\0\0\0\2\0\0\0")
        assert await engine.hear() == Packet(number=0, body=b"\x0e")
        engine.say(1, b"pong")

    def converse_at_length() -> list[bytes]:
        with RawClient(port) as client:
            client.receive()
            client.send(respond(MODERN, bytes(20)).to_body())
            heard = [client.receive().body]
            client.send(b"signature")
            heard += [client.receive().body, client.receive().body]
            client.send(b"answer")
            heard.append(client.receive().body)
            client.send(b"\x0e", 0)
            return [*heard, client.receive().body]

    port = gateway.open(cluster)
    async with playing(talk, cluster):
        heard = await asyncio.to_thread(converse_at_length)
    assert heard == [SWITCH, b"\1one", b"\1two", b"\0\0\0\2\0\0\0", b"pong"]


async def test_engine_is_told_where_the_client_is(gateway: RunningGateway, cluster: FakeEndpoint) -> None:
    async def refuse(engine: Engine) -> None:
        await engine.greet()
        engine.say(2, b"\xff\x10\x04#08004Too many connections")

    port = gateway.open(cluster)
    async with playing(refuse, cluster) as met:
        one = Attempt(user=b"near", source="127.0.0.77")
        assert error(await asyncio.to_thread(converse, port, one)) == (2, 1040, "Too many connections")
        assert met[0].writer.get_extra_info("peername")[0] == RELAY_ADDRESS
        assert met[0].header[:20] == b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([127, 0, 0, 77])


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("192.0.2.7", b"\x21\x11\0\x0c\xc0\0\2\7\x7f\0\0\1\x04\xd2\x0c\xea"),
        ("2001:db8::7", b"\x21\x21\0\x24\x20\1\x0d\xb8" + bytes(11) + b"\7" + bytes(16) + b"\x04\xd2\x0c\xea"),
    ],
)
def test_header_is_that_of_the_proxy_protocol(client: str, expected: bytes) -> None:
    engine = Address(host="127.0.0.1", port=3306)
    assert proxy.header(Address(host=client, port=1234), engine) == b"\r\n\r\n\0\r\nQUIT\n" + expected
