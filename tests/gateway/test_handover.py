"""What is special about a client that is handed over: the gateway reads nothing, keeps nothing, loses nobody."""

import asyncio
import contextlib
import os
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.fakes import (
    GREETING,
    GSS_REQUEST,
    SSL_REQUEST,
    Client,
    FakeEndpoint,
    FakeEngine,
    RunningGateway,
    connected,
    eventually,
    free_port,
    startup,
)
from zorya.core.model import Address, Entrance, Handoff
from zorya.gateway import handoff
from zorya.gateway.attach import Way

MORE_THAN_A_QUEUE = 40
"""More clients than an inlet holds: net.unix.max_dgram_qlen is 10 by default."""


@pytest.fixture
def inlet(engine: FakeEngine) -> Entrance:
    """How to get into the engine by its inlet, or by the relay if that fails."""
    return engine.entrance(Way.HANDOFF)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(at % len(data) for at in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(marks) if begin < end]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(st.sampled_from([SSL_REQUEST, GSS_REQUEST]), unique=True),
    user=st.text("abc", min_size=1, max_size=100),
    behind=st.binary(max_size=400),
    cuts=st.lists(st.integers(0, 1000), max_size=8),
    sleeps=st.booleans(),
)
async def test_whatever_a_client_sends_arrives_whole_at_the_engine_in_any_chunking(
    gateway: RunningGateway,
    engine: FakeEngine,
    inlet: Entrance,
    asked: list[bytes],
    user: str,
    behind: bytes,
    cuts: list[int],
    sleeps: bool,
) -> None:
    endpoint = FakeEndpoint("shop")
    if sleeps:
        # A request for TLS alone wakes nothing.
        asked = [one for one in asked if one != SSL_REQUEST]
        endpoint.starts(inlet)
    else:
        endpoint.runs(inlet)
    port = gateway.open(endpoint)
    engine.first.clear()
    async with connected(port) as client:
        for chunk in cut(b"".join(asked) + startup(user=user) + behind, cuts):
            client.send(chunk)
            await asyncio.sleep(0)
        answer = b"N" * len(asked) + GREETING + behind
        assert await client.read(len(answer)) == answer
    # A request for GSSAPI encryption that comes first is answered by the gateway, and that alone is taken.
    kept = asked[1:] if asked[:1] == [GSS_REQUEST] else asked
    assert engine.first == [*kept, startup(user=user)]
    gateway.gateway.close(port)


async def test_engine_is_told_where_the_client_comes_from(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, inlet: Entrance
) -> None:
    endpoint.runs(inlet)
    async with connected(gateway.open(endpoint), source="127.0.0.3") as client:
        await client.ask_for_a_session()
        assert client.address[0] == "127.0.0.3"
        assert engine.peers == [handoff.pack(client.address)]


async def test_nothing_of_a_session_is_left_in_the_gateway_when_it_is_handed_over(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, inlet: Entrance
) -> None:
    endpoint.runs(inlet)
    port = gateway.open(endpoint)

    async def hold_sessions(count: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(count):
                client = await stack.enter_async_context(connected(port))
                await client.ask_for_a_session()
            await eventually(lambda: endpoint.present == 0, "all are handed over")
            # One descriptor for the client's own end and one for the engine's, which are in this process as well.
            await eventually(lambda: descriptors() == before + 2 * count, "the gateway has let go of all")
        await eventually(lambda: engine.open == 0 and descriptors() == before, "all is as before")

    async with connected(port) as first:
        await first.ask_for_a_session()
    await eventually(lambda: engine.open == 0 and endpoint.present == 0, "everything is set up")
    before = await settled_descriptors()
    for _ in range(5):
        await hold_sessions(100)
    assert (endpoint.served, len(engine.peers), engine.relayed) == (501, 501, 0)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count of names, nothing more


async def settled_descriptors() -> int:
    """Answer how many there are once the connections that are over are closed as well."""
    last = [0, 0, 0]

    def is_settled() -> bool:
        last[:] = [*last[1:], descriptors()]
        return len(set(last)) == 1

    await eventually(is_settled, "the number of descriptors stays the same")
    return last[0]


async def held_clients(stack: contextlib.AsyncExitStack, port: int, count: int) -> list[Client]:
    clients = [await stack.enter_async_context(connected(port)) for _ in range(count)]
    for client in clients:
        client.send(startup())
    return clients


async def test_client_is_served_by_the_next_engine_when_the_first_refuses_it_at_its_end(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, inlet: Entrance
) -> None:
    engine.get_stuck()
    nobody = Address(host="127.0.0.1", port=free_port())
    endpoint.starts(Entrance(address=nobody, handoff=inlet.handoff), inlet)
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup())
        await eventually(lambda: engine.has_mail, "the client waits in the inlet")
        engine.end_with_its_mail()
        engine.open_inlet()
        assert await client.read(len(GREETING)) == GREETING
    assert (endpoint.wakes, endpoint.served, engine.relayed, len(engine.peers)) == (2, 1, 0, 1)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("close_inlet", "Handing it over failed: Connection refused."),
        ("remove_inlet", "Handing it over failed: No such file or directory."),
        ("refuse", "Handing it over failed: the engine ended before it had the client."),
    ],
)
@pytest.mark.parametrize("sleeps", [True, False])
async def test_client_is_relayed_and_the_log_says_why_when_only_the_inlet_is_broken(
    gateway: RunningGateway,
    endpoint: FakeEndpoint,
    engine: FakeEngine,
    inlet: Entrance,
    fault: str,
    reason: str,
    sleeps: bool,
) -> None:
    getattr(engine, fault)()
    if sleeps:
        endpoint.starts(inlet)
    else:
        endpoint.runs(inlet)
    with capture_logs() as logs:
        async with connected(gateway.open(endpoint)) as client:
            client.send(startup() + b"behind")
            assert await client.read(len(GREETING) + 6) == GREETING + b"behind"
    assert [(line["way"], line["reason"]) for line in logs if line["event"] == "attached"] == [("relay", reason)]
    assert {line["log_level"] for line in logs} == {"debug"}
    assert (engine.relayed, engine.peers, endpoint.served) == (1, [], 1)


async def test_client_is_handed_over_again_when_the_engine_was_started_anew_after_a_failure(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, inlet: Entrance
) -> None:
    broken = Entrance(
        address=Address(host="127.0.0.1", port=free_port()),
        handoff=Handoff(inlet=engine.folder / "nothing", reason="The test says so."),
    )
    endpoint.starts(broken, inlet)
    async with connected(gateway.open(endpoint)) as client:
        await client.ask_for_a_session()
    assert (endpoint.wakes, engine.relayed, len(engine.peers)) == (2, 0, 1)


@pytest.mark.parametrize("sleeps", [True, False])
async def test_no_client_is_lost_when_the_engine_is_stuck_for_a_while(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, inlet: Entrance, sleeps: bool
) -> None:
    engine.get_stuck()
    if not sleeps:
        endpoint.runs(inlet)
    async with contextlib.AsyncExitStack() as stack:
        clients = await held_clients(stack, gateway.open(endpoint), MORE_THAN_A_QUEUE)
        await eventually(lambda: endpoint.present == MORE_THAN_A_QUEUE, "all are held")
        endpoint.starts(inlet)
        await eventually(lambda: engine.has_mail, "clients wait in the inlet")
        assert (endpoint.served, engine.first) == (0, [])
        engine.go_on()
        for client in clients:
            assert await client.read(len(GREETING)) == GREETING
        await eventually(lambda: endpoint.served == MORE_THAN_A_QUEUE, "all are attached")
    assert (endpoint.present, engine.relayed, len(engine.peers)) == (0, 0, MORE_THAN_A_QUEUE)


@pytest.mark.parametrize("ends", ["the engine ends", "the gateway ends the sessions"])
async def test_every_client_is_told_when_it_was_being_handed_over(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, inlet: Entrance, ends: str
) -> None:
    engine.get_stuck()
    nobody = Address(host="127.0.0.1", port=free_port())
    endpoint.runs(Entrance(address=nobody, handoff=inlet.handoff))
    port = gateway.open(endpoint)
    async with contextlib.AsyncExitStack() as stack:
        clients = await held_clients(stack, port, MORE_THAN_A_QUEUE)
        await eventually(lambda: engine.has_mail, "clients wait in the inlet")
        await eventually(lambda: endpoint.present == MORE_THAN_A_QUEUE, "all are being handed over")
        if ends == "the engine ends":
            engine.end_with_its_mail()
            sqlstate = "57P03"
        else:
            await gateway.gateway.end_sessions(port)
            sqlstate = "57P01"
        for client in clients:
            assert (await client.read_error())["C"] == sqlstate
    assert (endpoint.present, endpoint.served) == (0, 0)


async def test_engine_does_not_get_a_client_when_the_gateway_has_given_up_handing_it_over(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, inlet: Entrance
) -> None:
    endpoint.runs(inlet)
    port = gateway.open(endpoint)
    before = await settled_descriptors()
    engine.get_stuck()
    async with connected(port) as client:
        client.send(startup())
        await eventually(lambda: engine.has_mail, "the client waits in the inlet")
        await gateway.gateway.end_sessions(port)
        assert (await client.read_error())["C"] == "57P01"
    engine.go_on()
    await eventually(lambda: engine.taken_back == 1, "the engine has looked at it")
    assert (engine.first, engine.open, endpoint.served) == ([], 0, 0)
    await eventually(lambda: descriptors() == before, "no descriptor is left")


async def test_client_that_left_is_counted_out_when_the_engine_goes_on(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, inlet: Entrance
) -> None:
    endpoint.runs(inlet)
    engine.get_stuck()
    async with connected(gateway.open(endpoint)) as client:
        client.send(startup())
        await eventually(lambda: engine.has_mail, "the client waits in the inlet")
        client.reset()
    engine.go_on()
    await eventually(lambda: endpoint.present == 0, "the client is counted out")
    await eventually(lambda: engine.open == 0, "the engine has seen its end")
