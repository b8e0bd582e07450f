"""One client connection, from its first byte to its last, as the client sees it."""

import asyncio
import socket
import struct

import pytest
from structlog.testing import capture_logs

from gateway.fakes import (
    GREETING,
    GSS_REQUEST,
    SSL_REQUEST,
    FakeEndpoint,
    FakeEngine,
    RunningGateway,
    cancel_request,
    connected,
    eventually,
    free_port,
    startup,
)
from zorya.core import errors
from zorya.core.model import Address
from zorya.core.settings import Settings
from zorya.gateway import pgwire


async def test_client_is_held_then_served_when_the_cluster_sleeps(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup() + b"behind")
        await eventually(lambda: endpoint.wakes == 1, "the client is held")
        assert engine.first == []
        endpoint.serve_at(engine.address)
        assert await client.read(len(GREETING) + 6) == GREETING + b"behind"
        assert engine.first == [startup()]
        client.send(b"question")
        assert await client.read(8) == b"question"
        assert endpoint.present == 1
    await eventually(lambda: endpoint.present == 0, "the client is counted out")
    await eventually(lambda: engine.open == 0, "the engine is let go")


@pytest.mark.parametrize("request_packet", [SSL_REQUEST, GSS_REQUEST])
async def test_encryption_is_refused_and_the_client_served_when_it_asks(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, request_packet: bytes
) -> None:
    endpoint.serve_at(engine.address)
    async with connected(gateway.open(endpoint)) as client:
        client.send(request_packet)
        assert await client.read(1) == b"N"
        client.send(startup())
        assert await client.read(len(GREETING)) == GREETING


async def test_tls_alert_answers_a_direct_handshake(gateway: RunningGateway, endpoint: FakeEndpoint) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(b"\x16\x03\x01\x02\x00\x01")
        assert await client.read_to_end() == pgwire.TLS_REFUSED
    assert endpoint.entered == 0


async def test_client_is_cut_off_when_it_sends_nothing(gateway: RunningGateway, endpoint: FakeEndpoint) -> None:
    async with connected(gateway.open(endpoint)) as client:
        assert await client.read_to_end() == b""
    assert endpoint.entered == 0


async def test_client_is_cut_off_when_it_dribbles(gateway: RunningGateway, endpoint: FakeEndpoint) -> None:
    async with connected(gateway.open(endpoint)) as client:
        ended = asyncio.create_task(client.wait_until_cut_off(), name="end")
        for byte in startup(user="a" * 9000):
            client.send(bytes([byte]))
            done, _ = await asyncio.wait([ended], timeout=0.01)
            if done:
                break
        await ended
    assert endpoint.entered == 0


async def test_client_is_told_and_cut_off_when_it_sends_garbage(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n" + bytes(5000))
        error = await client.read_error()
    assert (error["C"], error["M"]) == ("08P01", "invalid length of startup packet")
    assert endpoint.entered == 0


async def test_client_is_refused_when_its_protocol_is_unknown(gateway: RunningGateway, endpoint: FakeEndpoint) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup(2 << 16))
        assert (await client.read_error())["C"] == "0A000"
    assert endpoint.entered == 0


async def test_nothing_happens_when_a_port_scan_only_connects(gateway: RunningGateway, endpoint: FakeEndpoint) -> None:
    port = gateway.open(endpoint)
    with capture_logs() as logs:
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port)) as scan:
                scan.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with connected(port) as client:
            assert await client.read_to_end() == b""
    assert endpoint.entered == 0
    assert {line["log_level"] for line in logs} <= {"debug"}


async def test_cancel_request_reaches_the_engine_when_it_runs(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    endpoint.serve_at(engine.address)
    async with connected(gateway.open(endpoint)) as client:
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"N"
        client.send(cancel_request())
        assert await client.read_to_end() == b""
    assert engine.first == [cancel_request()]
    assert endpoint.wakes == 0


async def test_cancel_request_wakes_nothing_when_the_cluster_sleeps(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(cancel_request())
        assert await client.read_to_end() == b""
    assert endpoint.entered == 0


async def test_cancel_request_is_dropped_when_the_engine_does_not_answer(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    endpoint.serve_at(Address(host="127.0.0.1", port=free_port()))
    async with connected(gateway.open(endpoint)) as client:
        client.send(cancel_request())
        assert await client.read_to_end() == b""


@pytest.mark.parametrize(
    ("problem", "sqlstate"),
    [
        (errors.WakeTimeout("The engine was not ready in 30 s."), "57P03"),
        (errors.StartFailed("x", client_message="The engine could not start."), "58000"),
        (errors.ClusterNotFound("Cluster shop is being deleted."), "3D000"),
    ],
)
async def test_every_held_client_is_told_when_the_wake_fails(
    gateway: RunningGateway, endpoint: FakeEndpoint, problem: errors.ZoryaError, sqlstate: str
) -> None:
    port = gateway.open(endpoint)

    async def ask() -> dict[str, str]:
        async with connected(port) as client:
            client.send(startup())
            return await client.read_error()

    answers = [asyncio.create_task(ask(), name="client") for _ in range(20)]
    await eventually(lambda: endpoint.wakes == 20, "all clients are held")
    endpoint.fail(problem)
    for answer in await asyncio.gather(*answers):
        assert (answer["V"], answer["C"], answer["M"]) == ("FATAL", sqlstate, problem.client_message)
    await eventually(lambda: endpoint.present == 0, "all clients are counted out")


async def test_internal_error_is_logged_once_and_hidden_from_the_client_when_something_unforeseen_happens(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    endpoint.fail(OSError("/var/lib/zorya/secret: gone"))
    with capture_logs() as logs:
        async with connected(gateway.open(endpoint)) as client:
            client.send(startup())
            error = await client.read_error()
    assert (error["C"], error["M"]) == ("XX000", "internal error")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["client connection failed"]
    assert endpoint.present == 0


@pytest.mark.parametrize("politely", [True, False])
async def test_client_is_counted_out_when_it_leaves_while_held(
    gateway: RunningGateway, endpoint: FakeEndpoint, politely: bool
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup())
        await eventually(lambda: endpoint.wakes == 1, "the client is held")
        if politely:
            await client.close()
        else:
            client.reset()
        await eventually(lambda: endpoint.left == 1, "the client is counted out")


async def test_client_is_still_held_when_it_sends_more(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup())
        await eventually(lambda: endpoint.wakes == 1, "the client is held")
        client.send(b"impatient")
        async with connected(gateway.open(endpoint)) as other:
            other.send(startup())
            await eventually(lambda: endpoint.wakes == 2, "the gateway has seen what was sent before")
        endpoint.serve_at(engine.address)
        assert await client.read(len(GREETING) + 9) == GREETING + b"impatient"


async def test_client_is_served_when_the_engine_dies_between_wake_and_connect(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    endpoint.serve_at(Address(host="127.0.0.1", port=free_port()), engine.address)
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup())
        assert await client.read(len(GREETING)) == GREETING
    assert endpoint.wakes == 2
    await eventually(lambda: endpoint.present == 0, "the client is counted out")


async def test_client_is_told_when_the_engine_never_takes_its_connection(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    endpoint.serve_at(Address(host="127.0.0.1", port=free_port()))
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup())
        assert (await client.read_error())["C"] == "57P03"
    assert endpoint.wakes == 3


class TestWakeThatNeverEnds:
    """The gateway's own deadline, for an endpoint that breaks its promise to have one."""

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(wake_timeout_s=0.05)

    async def test_client_is_told_when_the_deadline_passes(
        self, gateway: RunningGateway, endpoint: FakeEndpoint
    ) -> None:
        async with connected(gateway.open(endpoint)) as client:
            client.send(startup())
            error = await client.read_error()
        assert (error["C"], error["H"]) == ("57P03", "The database is still starting. Try again.")
        assert endpoint.present == 0
