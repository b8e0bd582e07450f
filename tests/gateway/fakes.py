"""A cluster and an engine that do as the test says, and what tests say to the gateway."""

import asyncio
import contextlib
import functools
import select
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from zorya.core.identity import Known
from zorya.core.model import Access, Address, EngineKind, Entrance, Handoff
from zorya.core.settings import Settings
from zorya.gateway.attach import Way
from zorya.gateway.listeners import Gateway
from zorya.trust.certificates import Certificates
from zorya.trust.identity import ServerIdentity

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
GSS_REQUEST = (8).to_bytes(4) + (80877104).to_bytes(4)
CANCEL_CODE = (80877102).to_bytes(4)
GREETING = b"greeting of the engine"


def packet(body: bytes) -> bytes:
    return (4 + len(body)).to_bytes(4) + body


def startup(version: int = 3 << 16, /, **parameters: str) -> bytes:
    fields = b"".join(f"{name}\0{value}\0".encode() for name, value in (parameters or {"user": "ann"}).items())
    return packet(version.to_bytes(4) + fields + b"\0")


def cancel_request(pid: int = 4711, secret: bytes = b"\1\2\3\4") -> bytes:
    return packet(CANCEL_CODE + pid.to_bytes(4) + secret)


def client_hello(*protocols: str, host_name: str = "localhost") -> bytes:
    """Answer a TLS client's first message; `protocols` are those that it wants to speak inside."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host_name).do_handshake()
    return outgoing.read()


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
    """A cluster as the gateway sees it, asleep at first. `wake` waits until `starts` or `fails` says how it ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._outcome = asyncio.Event()
        self._entrances: list[Entrance] = []
        self._problem: Exception | None = None
        self._up: Entrance | None = None
        self._frozen = False
        self.entered = 0
        self.left = 0
        self.wakes = 0
        self.served = 0
        """Clients that were attached."""
        self.ended = 0
        """Those of them whose session the gateway has seen to its end."""
        self.access = Access()
        self.identities: Known | None = None
        self.engine = EngineKind.POSTGRES
        self.engine_major = "17"
        self.speaks_tls = True
        self.speaks_direct_tls = True
        self.is_starting = False
        self.pids: set[int] = set()
        self.failures: list[tuple[str, str]] = []
        """Addresses and roles of logins that the gateway has turned down."""

    # What the gateway asks.

    @property
    def name(self) -> str:
        return self._name

    def enter(self) -> None:
        self.entered += 1

    async def taken_over(self) -> None:
        """It always is."""

    def leave(self) -> None:
        assert self.present > 0
        self.left += 1

    def attached(self) -> None:
        assert self.present > 0
        self.served += 1

    def detached(self) -> None:
        assert self.ended < self.served
        self.ended += 1

    async def wake(self) -> Entrance:
        assert self.present > 0
        self.wakes += 1
        await self._outcome.wait()
        if self._problem is not None:
            raise self._problem
        if len(self._entrances) > 1:
            return self._entrances.pop(0)
        self._up, self._frozen = self._entrances[0], False
        return self._up

    @property
    def is_up(self) -> bool:
        return self._up is not None

    @property
    def sessions(self) -> int:
        return self.present + self.served - self.ended

    def has_process(self, pid: int) -> bool:
        return pid in self.pids

    def login_failed(self, address: str, role: str) -> None:
        self.failures.append((address, role))

    def running(self) -> Entrance | None:
        return None if self._frozen else self._up

    # What the test says.

    @property
    def present(self) -> int:
        """Clients that wait for a session."""
        return self.entered - self.left

    def runs(self, entrance: Entrance) -> None:
        """Let the cluster be up, and get held clients in."""
        self._up = entrance
        self.starts(entrance)

    def freezes(self) -> None:
        assert self._up is not None
        self._frozen = True

    def starts(self, *entrances: Entrance) -> None:
        """Let wakes answer these in turn, and the last one from then on; then the cluster is up."""
        self._entrances = list(entrances)
        self._problem = None
        self._outcome.set()

    def sleeps(self) -> None:
        self._up = None
        self._outcome.clear()

    def fails(self, problem: Exception) -> None:
        self._problem = problem
        self._outcome.set()


class FakeKeep:
    """Holds listening sockets by descriptors of its own, as the keeper does: it reads later what it is told."""

    def __init__(self) -> None:
        self._held: dict[int, list[socket.socket]] = {}
        self._unread: list[socket.socket] = []

    def keep(self, port: int, listeners: Sequence[socket.socket]) -> None:
        self.let_go(port)
        self._held[port] = [listener.dup() for listener in listeners]

    def let_go(self, port: int) -> None:
        self._unread += self._held.pop(port, [])

    @property
    def ports(self) -> set[int]:
        """What it holds once it has read everything."""
        return set(self._held)

    def answer_next_server(self) -> dict[int, list[socket.socket]]:
        return {port: [one.dup() for one in held] for port, held in self._held.items()}

    def close(self) -> None:
        for port in list(self._held):
            self.let_go(port)
        for unread in self._unread:
            unread.close()


class FakeEngine:
    """Keeps what each connection sends first, greets, and echoes the rest until the client ends.

    Clients get in through a TCP port and through an inlet, where they are taken as native/handoff.c takes them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "inlet"
        self.first: list[bytes] = []
        """Every packet before a session's greeting."""
        self.relayed = 0
        """Connections that were accepted from the TCP port."""
        self.peers: list[bytes] = []
        """The addresses of those that were taken from the inlet."""
        self.taken_back = 0
        """Those that were found in the inlet after the gateway had given up handing them over."""
        self._server: asyncio.Server | None = None
        self._inlet: socket.socket | None = None
        self._sessions: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve_relayed, "127.0.0.1", 0, backlog=1024)
        self.open_inlet()

    async def stop(self) -> None:
        assert self._server is not None
        self.close_inlet()
        self._server.close()
        self.drop_all()
        await eventually(lambda: self.open == 0, "the engine's connections are over")

    @property
    def open(self) -> int:
        return len(self._sessions)

    @property
    def address(self) -> Address:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return Address(host=host, port=port)

    def entrance(self, way: Way) -> Entrance:
        """Answer how to get in, in this way as the engine can: by the relay alone, or by the inlet as well."""
        inlet = self._path if way is Way.HANDOFF else None
        return Entrance(address=self.address, handoff=Handoff(inlet=inlet, reason="The test says so."))

    def drop_all(self) -> None:
        for session in self._sessions:
            session.cancel()

    # The inlet and its faults.

    def open_inlet(self) -> None:
        self._path.unlink(missing_ok=True)
        self._inlet = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inlet.setblocking(False)
        self._inlet.bind(str(self._path))
        self.go_on()

    def get_stuck(self) -> None:
        """Take nothing from the inlet until `go_on`."""
        asyncio.get_running_loop().remove_reader(self._of_inlet())

    def go_on(self) -> None:
        asyncio.get_running_loop().add_reader(self._of_inlet(), self._take_all, True)

    def refuse(self) -> None:
        """Drop from now on what comes to the inlet, as an engine does that is about to end."""
        asyncio.get_running_loop().add_reader(self._of_inlet(), self._take_all, False)

    def close_inlet(self) -> None:
        """Nobody listens there any more; the path remains. May be repeated."""
        if self._inlet is not None:
            self.get_stuck()
            self._inlet.close()
            self._inlet = None

    def end_with_its_mail(self) -> None:
        """End while clients wait in the inlet: the kernel drops what was sent to them."""
        self.close_inlet()

    def remove_inlet(self) -> None:
        self._path.unlink()

    @property
    def has_mail(self) -> bool:
        """Whether a client waits in the inlet."""
        return bool(select.select([self._of_inlet()], [], [], 0)[0])

    def _of_inlet(self) -> socket.socket:
        assert self._inlet is not None
        return self._inlet

    def _take_all(self, accepts: bool) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(accepts)

    def _take(self, accepts: bool) -> None:
        peer, descriptors, _, _ = socket.recv_fds(self._of_inlet(), 128, 2)
        client, receipt = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        with receipt:
            kept = accepts and self._write_receipt(receipt)
        if kept:
            self.peers.append(peer)
            self._begin(self._serve_handed_over(client))
        else:
            client.close()

    def _write_receipt(self, receipt: socket.socket) -> bool:
        try:
            return receipt.send(b"\0", socket.MSG_DONTWAIT) == 1
        except BrokenPipeError:
            self.taken_back += 1
            return False

    # Sessions.

    def _begin(self, session: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(session, name="engine's session")
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    def _serve_relayed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.relayed += 1
        self._begin(self._serve(reader, writer))

    async def _serve_handed_over(self, client: socket.socket) -> None:
        await self._serve(*await asyncio.open_connection(sock=client))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                if await self._negotiate(reader, writer):
                    writer.write(GREETING)
                    while data := await reader.read(65536):
                        writer.write(data)
                        await writer.drain()
        finally:
            writer.close()

    async def _negotiate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer whether the client wants a session. Requests for encryption are refused."""
        while True:
            length = await reader.readexactly(4)
            packet = length + await reader.readexactly(int.from_bytes(length) - 4)
            self.first.append(packet)
            if packet not in (SSL_REQUEST, GSS_REQUEST):
                return packet[4:8] != CANCEL_CODE
            writer.write(b"N")


@dataclass(frozen=True, kw_only=True)
class RunningGateway:
    """A gateway, and the means of a client to reach it."""

    gateway: Gateway
    task: asyncio.Task[None]

    def open(self, endpoint: FakeEndpoint) -> int:
        port = free_port()
        self.gateway.open(port, endpoint)
        return port


@functools.cache
def identity() -> ServerIdentity:
    """The gateway's certificate; only its own authority's root is of interest to clients."""
    return certificates().identity


@functools.cache
def certificates() -> Certificates:
    with tempfile.TemporaryDirectory(prefix="zt-") as folder:
        return Certificates.open(Path(folder), Settings(), now=datetime.now(UTC))


def new_gateway(
    settings: Settings, *, keep: FakeKeep, kept: Mapping[int, Sequence[socket.socket]] = MappingProxyType({})
) -> Gateway:
    return Gateway(settings, keep=keep, kept=kept, identity=identity, now=lambda: datetime.now(UTC))


@contextlib.asynccontextmanager
async def running(
    settings: Settings, *, keep: FakeKeep, kept: Mapping[int, Sequence[socket.socket]] = MappingProxyType({})
) -> AsyncIterator[RunningGateway]:
    gateway = new_gateway(settings, keep=keep, kept=kept)
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

    @property
    def address(self) -> tuple[str, int]:
        """Where it comes from."""
        host, port = self.writer.get_extra_info("sockname")[:2]
        return host, port

    @property
    def was_reset(self) -> bool:
        """Whether the connection's end was a reset, after whatever came before it."""
        error: int = self.writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return error != 0

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def end_its_side(self) -> None:
        """Send no more, but go on reading."""
        self.writer.write_eof()

    async def ask_for_a_session(self) -> None:
        """Say what a client says first, and wait for the greeting."""
        self.send(startup())
        assert await self.read(len(GREETING)) == GREETING

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
async def connected(port: int, host: str = "127.0.0.1", source: str | None = None) -> AsyncIterator[Client]:
    """A connection to `host`, from the address `source` if that is given."""
    client = Client(*await asyncio.open_connection(host, port, local_addr=(source, 0) if source else None))
    try:
        yield client
    finally:
        await client.close()
