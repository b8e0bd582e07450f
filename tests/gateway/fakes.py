"""A cluster and an engine that do as the test says, and what tests say to the gateway."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from zorya.core.model import Address
from zorya.core.settings import Settings
from zorya.gateway.listeners import Gateway

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
GSS_REQUEST = (8).to_bytes(4) + (80877104).to_bytes(4)
GREETING = b"greeting of the engine"


def packet(body: bytes) -> bytes:
    return (4 + len(body)).to_bytes(4) + body


def startup(version: int = 3 << 16, /, **parameters: str) -> bytes:
    fields = b"".join(f"{name}\0{value}\0".encode() for name, value in (parameters or {"user": "ann"}).items())
    return packet(version.to_bytes(4) + fields + b"\0")


def cancel_request(pid: int = 4711, secret: bytes = b"\1\2\3\4") -> bytes:
    return packet((80877102).to_bytes(4) + pid.to_bytes(4) + secret)


def parse_error(data: bytes) -> dict[str, str]:
    """Read exactly one ErrorResponse, the way a driver would."""
    assert data[:1] == b"E"
    assert int.from_bytes(data[1:5]) == len(data) - 1
    assert data[-2:] == b"\0\0"
    return {field[0]: field[1:] for field in data[5:-2].decode().split("\0")}


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


async def eventually(condition: Callable[[], bool], what: str, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.005)


class FakeEndpoint:
    """A cluster as the gateway sees it. `wake` waits until `serve_at` or `fail` says how it ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._outcome = asyncio.Event()
        self._addresses: list[Address] = []
        self._problem: Exception | None = None
        self.running: Address | None = None
        self.entered = 0
        self.left = 0
        self.wakes = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def present(self) -> int:
        return self.entered - self.left

    def enter(self) -> None:
        self.entered += 1

    def leave(self) -> None:
        assert self.present > 0
        self.left += 1

    async def wake(self) -> Address:
        assert self.present > 0
        self.wakes += 1
        await self._outcome.wait()
        if self._problem is not None:
            raise self._problem
        return self._addresses.pop(0) if len(self._addresses) > 1 else self._addresses[0]

    def running_address(self) -> Address | None:
        return self.running

    def serve_at(self, *addresses: Address) -> None:
        """Let wakes answer these in turn, and the last one from then on."""
        self._addresses = list(addresses)
        self.running = addresses[-1]
        self._outcome.set()

    def fail(self, problem: Exception) -> None:
        self._problem = problem
        self._outcome.set()


class FakeEngine:
    """Keeps what each connection sends first, greets, and echoes the rest until the client ends."""

    def __init__(self) -> None:
        self.first: list[bytes] = []
        self.open = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await eventually(lambda: self.open == 0, "the engine's connections are over")

    @property
    def address(self) -> Address:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return Address(host=host, port=port)

    def drop_all(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            length = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(length) - 4)
            self.first.append(length + body)
            if len(body) == 12:
                return self._finish(writer)
            writer.write(GREETING)
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        return self._finish(writer)

    def _finish(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        self.open -= 1


@dataclass(frozen=True, kw_only=True)
class RunningGateway:
    """A gateway, and the means of a client to reach it."""

    gateway: Gateway
    task: asyncio.Task[None]

    def open(self, endpoint: FakeEndpoint) -> int:
        port = free_port()
        self.gateway.open(port, endpoint)
        return port


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[RunningGateway]:
    gateway = Gateway(settings)
    task = asyncio.create_task(gateway.run(), name="gateway")
    try:
        yield RunningGateway(gateway=gateway, task=task)
        assert not task.done(), "the gateway ended by itself"
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@dataclass(frozen=True, slots=True)
class Client:
    """One connection to the gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), 20)

    async def read_to_end(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 20)

    async def wait_until_cut_off(self) -> None:
        """Wait for the end, after which nothing may have come; a reset ends as well as a close."""
        with contextlib.suppress(ConnectionResetError):
            assert await self.read_to_end() == b""

    async def read_error(self) -> dict[str, str]:
        return parse_error(await self.read_to_end())

    def reset(self) -> None:
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(port: int, host: str = "127.0.0.1") -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(host, port))
    try:
        yield client
    finally:
        await client.close()
