"""The life of a connection at a cluster's own port: who is left to the engine, who is turned away, and how."""

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.fakes import FakeEndpoint, FakeKeep, RunningGateway, connected, eventually, running
from gateway.mariadb.raw_client import Attempt, RawClient, converse, error_number, respond
from gateway.mariadb.real_mariadb import RealMariaDb, serving
from zorya.core import errors
from zorya.core.model import Access, Address, Entrance, Handoff, WakeOn
from zorya.core.settings import Settings
from zorya.engines import handoff
from zorya.engines.mariadb.configuration import RELAY_ADDRESS
from zorya.gateway.mariadb import wire
from zorya.gateway.mariadb.wire import Greeting, Packet

ANN = Attempt(user=b"ann")


def error(packet: tuple[int, bytes]) -> tuple[int, int, str]:
    """Answer the packet's number, the error's and its message."""
    number, body = packet
    assert body[:1] == b"\xff"
    assert body[3:4] == b"#"
    return number, error_number(body), body[9:].decode()


async def attempt(port: int, one: Attempt = ANN) -> tuple[int, bytes]:
    return await asyncio.to_thread(converse, port, one)


# An engine that is up.


async def test_engine_greets_and_knows_where_the_client_is_when_it_runs(
    gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance
) -> None:
    cluster.runs(relayed)
    port = gateway.open(cluster)
    number, body = await attempt(port, Attempt(user=b"near", source="127.0.0.77"))
    assert (number, body[0]) == (2, wire.OK)
    said = await attempt(port, Attempt(user=b"near", source="127.0.3.3"))
    assert error(said)[1] == 1045
    assert "'near'@'127.0.3.3'" in error(said)[2]
    # It was the engine's own answer.
    assert cluster.failures == []
    number, body = await attempt(port, Attempt(user=b"only_tls", is_tls=True))
    assert (number, body[0]) == (3, wire.OK)


async def test_engine_knows_an_ipv6_client_when_it_is_relayed(
    cluster: FakeEndpoint, relayed: Entrance, keep: FakeKeep, settings: Settings
) -> None:
    cluster.runs(relayed)
    async with running(settings.model_copy(update={"bind": ("::1",)}), keep=keep) as gateway:
        port = gateway.open(cluster)
        number, body = await attempt(port, Attempt(user=b"six", source="::1"))
        assert (number, body[0]) == (2, wire.OK)


async def test_engine_takes_the_client_itself_when_it_can(
    gateway: RunningGateway, cluster: FakeEndpoint, new_folder: Callable[[], Path]
) -> None:
    library = handoff.examine()
    if library.path is None:
        pytest.skip(library.reason)
    inlet = new_folder() / "inlet"
    preloaded = {
        "LD_PRELOAD": str(library.path),
        "ZORYA_HANDOFF_SOCKET": str(inlet),
        "ZORYA_HANDOFF_UID": str(os.getuid()),
    }
    with serving(environment=lambda port: {**preloaded, "ZORYA_HANDOFF_LISTENER": str(port)}) as real:
        await eventually(inlet.exists, "the engine has an inlet")
        address = Entrance(address=_nowhere(), handoff=Handoff(inlet=inlet, reason="The test says so."))
        cluster.runs(address)
        port = gateway.open(cluster)
        for one in (ANN, Attempt(user=b"only_tls", is_tls=True), Attempt(user=b"near", source="127.0.0.9")):
            number, body = await attempt(port, one)
            assert (number, body[0]) == (3 if one.is_tls else 2, wire.OK)
        said = await attempt(port, Attempt(user=b"near", source="127.0.3.3"))
        assert "'near'@'127.0.3.3'" in error(said)[2]
        assert real.process.poll() is None


def _nowhere() -> Address:
    return Address(host="127.0.0.1", port=9)


async def test_client_waits_unheard_when_the_engine_starts_already(
    gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance
) -> None:
    cluster.is_starting = True
    port = gateway.open(cluster)
    login = asyncio.create_task(attempt(port))
    await eventually(lambda: cluster.present == 1, "the client waits")
    cluster.runs(relayed)
    number, body = await login
    assert (number, body[0]) == (2, wire.OK)


async def test_wait_ends_when_the_client_leaves(gateway: RunningGateway, cluster: FakeEndpoint) -> None:
    cluster.is_starting = True
    async with connected(gateway.open(cluster)):
        await eventually(lambda: cluster.present == 1, "the client waits")
    await eventually(lambda: cluster.present == 0, "the client is counted out")


async def test_anybody_wakes_the_cluster_when_it_allows_that(
    gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance
) -> None:
    cluster.access = Access(wake_on=WakeOn.ANY)
    cluster.starts(relayed)
    said = await attempt(gateway.open(cluster), Attempt(user=b"nobody"))
    assert error(said)[1] in (1045, 1698)
    assert cluster.wakes == 1


async def test_greeted_client_answers_the_engine_when_that_has_come_up_meanwhile(
    gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance
) -> None:
    port = gateway.open(cluster)

    async def come_up() -> None:
        cluster.runs(relayed)

    def converse_late() -> Packet:
        with RawClient(port) as client:
            scramble = Greeting.from_body(client.receive().body).scramble
            asyncio.run_coroutine_threadsafe(come_up(), loop).result()
            client.send(respond(ANN, scramble).to_body())
            switch = client.receive()
            plugin, data = wire.parse_switch(switch.body)
            assert (switch.kind, plugin) == (wire.SWITCH, wire.NATIVE)
            client.send(respond(ANN, data.removesuffix(b"\0")).token)
            return client.receive()

    loop = asyncio.get_running_loop()
    packet = await asyncio.to_thread(converse_late)
    assert (packet.number, packet.kind) == (4, wire.OK)


# Refusals.


async def test_client_is_refused_in_place_of_the_greeting_when_it_may_not_come(
    gateway: RunningGateway, cluster: FakeEndpoint
) -> None:
    cluster.access = Access(allow=("10.0.0.0/8",))
    assert error(await attempt(gateway.open(cluster))) == (
        0,
        1130,
        'cluster "shop" allows no connections from 127.0.0.1. Whoever runs it can allow the address with'
        " `zorya modify --allow`.",
    )


async def test_client_is_refused_when_no_account_is_for_its_address(
    gateway: RunningGateway, cluster: FakeEndpoint, real: RealMariaDb
) -> None:
    near = tuple(one for one in real.accounts.accounts if one.host == "127.0.0.%")
    cluster.identities = replace(real.accounts, accounts=near)
    port = gateway.open(cluster)
    expected = "Host '127.0.1.1' is not allowed to connect to this MariaDB server"
    assert error(await attempt(port, Attempt(user=b"ann", source="127.0.1.1"))) == (0, 1130, expected)
    assert error(await attempt(port))[:2] == (2, 1045)


@pytest.mark.parametrize("is_up", [True, False], ids=["running", "stopped"])
async def test_nobody_comes_from_the_address_that_the_engine_believes(
    gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance, is_up: bool
) -> None:
    if is_up:
        cluster.runs(relayed)
    said = await attempt(gateway.open(cluster), Attempt(user=b"ann", source=RELAY_ADDRESS))
    assert error(said)[:2] == (0, 1130)
    assert cluster.served == 0


@pytest.mark.parametrize("user", [b"ann", b"nobody"])
async def test_client_is_refused_before_anything_is_woken_when_tls_is_required(
    gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance, user: bytes
) -> None:
    cluster.access = Access(require_tls=True)
    cluster.starts(relayed)
    port = gateway.open(cluster)
    number, code, message = error(await attempt(port, Attempt(user=user)))
    assert (number, code) == (2, 3159)
    assert message.startswith('cluster "shop" allows no connections without TLS')
    assert cluster.wakes == 0
    assert (await attempt(port, Attempt(user=b"ann", is_tls=True)))[1][0] == wire.OK


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (errors.StartFailed("The engine ended.", client_message="the database cannot start"), 1105),
        (errors.WakeTimeout("Not in time."), 1053),
        (errors.ClusterNotFound("It is gone."), 1049),
        (errors.DiskFull("No space."), 1021),
    ],
    ids=lambda it: type(it).__name__,
)
async def test_proved_client_is_told_why_when_the_cluster_cannot_wake(
    gateway: RunningGateway, cluster: FakeEndpoint, problem: errors.ZoryaError, code: int
) -> None:
    cluster.fails(problem)
    number, found, message = error(await attempt(gateway.open(cluster)))
    assert (number, found) == (2, code)
    assert message.startswith(problem.client_message)


async def test_certified_client_is_asked_to_come_again_when_it_has_woken_the_cluster(
    gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance
) -> None:
    cluster.starts(relayed)
    port = gateway.open(cluster)
    number, code, message = error(await attempt(port, Attempt(user=b"certified", is_tls=True)))
    assert (number, code) == (3, 1053)
    assert "certificate" in message
    assert cluster.wakes == 1
    said = await attempt(port, Attempt(user=b"certified", password=b"wrong", is_tls=True))
    assert error(said)[1] == 1045
    assert cluster.wakes == 1


@pytest.mark.parametrize("user", [b"modern", b"either"])
async def test_unverified_account_is_refused_when_the_setting_says_so(
    cluster: FakeEndpoint, keep: FakeKeep, settings: Settings, user: bytes
) -> None:
    async with running(settings.model_copy(update={"wake_unverified": "refuse"}), keep=keep) as gateway:
        port = gateway.open(cluster)
        said = await attempt(port, Attempt(user=user))
        assert error(said)[1] == 1045
        assert cluster.failures == [("127.0.0.1", user.decode())]
        assert cluster.wakes == 0


async def test_address_waits_and_is_refused_in_the_end_when_its_logins_fail(
    cluster: FakeEndpoint, keep: FakeKeep, settings: Settings
) -> None:
    async with running(settings.model_copy(update={"login_delay_max_s": 0.4}), keep=keep) as gateway:
        port = gateway.open(cluster)
        wrong = Attempt(user=b"ann", password=b"wrong")
        for _ in range(6):
            assert error(await attempt(port, wrong))[1] == 1045
        said = await asyncio.gather(*(attempt(port, wrong) for _ in range(20)))
        assert any(error(one)[:2] == (0, 1129) for one in said)
        assert cluster.wakes == 0


async def test_held_client_is_told_when_it_is_cut_off(gateway: RunningGateway, cluster: FakeEndpoint) -> None:
    port = gateway.open(cluster)
    login = asyncio.create_task(attempt(port))
    await eventually(lambda: cluster.present == 1, "the client waits")
    await gateway.gateway.end_sessions(port)
    assert error(await login)[:2] == (2, 1053)


async def test_old_protocol_is_refused_without_a_sqlstate(gateway: RunningGateway, cluster: FakeEndpoint) -> None:
    old = Attempt(user=b"", body=b"\x04\x00" + b"\0\0\1" + b"ann\0")
    number, body = await attempt(gateway.open(cluster), old)
    assert (number, error_number(body)) == (2, 1251)
    assert body[3:].startswith(b"Client does not support")


# Hostile and slow.


async def test_login_succeeds_when_it_comes_byte_by_byte(
    gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance
) -> None:
    cluster.starts(relayed)
    port = gateway.open(cluster)

    def dribble() -> Packet:
        with RawClient(port) as client:
            client.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            scramble = Greeting.from_body(client.receive().body).scramble
            for byte in wire.packet(1, respond(ANN, scramble).to_body()):
                client.stream.sendall(bytes([byte]))
            client.number = 2
            return client.receive()

    assert (await asyncio.to_thread(dribble)).kind == wire.OK


async def test_first_command_is_for_the_engine_when_it_came_with_the_login(
    gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance
) -> None:
    cluster.starts(relayed)
    port = gateway.open(cluster)

    def hurry() -> tuple[int, int]:
        with RawClient(port) as client:
            scramble = Greeting.from_body(client.receive().body).scramble
            ping = wire.packet(0, b"\x0e")
            client.stream.sendall(wire.packet(1, respond(ANN, scramble).to_body()) + ping)
            return client.receive().kind, client.receive().kind

    assert await asyncio.to_thread(hurry) == (wire.OK, wire.OK)


@pytest.mark.parametrize("early", [b"x", wire.packet(2, b"early")], ids=["a byte", "a packet"])
async def test_bytes_before_tls_are_no_part_of_what_is_protected(
    gateway: RunningGateway, cluster: FakeEndpoint, early: bytes
) -> None:
    port = gateway.open(cluster)

    def be_early() -> Packet:
        with RawClient(port) as client:
            client.receive()
            request = respond(Attempt(user=b"ann", is_tls=True), bytes(20)).beginning()
            client.stream.sendall(wire.packet(1, request) + early)
            return client.receive()

    packet = await asyncio.to_thread(be_early)
    assert (packet.kind, error_number(packet.body)) == (wire.ERROR, 1043)
    assert cluster.wakes == 0


async def test_client_is_cut_off_when_it_announces_too_much(gateway: RunningGateway, cluster: FakeEndpoint) -> None:
    port = gateway.open(cluster)

    def announce() -> Packet:
        with RawClient(port) as client:
            client.receive()
            client.stream.sendall(b"\xff\xff\xff\x01")
            return client.receive()

    packet = await asyncio.to_thread(announce)
    assert (packet.number, error_number(packet.body)) == (1, 1043)


async def test_client_is_let_go_when_it_says_nothing(cluster: FakeEndpoint, keep: FakeKeep, settings: Settings) -> None:
    async with running(settings.model_copy(update={"startup_timeout_s": 0.2}), keep=keep) as gateway:
        async with connected(gateway.open(cluster)) as client:
            assert (await client.read_to_end())[4] == 10
        assert cluster.wakes == 0


async def test_client_is_let_go_when_it_leaves_in_the_middle(gateway: RunningGateway, cluster: FakeEndpoint) -> None:
    port = gateway.open(cluster)
    for said in (b"", b"\x20", wire.packet(1, respond(ANN, bytes(20)).to_body())[:-3]):
        async with connected(port) as client:
            await client.read(4)
            client.send(said)
    async with connected(port) as client:
        await client.read(4)
        client.reset()
    await eventually(lambda: not gateway.gateway._arrivals, "nobody is left")
    assert cluster.wakes == 0


async def test_tls_that_fails_costs_the_connection_alone(gateway: RunningGateway, cluster: FakeEndpoint) -> None:
    port = gateway.open(cluster)

    def fail() -> None:
        with RawClient(port) as client:
            client.receive()
            client.send(respond(Attempt(user=b"ann", is_tls=True), bytes(20)).beginning())
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            with pytest.raises(ssl.SSLError), context.wrap_socket(client.stream, server_hostname="other.invalid"):
                pass

    await asyncio.to_thread(fail)
    assert cluster.wakes == 0


@pytest.mark.parametrize("seed", range(20))
async def test_garbage_costs_the_connection_alone(gateway: RunningGateway, cluster: FakeEndpoint, seed: int) -> None:
    port, chance = gateway.open(cluster), random.Random(seed)

    def say_garbage() -> bytes:
        with RawClient(port) as client:
            scramble = Greeting.from_body(client.receive().body).scramble
            one = Attempt(user=b"nobody", is_tls=chance.random() < 0.3)
            body = bytearray(respond(one, scramble).to_body())
            for _ in range(chance.randrange(4)):
                body[chance.randrange(len(body))] = chance.randrange(256)
            said = wire.packet(1, bytes(body[: chance.randrange(len(body) + 1)])) + chance.randbytes(50)
            with contextlib.suppress(OSError):
                client.stream.sendall(said)
                client.stream.shutdown(socket.SHUT_WR)
                return client.stream.recv(1000)
            return b""

    said = await asyncio.to_thread(say_garbage)
    assert said[4:5] in (b"", b"\xff", b"\xfe")
    assert said[4:7] != b"\xff" + (1815).to_bytes(2, "little")
    assert cluster.wakes == 0


async def test_client_of_the_engine_is_not_another_when_the_engine_ends_while_it_logs_in(
    gateway: RunningGateway, cluster: FakeEndpoint
) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        cluster.starts(Entrance(address=Address(host=host, port=port), handoff=Handoff(inlet=None, reason="No.")))
        number, code, _ = error(await attempt(gateway.open(cluster)))
    assert (number, code) == (2, 1053)
