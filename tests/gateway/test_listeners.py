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
    SSL_REQUEST,
    FakeEndpoint,
    FakeEngine,
    RunningGateway,
    cancel_request,
    connected,
    eventually,
    free_port,
    running,
    startup,
)
from zorya.core import errors
from zorya.core.settings import Settings
from zorya.gateway import listeners
from zorya.gateway.listeners import Gateway


async def test_three_hundred_clients_are_held_and_served_when_they_come_at_once(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    port = gateway.open(endpoint)

    async def session() -> bytes:
        async with connected(port) as client:
            client.send(startup())
            return await client.read(len(GREETING))

    sessions = [asyncio.create_task(session(), name="client") for _ in range(300)]
    await eventually(lambda: endpoint.present == 300, "all clients are held")
    assert endpoint.wakes == 300
    endpoint.serve_at(engine.address)
    assert await asyncio.gather(*sessions) == [GREETING] * 300
    await eventually(lambda: endpoint.present == 0, "all clients are counted out")


async def test_port_in_use_is_an_error_that_names_the_address_and_leaves_nothing_open(endpoint: FakeEndpoint) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        gateway = Gateway(Settings(bind=["127.0.0.1", "127.0.0.2"]))
        with pytest.raises(errors.PortInUse, match=rf"127\.0\.0\.2:{port} is in use"):
            gateway.open(port, endpoint)
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_port_in_use_is_an_error_when_another_cluster_has_it(endpoint: FakeEndpoint) -> None:
    gateway = Gateway(Settings())
    port = free_port()
    gateway.open(port, endpoint)
    with pytest.raises(errors.PortInUse):
        gateway.open(port, FakeEndpoint("other"))
    gateway.close(port)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "localhost", "not an address"])
def test_address_is_refused_when_the_host_cannot_listen_on_it(address: str, endpoint: FakeEndpoint) -> None:
    with pytest.raises(errors.InvalidSetting, match="bind: "):
        Gateway(Settings(bind=[address])).open(free_port(), endpoint)


async def test_client_is_served_when_it_came_before_the_gateway_ran(
    settings: Settings, endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    endpoint.serve_at(engine.address)
    gateway = Gateway(settings)
    port = free_port()
    gateway.open(port, endpoint)
    async with connected(port) as client:
        client.send(startup())
        task = asyncio.create_task(gateway.run(), name="gateway")
        assert await client.read(len(GREETING)) == GREETING
        task.cancel()
        await asyncio.wait([task])
        assert await client.read_to_end() == b""
    assert endpoint.present == 0


async def test_both_kinds_of_ip_are_served_on_one_port_when_both_are_bound(
    endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    endpoint.serve_at(engine.address)
    async with running(Settings(bind=["0.0.0.0", "::"])) as gateway:
        try:
            port = gateway.open(endpoint)
        except errors.InvalidSetting as error:
            pytest.skip(f"no IPv6 here: {error}")
        for host in ("127.0.0.1", "::1"):
            async with connected(port, host) as client:
                client.send(startup())
                assert await client.read(len(GREETING)) == GREETING


async def test_session_goes_on_and_no_new_one_begins_when_the_port_is_closed(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    endpoint.serve_at(engine.address)
    port = gateway.open(endpoint)
    async with connected(port) as client:
        client.send(startup())
        assert await client.read(len(GREETING)) == GREETING
        gateway.gateway.close(port)
        gateway.gateway.close(port)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        client.send(b"still there")
        assert await client.read(11) == b"still there"


async def test_clients_of_one_cluster_alone_are_cut_off_when_its_sessions_are_ended(
    gateway: RunningGateway, engine: FakeEngine
) -> None:
    ended, other = FakeEndpoint("ended"), FakeEndpoint("other")
    other.serve_at(engine.address)
    port = gateway.open(ended)
    async with connected(port) as held, connected(port) as attached, connected(gateway.open(other)) as kept:
        held.send(startup())
        await eventually(lambda: ended.wakes == 1, "one client is held")
        kept.send(startup())
        assert await kept.read(len(GREETING)) == GREETING
        await gateway.gateway.end_sessions(port)
        assert ended.present == 0
        assert (await held.read_error())["C"] == "57P01"
        assert await attached.read_to_end() == b""
        kept.send(b"x")
        assert await kept.read(1) == b"x"


async def test_attached_client_loses_its_connection_when_sessions_are_ended(
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
) -> None:
    endpoint.serve_at(engine.address)
    port = gateway.open(endpoint)
    async with connected(port) as client:
        client.send(startup())
        assert await client.read(len(GREETING)) == GREETING
        await gateway.gateway.end_sessions(port)
        assert await client.read_to_end() == b""
        assert endpoint.present == 0


async def test_held_client_is_told_when_the_gateway_stops(settings: Settings, endpoint: FakeEndpoint) -> None:
    gateway = Gateway(settings)
    port = free_port()
    gateway.open(port, endpoint)
    task = asyncio.create_task(gateway.run(), name="gateway")
    async with connected(port) as client:
        client.send(startup())
        await eventually(lambda: endpoint.wakes == 1, "the client is held")
        task.cancel()
        assert (await client.read_error())["C"] == "57P01"
    await asyncio.wait([task])
    assert endpoint.present == 0


class TestFewClients:
    """The limit on clients, with two places."""

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(max_clients=2, startup_timeout_s=20)

    async def test_client_is_turned_away_politely_when_all_places_are_taken(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
    ) -> None:
        port = gateway.open(endpoint)
        async with connected(port) as one, connected(port) as two, connected(port) as three:
            one.send(startup())
            two.send(startup())
            await eventually(lambda: endpoint.present == 2, "two clients are held")
            three.send(SSL_REQUEST)
            assert await three.read(1) == b"N"
            three.send(startup())
            assert (await three.read_error())["C"] == "53300"
        await eventually(lambda: endpoint.present == 0, "the places are free")
        endpoint.serve_at(engine.address)
        async with connected(port) as client:
            client.send(startup())
            assert await client.read(len(GREETING)) == GREETING

    async def test_cancel_request_goes_through_when_all_places_are_taken(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine
    ) -> None:
        endpoint.serve_at(engine.address)
        port = gateway.open(endpoint)
        async with connected(port) as one, connected(port) as two, connected(port) as three:
            for client in (one, two):
                client.send(startup())
                assert await client.read(len(GREETING)) == GREETING
            three.send(cancel_request())
            assert await three.read_to_end() == b""
            assert cancel_request() in engine.first

    async def test_client_is_turned_away_unread_when_too_many_are_being_turned_away(
        self, gateway: RunningGateway, endpoint: FakeEndpoint
    ) -> None:
        port = gateway.open(endpoint)
        async with contextlib.AsyncExitStack() as crowd:
            for _ in range(2 + listeners.TURNED_AWAY_AT_ONCE):
                await crowd.enter_async_context(connected(port))
            async with connected(port) as client:
                assert (await client.read_error())["C"] == "53300"
        assert endpoint.entered == 0


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
    gateway: RunningGateway, endpoint: FakeEndpoint, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "ACCEPT_PAUSE_S", 0.01)
    endpoint.serve_at(engine.address)
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
