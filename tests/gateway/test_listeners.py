"""Ports, crowds and limits."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from gateway.fakes import (
    GREETING,
    FakeEndpoint,
    FakeEngine,
    FakeKeep,
    RunningGateway,
    cancel_request,
    connected,
    eventually,
    free_port,
    new_gateway,
    running,
    startup,
)
from zorya.core import errors
from zorya.core.model import Access, Address, Entrance, Handoff
from zorya.core.settings import Settings
from zorya.gateway import handoff, handshakes, listeners
from zorya.gateway.attach import Way
from zorya.gateway.listeners import Gateway


async def test_three_hundred_clients_are_held_and_served_when_they_come_at_once(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    port = gateway.open(endpoint)

    async def session() -> bytes:
        async with connected(port) as client:
            client.send(startup())
            return await client.read(len(GREETING))

    sessions = [asyncio.create_task(session(), name="client") for _ in range(300)]
    await eventually(lambda: endpoint.wakes == 300, "all clients are held")
    assert endpoint.present == 300
    endpoint.starts(entrance)
    assert await asyncio.gather(*sessions) == [GREETING] * 300
    assert (endpoint.present, endpoint.served) == (0, 300)


async def test_port_in_use_is_an_error_that_names_the_address_and_leaves_nothing_open(
    endpoint: FakeEndpoint, keep: FakeKeep
) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        gateway = new_gateway(Settings(bind=["127.0.0.1", "127.0.0.2"]), keep=keep)
        with pytest.raises(errors.PortInUse, match=rf"127\.0\.0\.2:{port} is in use"):
            gateway.open(port, endpoint)
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_port_in_use_is_an_error_when_another_cluster_has_it(endpoint: FakeEndpoint, keep: FakeKeep) -> None:
    gateway = new_gateway(Settings(), keep=keep)
    port = free_port()
    gateway.open(port, endpoint)
    with pytest.raises(errors.PortInUse):
        gateway.open(port, FakeEndpoint("other"))
    gateway.close(port)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "localhost", "not an address"])
def test_address_is_refused_when_the_host_cannot_listen_on_it(
    address: str, endpoint: FakeEndpoint, keep: FakeKeep
) -> None:
    with pytest.raises(errors.InvalidSetting, match="bind: "):
        new_gateway(Settings(bind=[address]), keep=keep).open(free_port(), endpoint)


async def test_client_is_served_when_it_came_before_the_gateway_ran(
    settings: Settings, keep: FakeKeep, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    gateway = new_gateway(settings, keep=keep)
    port = free_port()
    gateway.open(port, endpoint)
    async with connected(port) as client:
        client.send(startup())
        task = asyncio.create_task(gateway.run(), name="gateway")
        assert await client.read(len(GREETING)) == GREETING
        task.cancel()
        await asyncio.wait([task])


async def test_both_kinds_of_ip_are_served_on_one_port_when_both_are_bound(
    endpoint: FakeEndpoint, engine: FakeEngine, entrance: Entrance, way: Way, keep: FakeKeep
) -> None:
    endpoint.runs(entrance)
    peers: list[handoff.Peer] = []
    async with running(Settings(bind=["0.0.0.0", "::"]), keep=keep) as gateway:
        try:
            port = gateway.open(endpoint)
        except errors.InvalidSetting as error:
            pytest.skip(f"no IPv6 here: {error}")
        for host in ("127.0.0.1", "::1"):
            async with connected(port, host) as client:
                await client.ask_for_a_session()
                peers.append(client.address)
    assert engine.peers == ([] if way is Way.RELAY else [handoff.pack(peer) for peer in peers])


async def test_session_goes_on_and_no_new_one_begins_when_the_port_is_closed(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    port = gateway.open(endpoint)
    async with connected(port) as client:
        await client.ask_for_a_session()
        gateway.gateway.close(port)
        gateway.gateway.close(port)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        client.send(b"still there")
        assert await client.read(11) == b"still there"


async def test_clients_of_one_cluster_alone_are_cut_off_when_its_sessions_are_ended(
    gateway: RunningGateway, entrance: Entrance
) -> None:
    ended, other = FakeEndpoint("ended"), FakeEndpoint("other")
    other.runs(entrance)
    port = gateway.open(ended)
    async with connected(port) as held, connected(port) as silent, connected(gateway.open(other)) as kept:
        held.send(startup())
        await eventually(lambda: ended.wakes == 1, "one client is held")
        await kept.ask_for_a_session()
        await gateway.gateway.end_sessions(port)
        assert ended.present == 0
        assert (await held.read_error())["C"] == "57P01"
        assert await silent.read_to_end() == b""
        kept.send(b"x")
        assert await kept.read(1) == b"x"


async def test_relayed_client_alone_loses_its_connection_when_sessions_are_ended(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance, way: Way
) -> None:
    endpoint.runs(entrance)
    port = gateway.open(endpoint)
    async with connected(port) as client:
        await client.ask_for_a_session()
        await gateway.gateway.end_sessions(port)
        if way is Way.RELAY:
            assert await client.read_to_end() == b""
            assert endpoint.ended == 1
        else:
            client.send(b"still there")
            assert await client.read(11) == b"still there"


async def test_held_client_is_told_when_the_gateway_stops(
    settings: Settings, keep: FakeKeep, endpoint: FakeEndpoint
) -> None:
    async with contextlib.AsyncExitStack() as clients:
        async with running(settings, keep=keep) as gateway:
            client = await clients.enter_async_context(connected(gateway.open(endpoint)))
            client.send(startup())
            await eventually(lambda: endpoint.wakes == 1, "the client is held")
        assert (await client.read_error())["C"] == "57P01"
        # A reset can take the message with it before the client has read it.
        assert not client.was_reset
    assert endpoint.present == 0


async def test_handed_over_session_outlives_the_gateway_and_a_relayed_one_does_not(
    settings: Settings, keep: FakeKeep, endpoint: FakeEndpoint, entrance: Entrance, way: Way
) -> None:
    endpoint.runs(entrance)
    async with contextlib.AsyncExitStack() as clients:
        async with running(settings, keep=keep) as gateway:
            client = await clients.enter_async_context(connected(gateway.open(endpoint)))
            await client.ask_for_a_session()
        if way is Way.RELAY:
            assert await client.read_to_end() == b""
        else:
            client.send(b"still there")
            assert await client.read(11) == b"still there"


class TestFewClients:
    """The limit on clients, with two places."""

    @pytest.fixture
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setattr(listeners, "COUNT_EVERY_S", 0)
        return Settings(max_clients=2, startup_timeout_s=20)

    async def test_client_is_turned_away_politely_when_all_places_are_taken(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
    ) -> None:
        port = gateway.open(endpoint)
        async with connected(port) as one, connected(port) as two, connected(port) as three:
            one.send(startup())
            two.send(startup())
            await eventually(lambda: endpoint.present == 2, "two clients are held")
            three.send(startup())
            assert (await three.read_error())["C"] == "53300"
        await eventually(lambda: endpoint.present == 0, "the places are free")
        endpoint.starts(entrance)
        async with connected(port) as client:
            await client.ask_for_a_session()

    async def test_session_takes_a_place_in_whichever_way_it_is_attached(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
    ) -> None:
        endpoint.runs(entrance)
        port = gateway.open(endpoint)
        async with connected(port) as one, connected(port) as two:
            for client in (one, two):
                await client.ask_for_a_session()
            await eventually(lambda: endpoint.served == 2, "two clients are attached")
            async with connected(port) as three:
                three.send(startup())
                assert (await three.read_error())["C"] == "53300"

    async def test_cancel_request_goes_through_when_all_places_are_taken(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
    ) -> None:
        endpoint.runs(engine.entrance(Way.RELAY))
        port = gateway.open(endpoint)
        async with connected(port) as one, connected(port) as two, connected(port) as three:
            for client in (one, two):
                await client.ask_for_a_session()
            three.send(cancel_request())
            assert await three.read_to_end() == b""
            assert cancel_request() in engine.first

    async def test_cancel_request_is_dropped_when_all_places_are_taken_and_the_engine_does_not_answer(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
    ) -> None:
        endpoint.runs(engine.entrance(Way.RELAY))
        port = gateway.open(endpoint)
        async with connected(port) as one, connected(port) as two, connected(port) as three:
            for client in (one, two):
                await client.ask_for_a_session()
            nobody = Address(host="127.0.0.1", port=free_port())
            endpoint.runs(Entrance(address=nobody, handoff=Handoff(inlet=None, reason="The test says so.")))
            three.send(cancel_request())
            assert await three.read_to_end() == b""


class TestDawdlers:
    """The limit on clients that have not said yet who they are, with eight places."""

    @pytest.fixture
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setattr(handshakes, "PATIENCE_S", 0.01)
        return Settings(max_handshakes=8, startup_timeout_s=60, wake_timeout_s=60)

    async def test_crowd_that_gets_on_with_it_is_served_to_the_last(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handshakes, "PATIENCE_S", 60)
        endpoint.runs(entrance)
        port = gateway.open(endpoint)

        async def session() -> bytes:
            async with connected(port) as client:
                for byte in startup():
                    client.send(bytes([byte]))
                    await asyncio.sleep(0)
                return await client.read(len(GREETING))

        assert await asyncio.gather(*(session() for _ in range(200))) == [GREETING] * 200

    async def test_thousand_that_say_nothing_keep_nobody_out(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
    ) -> None:
        endpoint.runs(entrance)
        port = gateway.open(endpoint)
        async with contextlib.AsyncExitStack() as crowd:
            for number in range(1000):
                dawdler = await crowd.enter_async_context(connected(port))
                dawdler.send(startup()[: number % 20])
                if number % 100 == 0:
                    async with connected(port) as client:
                        await client.ask_for_a_session()

    async def test_slowest_is_cut_off_when_one_too_many_comes(
        self, gateway: RunningGateway, endpoint: FakeEndpoint
    ) -> None:
        port = gateway.open(endpoint)
        async with contextlib.AsyncExitStack() as crowd:
            dawdlers = [await crowd.enter_async_context(connected(port)) for _ in range(8)]
            async with connected(port) as newcomer:
                await dawdlers[0].wait_until_cut_off()
                newcomer.send(b"nonsense")
                assert (await newcomer.read_error())["C"] == "08P01"
                dawdlers[1].send(b"nonsense")
                assert (await dawdlers[1].read_error())["C"] == "08P01"

    async def test_held_client_is_no_dawdler(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
    ) -> None:
        port = gateway.open(endpoint)
        async with contextlib.AsyncExitStack() as crowd:
            held = await crowd.enter_async_context(connected(port))
            held.send(startup())
            await eventually(lambda: endpoint.wakes == 1, "the client is held")
            for _ in range(20):
                await crowd.enter_async_context(connected(port))
            endpoint.starts(entrance)
            assert await held.read(len(GREETING)) == GREETING


class TestAccess:
    """What a cluster says about who may come."""

    async def test_client_is_told_when_its_address_is_not_allowed(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
    ) -> None:
        endpoint.runs(entrance)
        endpoint.access = Access(allow=("127.0.0.2/32",))
        port = gateway.open(endpoint)
        async with connected(port) as client:
            client.send(startup())
            error = await client.read_error()
        assert (error["C"], error["M"]) == ("28000", 'cluster "shop" allows no connections from 127.0.0.1')
        assert endpoint.entered == 0
        async with connected(port, source="127.0.0.2") as client:
            await client.ask_for_a_session()

    async def test_client_is_told_when_it_comes_without_tls_and_must_not(
        self, gateway: RunningGateway, endpoint: FakeEndpoint
    ) -> None:
        endpoint.access = Access(require_tls=True)
        async with connected(gateway.open(endpoint)) as client:
            client.send(startup())
            error = await client.read_error()
        assert (error["C"], error["M"]) == ("28000", 'cluster "shop" allows no connections without TLS')
        assert endpoint.entered == 0

    async def test_client_is_told_when_the_cluster_has_as_many_as_it_may(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
    ) -> None:
        endpoint.access = Access(max_clients=1)
        endpoint.runs(entrance)
        port = gateway.open(endpoint)
        async with connected(port) as one, connected(port) as two:
            await one.ask_for_a_session()
            two.send(startup())
            assert (await two.read_error())["C"] == "53300"

    async def test_guesser_is_slowed_and_then_refused_whoever_noticed(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance
    ) -> None:
        endpoint.runs(entrance)
        port = gateway.open(endpoint)
        for _ in range(25):
            gateway.gateway.login_failed("shop", "127.0.0.2", 50000, "ann")
        async with contextlib.AsyncExitStack() as crowd:
            waiting = [await crowd.enter_async_context(connected(port, source="127.0.0.2")) for _ in range(3)]
            for one in waiting:
                one.send(startup())
                await everything_is_served(port)
            assert (await waiting[2].read_error())["M"] == "too many failed logins from this address"
            assert endpoint.entered == endpoint.left
            assert await waiting[0].read(len(GREETING)) == GREETING


async def everything_is_served(port: int) -> None:
    """Return when the gateway has dealt with what had come before."""
    async with connected(port) as client:
        await client.ask_for_a_session()


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process open no further descriptor."""
    lowest_free = os.dup(0)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_listener_warns_once_and_lives_on_when_descriptors_run_out(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "ACCEPT_PAUSE_S", 0.01)
    endpoint.runs(entrance)
    loop = asyncio.get_running_loop()
    with capture_logs() as logs, socket.socket() as one, socket.socket() as two:
        for sock, port in ((one, gateway.open(endpoint)), (two, gateway.open(endpoint))):
            sock.setblocking(False)
            with no_descriptor_left():
                await loop.sock_connect(sock, ("127.0.0.1", port))
                await loop.sock_sendall(sock, startup())
                await eventually(lambda: bool(logs), "accepting has failed")
            assert await asyncio.wait_for(loop.sock_recv(sock, 100), 20) == GREETING
        assert [line["error"] for line in logs if line["log_level"] == "warning"] == ["Too many open files"]


async def test_port_can_be_closed_when_it_pauses(gateway: RunningGateway, endpoint: FakeEndpoint) -> None:
    port = gateway.open(endpoint)
    with capture_logs() as logs, socket.socket() as sock:
        sock.setblocking(False)
        with no_descriptor_left():
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            await eventually(lambda: bool(logs), "accepting has failed")
        gateway.gateway.close(port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 20)
    assert endpoint.entered == 0


class TestKept:
    """Listening sockets that something else keeps open while no server runs."""

    @pytest.fixture
    def kept(self, keep: FakeKeep, endpoint: FakeEndpoint) -> int:
        """A port that an earlier server has left."""
        gateway = new_gateway(Settings(), keep=keep)
        port = free_port()
        gateway.open(port, endpoint)
        asyncio.run(self.run_for_a_moment(gateway))
        assert keep.ports == {port}
        return port

    async def run_for_a_moment(self, gateway: Gateway) -> None:
        task = asyncio.create_task(gateway.run(), name="gateway")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    def test_open_ports_are_left_with_the_keeper_when_the_gateway_stops(self, kept: int) -> None:
        socket.create_connection(("127.0.0.1", kept)).close()

    async def test_client_that_came_while_no_server_ran_is_served_by_the_next(
        self, settings: Settings, keep: FakeKeep, kept: int, endpoint: FakeEndpoint, entrance: Entrance
    ) -> None:
        endpoint.runs(entrance)
        async with connected(kept) as client:
            client.send(startup())
            async with running(settings, keep=keep, kept=keep.answer_next_server()) as gateway:
                gateway.gateway.open(kept, endpoint)
                gateway.gateway.let_unclaimed_go()
                assert await client.read(len(GREETING)) == GREETING
                assert keep.ports == {kept}

    @pytest.mark.parametrize("bind", [["0.0.0.0"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.2"]], ids=" and ".join)
    async def test_new_listeners_are_opened_and_kept_when_other_addresses_are_bound_now(
        self, keep: FakeKeep, kept: int, endpoint: FakeEndpoint, bind: list[str]
    ) -> None:
        async with (
            connected(kept) as waiting,
            running(Settings(bind=bind), keep=keep, kept=keep.answer_next_server()) as gateway,
        ):
            gateway.gateway.open(kept, endpoint)
            await waiting.wait_until_cut_off()
            assert keep.ports == {kept}
            async with connected(kept, "127.0.0.2") as client:
                client.send(b"nonsense")
                assert (await client.read_error())["C"] == "08P01"
            if bind == ["127.0.0.2"]:
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", kept)

    async def test_client_that_waits_is_cut_off_when_no_cluster_has_the_port_any_more(
        self, settings: Settings, keep: FakeKeep, kept: int
    ) -> None:
        async with connected(kept) as client, running(settings, keep=keep, kept=keep.answer_next_server()) as gateway:
            gateway.gateway.let_unclaimed_go()
            await client.wait_until_cut_off()
            assert keep.ports == set()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", kept)
            gateway.gateway.let_unclaimed_go()

    async def test_keeper_knows_the_ports_that_are_open(self, keep: FakeKeep, gateway: RunningGateway) -> None:
        one, two = gateway.open(FakeEndpoint("one")), gateway.open(FakeEndpoint("two"))
        assert keep.ports == {one, two}
        gateway.gateway.close(one)
        assert keep.ports == {two}

    async def test_nobody_listens_when_a_port_is_closed_whether_or_not_the_keeper_has_heard_of_it(
        self, keep: FakeKeep, gateway: RunningGateway, endpoint: FakeEndpoint
    ) -> None:
        port = gateway.open(endpoint)
        gateway.gateway.close(port)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        gateway.gateway.open(port, endpoint)
        assert keep.ports == {port}

    def test_keeper_is_not_told_of_a_port_that_cannot_be_opened(self, keep: FakeKeep, endpoint: FakeEndpoint) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(errors.PortInUse):
            new_gateway(Settings(), keep=keep).open(other.getsockname()[1], endpoint)
        assert keep.ports == set()
