"""The shared port with clusters that do as the test says; with real engines it is in e2e/test_shared_port.py."""

import pytest
import pytest_asyncio

from gateway.fakes import (
    GREETING,
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
from gateway.hostile import IDENTITIES
from zorya.core.model import Access, EngineKind, Entrance, WakeOn
from zorya.core.settings import Settings
from zorya.gateway.attach import Way

SHOP = startup(user="ann", options="-c zorya.cluster=shop")
NAMED_OTHERWISE = {
    "option": startup(user="ann", options="--cluster=shop"),
    "database": startup(user="ann", database="shop/things"),
}
FOR_THE_ENGINE = {"option": startup(user="ann"), "database": startup(user="ann", database="things")}


@pytest.fixture
def other() -> FakeEndpoint:
    """Another cluster that sleeps."""
    return FakeEndpoint("other")


@pytest_asyncio.fixture
async def own_port(gateway: RunningGateway, endpoint: FakeEndpoint) -> int:
    """The port of `shop`."""
    return gateway.open(endpoint)


@pytest_asyncio.fixture
async def port(gateway: RunningGateway, own_port: int, other: FakeEndpoint) -> int:
    """The shared port of the two."""
    gateway.open(other)
    shared = free_port()
    gateway.gateway.open_shared(shared, EngineKind.POSTGRES)
    return shared


async def test_packet_that_the_engine_accepts_is_left_to_it(
    endpoint: FakeEndpoint, other: FakeEndpoint, port: int, engine: FakeEngine, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    async with connected(port) as client:
        client.send(SHOP + b"behind")
        assert await client.read(len(GREETING) + 6) == GREETING + b"behind"
    assert engine.first == [SHOP]
    assert (endpoint.served, other.entered) == (1, 0)


@pytest.mark.parametrize("how", NAMED_OTHERWISE)
async def test_packet_that_the_engine_would_refuse_is_changed(
    endpoint: FakeEndpoint, port: int, engine: FakeEngine, how: str
) -> None:
    endpoint.runs(engine.entrance(Way.RELAY))
    async with connected(port) as client:
        client.send(NAMED_OTHERWISE[how] + b"behind")
        assert await client.read(len(GREETING) + 6) == GREETING + b"behind"
    assert engine.first == [FOR_THE_ENGINE[how]]


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (startup(user="ann", options="-c zorya.cluster=none"), "3D000", 'cluster "none" does not exist'),
        (startup(user="ann"), "3D000", "this port serves several clusters: say which one"),
        (startup(user="ann", database="shop/x", options="--cluster=other"), "28000", "names two clusters"),
        (startup(user="ann", database="-/x"), "3D000", 'cluster "-" does not exist'),
    ],
)
async def test_client_is_told_when_it_names_none(
    endpoint: FakeEndpoint, other: FakeEndpoint, port: int, sent: bytes, code: str, said: str
) -> None:
    async with connected(port) as client:
        client.send(sent)
        error = await client.read_error()
    assert error["C"] == code
    assert said in error["M"]
    assert (endpoint.entered, other.entered, other.present) == (0, 0, 0)


async def test_cancel_request_goes_to_the_engine_that_has_the_process(
    endpoint: FakeEndpoint, other: FakeEndpoint, port: int, engine: FakeEngine, entrance: Entrance
) -> None:
    for one in (endpoint, other):
        one.runs(entrance)
    other.pids = {4711}
    for pid, forwarded in ((4711, True), (4712, False)):
        async with connected(port) as client:
            client.send(cancel_request(pid))
            await client.wait_until_cut_off()
        assert engine.first == ([cancel_request(4711)] if forwarded else [])
        engine.first.clear()
    assert (endpoint.entered, other.entered, other.present) == (0, 1, 0)


async def test_clients_that_came_through_it_are_cut_off_with_their_cluster(
    gateway: RunningGateway,
    endpoint: FakeEndpoint,
    other: FakeEndpoint,
    own_port: int,
    port: int,
    engine: FakeEngine,
) -> None:
    other.runs(engine.entrance(Way.RELAY))
    async with connected(port) as held, connected(port) as unnamed, connected(port) as apart:
        held.send(SHOP)
        await eventually(lambda: endpoint.present == 1, "the client is held")
        apart.send(startup(user="ann", options="-c zorya.cluster=other"))
        assert await apart.read(len(GREETING)) == GREETING
        gateway.gateway.close(own_port)
        await gateway.gateway.end_sessions(own_port)
        assert (await held.read_error())["C"] == "57P01"
        assert endpoint.present == 0
        async with connected(port) as late:
            late.send(SHOP)
            assert (await late.read_error())["C"] == "3D000"
        apart.send(b"question")
        assert await apart.read(8) == b"question"
        unnamed.send(startup(user="ann", options="-c zorya.cluster=other"))
        assert await unnamed.read(len(GREETING)) == GREETING


@pytest.mark.parametrize("wake_on", WakeOn)
async def test_host_name_alone_wakes_only_a_cluster_that_anyone_may_wake(
    endpoint: FakeEndpoint, other: FakeEndpoint, port: int, wake_on: WakeOn
) -> None:
    endpoint.access, endpoint.identities = Access(wake_on=wake_on), IDENTITIES
    async with connected(port) as client:
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"S"
        client.send(client_hello(host_name="shop.zorya.localhost"))
        if wake_on is WakeOn.ANY:
            await eventually(lambda: endpoint.wakes == 1, "the client is held")
        else:
            assert await client.read(1) == b"\x16"
            assert endpoint.entered == 0
    assert other.entered == 0


@pytest.mark.parametrize("is_shared", [False, True])
async def test_owner_has_its_time_however_long_it_had_to_wait_for_the_failures_of_others(
    keep: FakeKeep, endpoint: FakeEndpoint, is_shared: bool
) -> None:
    endpoint.identities = IDENTITIES
    settings = Settings(startup_timeout_s=0.4, login_delay_max_s=2)
    async with running(settings, keep=keep) as gateway:
        port = gateway.open(endpoint)
        if is_shared:
            port = free_port()
            gateway.gateway.open_shared(port, EngineKind.POSTGRES)
        for _ in range(20):
            gateway.gateway.login_failed("shop", "192.0.2.9", 1, "ann")
        async with connected(port) as client:
            client.send(SHOP)
            # AuthenticationSASL; the wait is one second.
            assert (await client.read(9))[5:] == (10).to_bytes(4)


async def test_cluster_that_went_to_sleep_is_not_woken_by_a_hello_that_was_kept_back(
    endpoint: FakeEndpoint, port: int, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    async with connected(port) as client:
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"S"
        endpoint.sleeps()
        endpoint.identities = IDENTITIES
        # From here on it takes a proof; the gateway answers the hello itself.
        client.send(client_hello(host_name="shop.zorya.localhost"))
        assert await client.read(1) == b"\x16"
    assert (endpoint.wakes, endpoint.entered) == (0, 0)
