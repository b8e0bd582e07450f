"""The two sockets: who may use them, waiting for events, and how serving ends."""

import asyncio
import contextlib
import signal
import socket
import stat
from pathlib import Path

import httpx
import pytest
import uvloop

from api.fakes import TOKEN, FakeClusters, FakeServer
from api.served import Served
from zorya.api.serve import GRACE_S, Api
from zorya.control.events import EventKind
from zorya.core import errors

DEADLINE_S = 10


async def stop(served: Served) -> None:
    served.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(served.task, DEADLINE_S)


@pytest.mark.parametrize("path", ["/v1/status", "/docs", "/openapi.json", "/nothing"])
@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {TOKEN.value}", "Bearer", "Bearer \xff"])
async def test_tcp_refuses_every_path_when_the_token_is_not_given(served: Served, path: str, given: str | None) -> None:
    headers = [] if given is None else [(b"Authorization", given.encode("latin-1"))]
    async with httpx.AsyncClient(base_url=served.tcp.base_url, trust_env=False) as stranger:
        response = await stranger.get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "unauthorized"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:7399", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:7399", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.", 421),
        ("", 421),
    ],
)
async def test_tcp_refuses_a_host_header_that_is_not_loopback(served: Served, host: str, status: int) -> None:
    assert (await served.tcp.get("/v1/status", headers={"Host": host})).status_code == status


async def test_the_unix_socket_is_private_and_needs_no_token(served: Served) -> None:
    assert stat.S_IMODE(served.socket_path.stat().st_mode) == 0o600
    assert (await served.unix.get("/v1/status")).status_code == 200


async def test_a_wait_ends_when_an_event_happens(served: Served) -> None:
    await served.clusters.happen("main", "Before.")
    asked = asyncio.create_task(served.unix.get("/v1/events", params={"after": 10, "wait": 60}, timeout=DEADLINE_S))
    await asyncio.wait_for(served.clusters.someone_waits.wait(), DEADLINE_S)
    await served.clusters.happen("main", "Now.")
    assert [event["message"] for event in (await asked).json()["events"]] == ["Now."]


async def test_a_wait_goes_on_when_a_freeze_happens_and_freezes_are_not_wanted(served: Served) -> None:
    query = {"wait": 60, "sleep": False}
    asked = asyncio.create_task(served.unix.get("/v1/events", params=query, timeout=DEADLINE_S))
    await asyncio.wait_for(served.clusters.someone_waits.wait(), DEADLINE_S)
    served.clusters.someone_waits.clear()
    await served.clusters.happen("main", "It froze.", EventKind.FROZEN)
    await asyncio.wait_for(served.clusters.someone_waits.wait(), DEADLINE_S)
    await served.clusters.happen("main", "Now.")
    assert [event["message"] for event in (await asked).json()["events"]] == ["Now."]


async def test_a_wait_answers_nothing_when_its_time_is_up(served: Served) -> None:
    response = await served.unix.get("/v1/events", params={"wait": 0.01})
    assert response.json() == {"events": []}


async def test_a_wait_is_let_go_when_serving_ends(served: Served) -> None:
    asked = asyncio.create_task(served.unix.get("/v1/events", params={"wait": 60}, timeout=DEADLINE_S))
    await asyncio.wait_for(served.clusters.someone_waits.wait(), DEADLINE_S)
    await stop(served)
    assert (await asked).json() == {"events": []}
    assert not served.socket_path.exists()
    with pytest.raises(httpx.ConnectError):
        await served.tcp.get("/v1/status")


async def test_a_request_is_answered_503_when_it_outlasts_the_grace(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.create_task(served.unix.post("/v1/clusters", json={"name": "slow"}, timeout=GRACE_S + DEADLINE_S))
    await asyncio.wait_for(served.clusters.asked_to_create.wait(), DEADLINE_S)
    await stop(served)
    response = await asked
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "server_stopping"
    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


async def test_serving_ends_when_a_client_sends_half_a_request_or_nothing(served: Served) -> None:
    unfinished = b"POST /v1/clusters HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{"
    with contextlib.ExitStack() as clients:
        for sent in (b"", b"GET /v1/sta", unfinished):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(served.socket_path))
            client.sendall(sent)
        # Connections are accepted in order, so that these are accepted once this is answered.
        assert (await served.unix.get("/v1/status")).status_code == 200
        await stop(served)


def test_a_stop_answers_before_it_ends_serving_and_signals_stay_the_callers(short_path: Path) -> None:
    """On uvloop, which the server uses."""
    path = short_path / "zorya.sock"
    path.touch()

    async def scenario() -> None:
        clusters = FakeClusters()
        server = FakeServer(short_path, clusters)
        api = Api(server=server, clusters=clusters, token=TOKEN, socket_path=path, port=0)
        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(api.run(on_ready=server.ready))
            transport = httpx.AsyncHTTPTransport(uds=str(path), retries=3)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                await server.is_ready.wait()
                asked = asyncio.create_task(client.post("/v1/stop"))
                await server.stopping.wait()
                assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
                serving.cancel()
                assert (await asked).status_code == 202

    uvloop.run(asyncio.wait_for(scenario(), DEADLINE_S))
    assert not path.exists()


async def test_another_port_is_used_when_the_wanted_one_is_taken(short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        clusters = FakeClusters()
        server = FakeServer(short_path, clusters)
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        wanted = taken.getsockname()[1]
        api = Api(server=server, clusters=clusters, token=TOKEN, socket_path=short_path / "zorya.sock", port=wanted)
        serving = asyncio.create_task(api.run(on_ready=port.set_result))
        assert await asyncio.wait_for(port, DEADLINE_S) != wanted
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


async def test_the_home_is_named_when_the_socket_cannot_be_made(short_path: Path) -> None:
    clusters = FakeClusters()
    path = short_path / ("long" * 30) / "zorya.sock"
    api = Api(server=FakeServer(short_path, clusters), clusters=clusters, token=TOKEN, socket_path=path, port=0)
    with pytest.raises(errors.HomeUnusable, match="cannot be made"):
        await api.run(on_ready=lambda _port: None)
