"""One client connection, from its first byte to its last, as the client sees it, whichever way it is attached."""

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
    FakeKeep,
    RunningGateway,
    cancel_request,
    client_hello,
    connected,
    eventually,
    free_port,
    running,
    startup,
)
from zorya.core import errors
from zorya.core.model import Address, Entrance, Handoff
from zorya.core.settings import Settings
from zorya.gateway.attach import Way


def entrance_of_nobody() -> Entrance:
    """How to get into an engine that has ended."""
    nobody = Address(host="127.0.0.1", port=free_port())
    return Entrance(address=nobody, handoff=Handoff(inlet=None, reason="The test says so."))


async def test_client_is_held_then_served_when_the_cluster_sleeps(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, entrance: Entrance, way: Way
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup() + b"behind")
        await eventually(lambda: endpoint.wakes == 1, "the client is held")
        assert engine.first == []
        endpoint.starts(entrance)
        assert await client.read(len(GREETING) + 6) == GREETING + b"behind"
        assert engine.first == [startup()]
        client.send(b"question")
        assert await client.read(8) == b"question"
        assert (endpoint.present, endpoint.served) == (0, 1)
    await eventually(lambda: endpoint.ended == (way is Way.RELAY), "a relayed session's end is noted")
    await eventually(lambda: engine.open == 0, "the engine is let go")


async def test_client_is_served_when_the_engine_is_up(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, entrance: Entrance, way: Way
) -> None:
    endpoint.runs(entrance)
    async with connected(gateway.open(endpoint)) as client:
        await client.ask_for_a_session()
        assert (endpoint.present, endpoint.served, endpoint.wakes) == (0, 1, 0)
        assert (engine.relayed, len(engine.peers)) == ((1, 0) if way is Way.RELAY else (0, 1))


async def test_client_is_served_when_the_engine_is_frozen(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    endpoint.freezes()
    async with connected(gateway.open(endpoint)) as client:
        await client.ask_for_a_session()
    assert endpoint.wakes == 1


async def test_everything_goes_through_the_gateway_when_the_setting_says_so(
    settings: Settings, keep: FakeKeep, endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    endpoint.runs(engine.entrance(Way.HANDOFF))
    relay_only = settings.model_copy(update={"attach": "relay"})
    with capture_logs() as logs:
        async with running(relay_only, keep=keep) as gateway, connected(gateway.open(endpoint)) as client:
            await client.ask_for_a_session()
    assert (engine.relayed, engine.peers) == (1, [])
    assert [line["reason"] for line in logs if line["event"] == "attached"] == ["The setting attach says so."]


async def test_gssapi_encryption_is_refused(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, entrance: Entrance
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(GSS_REQUEST)
        assert await client.read(1) == b"N"
        assert endpoint.entered == 0
        endpoint.starts(entrance)
        await client.ask_for_a_session()
    assert engine.first == [startup()]


async def test_engine_answers_about_tls_when_it_is_up(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    async with connected(gateway.open(endpoint)) as client:
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"N"
        await client.ask_for_a_session()
    assert engine.first == [SSL_REQUEST, startup()]


async def test_engine_is_woken_to_do_the_tls_when_only_it_knows_who_may_log_in(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"S"
        assert endpoint.entered == 0
        client.send(client_hello())
        await eventually(lambda: endpoint.wakes == 1, "the client is held")


async def test_client_that_asks_for_tls_and_leaves_wakes_nothing(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    for sent in (SSL_REQUEST, SSL_REQUEST + startup()):
        async with connected(gateway.open(endpoint)) as client:
            client.send(sent)
            client.end_its_side()
            await client.read_to_end()
    assert endpoint.entered == 0


async def test_client_that_begins_with_tls_for_another_protocol_wakes_nothing(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    port = gateway.open(endpoint)
    for protocols in ([], ["h2", "http/1.1"]):
        async with connected(port) as client:
            client.send(client_hello(*protocols))
            client.end_its_side()
            assert await client.read_to_end()
    assert endpoint.entered == 0
    async with connected(port) as client:
        client.send(client_hello("postgresql"))
        await eventually(lambda: endpoint.wakes == 1, "the client is held")


@pytest.mark.parametrize("half", [SSL_REQUEST, startup()])
async def test_client_is_served_when_it_began_to_speak_while_the_cluster_slept(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, entrance: Entrance, half: bytes
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(half[:-1])
        async with connected(gateway.open(FakeEndpoint("other"))) as other:
            other.send(b"nonsense")
            await other.read_to_end()  # by now the gateway has seen what came before
        endpoint.runs(entrance)
        client.send(half[-1:])
        if half is SSL_REQUEST:
            assert await client.read(1) == b"N"
            client.send(startup())
        assert await client.read(len(GREETING)) == GREETING
    assert engine.first == [half, startup()] if half is SSL_REQUEST else [startup()]


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


async def scan(port: int) -> None:
    """Connect and say nothing."""
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(10):
        socket.create_connection(("127.0.0.1", port)).close()
    async with connected(port) as client:
        assert await client.read_to_end() == b""


async def test_nothing_is_woken_when_a_client_speaks_nonsense_after_the_cluster_went_to_sleep(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    port = gateway.open(endpoint)
    async with connected(port) as client:
        async with connected(port) as other:
            await other.ask_for_a_session()  # by now the gateway waits for the silent one's first byte
        endpoint.sleeps()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await client.read_error())["C"] == "08P01"
    assert (endpoint.entered, endpoint.wakes) == (1, 0)


async def test_client_is_held_when_it_asks_for_a_session_after_the_cluster_went_to_sleep(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    port = gateway.open(endpoint)
    async with connected(port) as client:
        async with connected(port) as other:
            await other.ask_for_a_session()
        endpoint.sleeps()
        assert endpoint.entered == 1
        client.send(startup())
        await eventually(lambda: endpoint.wakes == 1, "the client is held")
        endpoint.starts(entrance)
        assert await client.read(len(GREETING)) == GREETING


async def test_cancel_request_reaches_the_engine_when_it_runs(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    async with connected(gateway.open(endpoint)) as client:
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"N"
        client.send(cancel_request())
        assert await client.read_to_end() == b""
    assert engine.first == [SSL_REQUEST, cancel_request()]
    assert endpoint.wakes == 0


async def test_cancel_request_reaches_the_engine_when_it_was_about_to_freeze(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    endpoint.freezes()
    async with connected(gateway.open(endpoint)) as client:
        client.send(cancel_request())
        assert await client.read_to_end() == b""
    assert engine.first == [cancel_request()]
    assert (endpoint.wakes, endpoint.present) == (1, 0)


async def test_cancel_request_wakes_nothing_when_the_cluster_sleeps(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(cancel_request())
        assert await client.read_to_end() == b""
    assert endpoint.entered == 0


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
    endpoint.fails(problem)
    for answer in await asyncio.gather(*answers):
        assert (answer["V"], answer["C"], answer["M"]) == ("FATAL", sqlstate, problem.client_message)
    await eventually(lambda: endpoint.present == 0, "all clients are counted out")


async def test_internal_error_is_logged_once_and_hidden_from_the_client_when_something_unforeseen_happens(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    endpoint.fails(OSError("/var/lib/zorya/secret: gone"))
    with capture_logs() as logs:
        async with connected(gateway.open(endpoint)) as client:
            client.send(startup())
            error = await client.read_error()
    assert (error["C"], error["M"]) == ("XX000", "internal error")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["client connection failed"]
    assert endpoint.present == 0


MUCH = bytes(range(256)) * 200
"""More than the gateway looks at."""


@pytest.mark.parametrize("more", [b"", b"impatient"], ids=["at once", "having sent more"])
@pytest.mark.parametrize("how", ["closes", "resets", "ends its side"])
async def test_client_is_counted_out_when_it_leaves_while_held(
    gateway: RunningGateway, endpoint: FakeEndpoint, how: str, more: bytes
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup())
        await eventually(lambda: endpoint.wakes == 1, "the client is held")
        client.send(more)
        match how:
            case "closes":
                await client.close()
            case "resets":
                client.reset()
            case "ends its side":
                client.end_its_side()
        await eventually(lambda: endpoint.left == 1, "the client is counted out")
    assert endpoint.served == 0


@pytest.mark.parametrize("more", [b"impatient", MUCH], ids=["a little", "more than is looked at"])
async def test_client_is_still_held_when_it_sends_more(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance, more: bytes
) -> None:
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup())
        await eventually(lambda: endpoint.wakes == 1, "the client is held")
        client.send(more)
        async with connected(gateway.open(endpoint)) as other:
            other.send(startup())
            await eventually(lambda: endpoint.wakes == 2, "the gateway has seen what was sent before")
        endpoint.starts(entrance)
        assert await client.read(len(GREETING) + len(more)) == GREETING + more


async def test_client_is_answered_when_it_has_ended_its_side_of_a_session(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup() + b"last question")
        client.end_its_side()
        assert await client.read_to_end() == GREETING + b"last question"


async def test_client_is_served_when_the_engine_dies_between_wake_and_attach(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    endpoint.starts(entrance_of_nobody(), entrance)
    async with connected(gateway.open(endpoint)) as client:
        await client.ask_for_a_session()
    assert endpoint.wakes == 2
    assert (endpoint.present, endpoint.served) == (0, 1)


async def test_client_is_told_when_the_engine_never_takes_its_connection(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    endpoint.starts(entrance_of_nobody())
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup())
        assert (await client.read_error())["C"] == "57P03"
    assert (endpoint.present, endpoint.served) == (0, 0)


class TestSilence:
    """Clients that do not say what they want, before a gateway that does not wait long."""

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(startup_timeout_s=0.2)

    async def test_client_is_cut_off_when_it_sends_nothing(
        self, gateway: RunningGateway, endpoint: FakeEndpoint
    ) -> None:
        async with connected(gateway.open(endpoint)) as client:
            assert await client.read_to_end() == b""
        assert endpoint.entered == 0

    async def test_client_is_cut_off_when_it_dribbles(self, gateway: RunningGateway, endpoint: FakeEndpoint) -> None:
        async with connected(gateway.open(endpoint)) as client:
            ended = asyncio.create_task(client.wait_until_cut_off(), name="end")
            for byte in startup(user="a" * 9000):
                client.send(bytes([byte]))
                done, _ = await asyncio.wait([ended], timeout=0.01)
                if done:
                    break
            await ended
        assert endpoint.entered == 0

    async def test_nothing_happens_when_a_port_scan_only_connects(
        self, gateway: RunningGateway, endpoint: FakeEndpoint
    ) -> None:
        with capture_logs() as logs:
            await scan(gateway.open(endpoint))
        assert endpoint.entered == 0
        assert {line["log_level"] for line in logs} <= {"debug"}

    async def test_engine_is_not_troubled_when_a_port_scan_only_connects(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, entrance: Entrance
    ) -> None:
        endpoint.runs(entrance)
        await scan(gateway.open(endpoint))
        assert (endpoint.entered, engine.relayed, engine.peers) == (0, 0, [])


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
