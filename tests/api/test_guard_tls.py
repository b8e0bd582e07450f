"""The API beyond loopback: over TLS alone, with the certificate of the moment, and for its own names alone."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import uvloop

from api.fakes import TOKEN, FakeClusters, FakeServer
from trust.making import client_context, make
from zorya.api.serve import Api
from zorya.core import errors
from zorya.core.settings import Settings
from zorya.trust.certificates import Certificates

DEADLINE_S = 10
# Every address of 127.0.0.0/8 is loopback; what listens on all of the host's is not.
EVERYWHERE = "0.0.0.0"
BEARER = {"Authorization": f"Bearer {TOKEN.value}"}


class Beyond:
    """An API that listens beyond loopback."""

    def __init__(self, api: Api, task: asyncio.Task[None], server: FakeServer, certificates: Certificates) -> None:
        self.api = api
        self.task = task
        self.port = server.api_port
        self.certificates = certificates

    def url(self, host: str, scheme: str = "https") -> str:
        return f"{scheme}://{host}:{self.port}"

    def client(self, host: str = "localhost", *, token: bool = True) -> httpx.AsyncClient:
        """Answer a client that trusts Zorya's root."""
        return httpx.AsyncClient(
            base_url=self.url(host),
            headers=BEARER if token else {},
            verify=client_context(self.certificates.root_pem),
            trust_env=False,
        )


@contextlib.asynccontextmanager
async def serving(folder: Path, bind: str = EVERYWHERE) -> AsyncIterator[Beyond]:
    (folder / "tls").mkdir()
    settings = Settings(domain="db.example", api_bind=bind)
    certificates = Certificates.open(folder / "tls", settings, now=datetime.now(UTC))
    server = FakeServer(folder, FakeClusters())
    api = Api(
        server=server,
        clusters=FakeClusters(),
        token=TOKEN,
        socket_path=folder / "zorya.sock",
        port=0,
        bind=bind,
        identity=lambda: certificates.identity,
    )
    task = asyncio.create_task(api.run(on_ready=server.ready))
    try:
        ready = asyncio.create_task(server.is_ready.wait())
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE_S)
        ready.cancel()
        if task.done():
            await task
        yield Beyond(api, task, server, certificates)
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=DEADLINE_S)
        assert task.done()


@pytest.fixture
async def beyond(short_path: Path) -> AsyncIterator[Beyond]:
    async with serving(short_path) as served:
        yield served


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_client_with_the_root_is_served_over_tls(beyond: Beyond, host: str) -> None:
    async with beyond.client(host) as client:
        response = await client.get("/v1/ca")
    assert response.status_code == 200
    assert response.json()["source"] == "Zorya's own authority"


async def test_a_client_without_the_root_does_not_trust_it(beyond: Beyond) -> None:
    stranger = client_context(make().certificate_pem.decode())
    async with httpx.AsyncClient(verify=stranger, trust_env=False) as client:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get(beyond.url("localhost"))


async def test_the_token_is_needed_over_tls_too(beyond: Beyond) -> None:
    async with beyond.client(token=False) as client:
        assert (await client.get("/v1/ca")).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:7399", 200),
        ("[::1]:1", 200),
        ("main.db.example", 200),
        ("DB.example:7399", 200),
        ("a.main.db.example", 421),
        ("evil.example", 421),
        ("db.example.evil.example", 421),
        ("*.db.example", 421),
        ("[localhost]", 421),
        ("::1", 421),
        ("127.0.0.2", 421),
        ("", 421),
        ("localhost:7399:7399", 421),
        ("localhost:", 421),
    ],
)
async def test_a_host_header_is_refused_when_the_certificate_is_not_good_for_it(
    beyond: Beyond, host: str, status: int
) -> None:
    async with beyond.client() as client:
        assert (await client.get("/v1/ca", headers={"Host": host})).status_code == status


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_plain_http_gets_nothing_and_is_not_worth_a_warning(
    short_path: Path, caplog: pytest.LogCaptureFixture, run: Callable[[Coroutine[object, object, None]], None]
) -> None:
    request = f"GET /v1/ca HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN.value}\r\n\r\n"

    async def scenario() -> None:
        async with serving(short_path) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(request.encode())
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                answer = await reader.read()
            writer.close()
            # At most an alert of TLS.
            assert answer == b"" or answer[0] == 0x15
            async with served.client() as client:
                assert (await client.get("/v1/ca")).status_code == 200

    run(asyncio.wait_for(scenario(), 3 * DEADLINE_S))
    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_outdated_tls_is_refused(beyond: Beyond, version: ssl.TLSVersion) -> None:
    old = client_context(None, only=version)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection("127.0.0.1", beyond.port, ssl=old)


@contextlib.asynccontextmanager
async def connected(port: int, name: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    streams = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(None), server_hostname=name)
    yield streams
    streams[1].close()
    await streams[1].wait_closed()


def shown(writer: asyncio.StreamWriter) -> str:
    return ssl.DER_cert_to_PEM_cert(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Send a request without a token, and answer the first line of what comes back."""
    writer.write(b"GET /v1/ca HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return head.splitlines()[0]


@pytest.mark.parametrize("name", ["main.db.example", "127.0.0.1"])
def test_new_connections_get_a_renewed_certificate_and_old_ones_go_on(short_path: Path, name: str) -> None:
    """On uvloop, which the server uses. A client that connects to an address names no server in its handshake."""

    async def scenario() -> None:
        async with serving(short_path) as served, connected(served.port, name) as (reader, writer):
            before = served.certificates.identity
            assert shown(writer) == before.chain
            assert await ask(reader, writer) == b"HTTP/1.1 401 Unauthorized"
            await asyncio.to_thread(served.certificates.renew, datetime.now(UTC))
            async with connected(served.port, name) as (_, later):
                assert shown(later) == served.certificates.identity.chain != before.chain
            assert await ask(reader, writer) == b"HTTP/1.1 401 Unauthorized"
            assert shown(writer) == before.chain

    uvloop.run(asyncio.wait_for(scenario(), 3 * DEADLINE_S))


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_serving_ends_when_a_client_has_not_finished_its_handshake(
    short_path: Path, sent: bytes, run: Callable[[Coroutine[object, object, None]], None]
) -> None:
    async def scenario() -> None:
        async with serving(short_path) as served:
            with socket.create_connection(("127.0.0.1", served.port)) as half:
                half.sendall(sent)
                async with served.client() as client:
                    assert (await client.get("/v1/ca")).status_code == 200
                # Stopped while this client is still there.
                served.task.cancel()
                await asyncio.wait({served.task}, timeout=DEADLINE_S)
                assert served.task.done()

    run(asyncio.wait_for(scenario(), 3 * DEADLINE_S))


async def test_the_address_of_the_api_is_told(beyond: Beyond, short_path: Path) -> None:
    assert beyond.api.url(7399) == "https://localhost:7399"


@pytest.mark.parametrize(
    ("bind", "url"),
    [("127.0.0.1", "http://127.0.0.1:7399"), ("127.0.0.5", "http://127.0.0.5:7399"), ("::1", "http://[::1]:7399")],
)
def test_loopback_needs_no_certificate(short_path: Path, bind: str, url: str) -> None:
    assert _loopback(short_path, bind).url(7399) == url


@pytest.mark.parametrize("bind", ["localhost", "", "db.example.com", "1.2.3"])
def test_what_is_no_address_is_refused(short_path: Path, bind: str) -> None:
    with pytest.raises(errors.InvalidSetting, match="api_bind"):
        _loopback(short_path, bind)


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "192.0.2.200"])
def test_an_api_beyond_loopback_is_not_made_without_a_certificate(short_path: Path, bind: str) -> None:
    with pytest.raises(ValueError, match="certificate"):
        _loopback(short_path, bind)


def _loopback(folder: Path, bind: str) -> Api:
    server = FakeServer(folder, FakeClusters())
    path = folder / "zorya.sock"
    return Api(server=server, clusters=FakeClusters(), token=TOKEN, socket_path=path, port=0, bind=bind)


async def test_an_address_that_the_host_does_not_have_is_refused(short_path: Path) -> None:
    with pytest.raises(errors.InvalidSetting, match="api_bind"):
        async with serving(short_path, "203.0.113.77"):
            pass


async def test_ipv6_is_served_too(short_path: Path) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this host has no IPv6")
    async with serving(short_path, "::") as served, served.client("[::1]") as client:
        assert (await client.get("/v1/ca")).status_code == 200
