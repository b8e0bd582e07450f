"""Clusters and a server that live in memory and keep the contracts that the API relies on.

Run as a program with a home, this serves the real API on that home's socket until it is asked to stop.
"""

import asyncio
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue

from zorya.api.serve import Api
from zorya.api.server_control import ServerStatus
from zorya.control.events import EventKind
from zorya.control.view import (
    UNCHANGED,
    ClusterView,
    CopyView,
    CreateRequest,
    Credentials,
    EventView,
    LoadView,
    ModifyRequest,
    NodeView,
    OperationView,
    ScalingView,
    VerifyView,
    VolumeView,
)
from zorya.core import errors, ids
from zorya.core.capacity import Acu, is_capacity
from zorya.core.findings import Finding, FindingState
from zorya.core.model import LOOPBACK, Address, Compute, EngineKind, Mode, Secret, Status, WakeOn
from zorya.core.volume import CopyKind, CopyState
from zorya.metering.report import Period, Prices, UsageReport, UsageRow
from zorya.storage import placement, quorum
from zorya.trust.certificates import CertificateView

NOW = datetime(2026, 2, 3, 9, 0, 0, 31000, tzinfo=UTC)
TOKEN = Secret("a-token-of-the-test")
ACU = Acu(memory_bytes=2 * 2**30, cores=0.25)
PRICES = Prices(acu_hour=0.12, gib_month=0.1, currency="USD")


POSITION = 0x1A2B3C4

_DEADLINE_S = 30


class FakeClusters:
    """A fleet without engines. `refusals` are raised when a cluster of that name is made.

    A cluster named `hurt` has a damaged copy and one that is being made anew, one named `gone` has too few copies left.
    """

    def __init__(self) -> None:
        self.refusals: dict[str, Exception] = {}
        self.requests: list[CreateRequest] = []
        self.modifications: list[ModifyRequest] = []
        self.passwords: dict[str, str] = {}
        """Those that were changed, by cluster."""
        self.never_ready = asyncio.Event()
        """A cluster named `slow` waits for this while it is made."""
        self.asked_to_create = asyncio.Event()
        self.someone_waits = asyncio.Event()
        """Set when `next_events` has nothing to answer yet."""
        self._clusters: dict[str, ClusterView] = {}
        self._events: list[EventView] = []
        self._news = asyncio.Condition()

    def all(self) -> Sequence[ClusterView]:
        return sorted(self._clusters.values(), key=lambda cluster: cluster.name)

    def get(self, name: str) -> ClusterView:
        try:
            return self._clusters[name.lower()]
        except KeyError:
            raise errors.ClusterNotFound(
                f"There is no cluster named {name}.", hint="`zorya list` shows the clusters there are."
            ) from None

    def credentials(self, name: str) -> Credentials:
        cluster = self.get(name)
        password = self.passwords.get(cluster.name, f"secret-{cluster.name}")
        url = f"postgresql://zorya:{password}@{cluster.endpoint}/{cluster.database}"
        return Credentials(
            username="zorya",
            password=Secret(password),
            database=cluster.database,
            endpoint=cluster.endpoint,
            url=Secret(url),
        )

    async def create(self, request: CreateRequest) -> ClusterView:
        self.requests.append(request)
        self.asked_to_create.set()
        name = ids.parse_name(request.name)
        if name in self.refusals:
            raise self.refusals[name]
        if name in self._clusters:
            raise errors.NameTaken(f"A cluster named {name} exists.", hint="Choose another name.")
        if name == "slow":
            await self.never_ready.wait()
        self.put(make_cluster(name, request))
        await self.happen(name, "The cluster is created.")
        return self.get(name)

    async def modify(self, name: str, request: ModifyRequest) -> ClusterView:
        self.modifications.append(request)
        values = {field: getattr(request, field) for field in ModifyRequest.__slots__ if field != "copies"}
        changes = {field: value for field, value in values.items() if value is not UNCHANGED}
        changed = replace(self.get(name), **changes)
        if request.copies is not UNCHANGED:
            changed = _resized(changed, request.copies)
        if changed.mode is Mode.SERVERLESS:
            changed = replace(changed, fixed_capacity=None)
        elif changed.fixed_capacity is None:
            changed = replace(changed, fixed_capacity=changed.max_capacity)
        self.put(changed)
        return self.get(name)

    async def set_capacity(self, name: str, capacity: float) -> ClusterView:
        cluster = self.get(name)
        if not is_capacity(capacity):
            raise errors.InvalidInput(f"{capacity:g} is no capacity.", hint="Give a step of 0.5.")
        if cluster.compute is not Compute.RUNNING:
            raise errors.NotReady(f"Cluster {cluster.name} is {cluster.compute}.", hint="Resume it first.")
        change = ScalingView(
            at=NOW,
            from_acu=cluster.capacity,
            to_acu=capacity,
            part="hand",
            reason="It was set by hand.",
            took_s=0.0031,
        )
        fixed = None if cluster.fixed_capacity is None else capacity
        self.put(replace(cluster, capacity=capacity, fixed_capacity=fixed, last_scaling=change))
        return self.get(name)

    async def usage(self, name: str | None, *, since: datetime, until: datetime, by: Period) -> UsageReport:
        """Answer one row a cluster: an ACU-hour, 0.12 USD."""
        clusters = self.all() if name is None else [self.get(name)]
        return UsageReport(
            since=since, until=until, by=by, prices=PRICES, rows=[_usage_of(one, since, until) for one in clusters]
        )

    def node(self) -> NodeView:
        return NodeView(
            capacity=8, allotted=sum(one.capacity for one in self.all()), cores=2.0, memory_bytes=16 * 2**30
        )

    async def change_password(self, name: str) -> Credentials:
        cluster = self.get(name)
        self.passwords[cluster.name] = f"changed-{cluster.name}"
        return self.credentials(name)

    async def resume(self, name: str) -> ClusterView:
        cluster = self.get(name)
        self.put(
            replace(
                cluster,
                compute=Compute.RUNNING,
                capacity=0.5,
                engine_pid=77,
                resident_bytes=43_302_912,
                awake_reason="",
                reason="It was asked to.",
            )
        )
        await self.happen(cluster.name, "The cluster is resumed.")
        return self.get(name)

    async def pause(self, name: str, *, force: bool) -> ClusterView:
        cluster = self.get(name)
        if cluster.sessions and not force:
            raise errors.ClusterBusy(f"Cluster {cluster.name} has an open session.", hint="End it, or use --force.")
        self.put(
            replace(
                cluster,
                compute=Compute.STOPPED,
                capacity=0,
                sessions=0,
                engine_pid=None,
                resident_bytes=None,
                awake_reason="",
                reason="Paused.",
            )
        )
        await self.happen(cluster.name, "The cluster is paused.")
        return self.get(name)

    def copies(self, name: str) -> Sequence[CopyView]:
        cluster = self.get(name)
        return [_copy_of(cluster, zone, kind) for zone, kind in _places(cluster.volume.copies)]

    async def verify(self, name: str) -> VerifyView:
        cluster = self.get(name)
        if cluster.operation is not None:
            raise errors.NotReady(f"Cluster {cluster.name} is {cluster.compute}.", hint="Try again in a moment.")
        damaged, repaired = {
            "hurt": (("Copy b_full: 1 of 1412 pages has a wrong checksum.",), ("b_full",)),
            "gone": (("Copy a_full is not there.", "Copy a_tail is not there."), ("a_tail",)),
        }.get(cluster.name, ((), ()))
        return VerifyView(copies=cluster.volume.copies, damaged=damaged, repaired=repaired, took_s=12.4)

    async def recover(self, name: str, *, accept_data_loss: bool) -> ClusterView:
        cluster = self.get(name)
        if cluster.volume.health != "lost":
            raise errors.Conflict(f"Cluster {cluster.name} has enough copies to know what was committed.")
        if not accept_data_loss:
            raise errors.InvalidInput(f"Cluster {cluster.name} may lack what was committed last.")
        volume = replace(cluster.volume, health="waiting", reason="Its copies are being made.", epoch=3)
        self.put(replace(cluster, compute=Compute.RUNNING, reason="It goes on from what was left.", volume=volume))
        return self.get(name)

    async def delete(self, name: str) -> None:
        cluster = self.get(name)
        del self._clusters[cluster.name]
        await self.happen(cluster.name, "The cluster is deleted.")

    async def events(self, name: str | None, *, after: int, limit: int, sleep: bool) -> Sequence[EventView]:
        shown = [event for event in self._events if sleep or event.category != "sleep"]
        return [event for event in shown if event.seq > after and name in {None, event.cluster}][-limit:]

    async def next_events(self, name: str | None, *, after: int, sleep: bool) -> Sequence[EventView]:
        async with self._news:
            while not (found := await self.events(name, after=after, limit=1000, sleep=sleep)):
                self.someone_waits.set()
                await self._news.wait()
            return found

    def put(self, cluster: ClusterView) -> None:
        """Have this cluster, in place of the one of its name."""
        self._clusters[cluster.name] = cluster

    async def happen(self, cluster: str, message: str, kind: EventKind = EventKind.RESUMED) -> None:
        """Record an event."""
        async with self._news:
            self._events.append(
                EventView(
                    seq=10 * (len(self._events) + 1),
                    at=NOW,
                    cluster=cluster,
                    kind=kind.id,
                    category=kind.category,
                    message=message,
                )
            )
            self._news.notify_all()


class FakeServer:
    """A server that has nothing to stop but itself."""

    def __init__(self, home: Path, clusters: FakeClusters) -> None:
        self.is_ready = asyncio.Event()
        self.stopping = asyncio.Event()
        self.left_running = False
        """What the last stop was told."""
        self.api_port = 0
        self.default_pause_after_s: int | None = 300
        self.default_freeze_after_s: float | None = 10.0
        self.findings = [
            Finding(name="PostgreSQL", state=FindingState.OK, found="PostgreSQL 17.10 is there.", advice=""),
            Finding(name="cgroup", state=FindingState.WARNING, found="No cgroup is delegated.", advice="Delegate one."),
        ]
        self.certificate = CertificateView(
            root_pem="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            root_fingerprint="4B",
            root_not_after=NOW + timedelta(days=3652),
            fingerprint="E7",
            not_after=NOW + timedelta(days=45),
            names=("*.zorya.localhost", "localhost"),
            source="Zorya's own authority",
            problem="",
        )
        self._home = home
        self._clusters = clusters

    def status(self) -> ServerStatus:
        states = [cluster.compute for cluster in self._clusters.all()]
        return ServerStatus(
            version="0.1.0",
            home=self._home,
            pid=os.getpid(),
            started_at=NOW,
            uptime_s=61.5,
            api_socket=self._home / "run" / "zorya.sock",
            api_port=self.api_port,
            api_url=f"http://127.0.0.1:{self.api_port}",
            bind=["127.0.0.1"],
            clusters={state: states.count(state) for state in set(states)},
            sessions=sum(cluster.sessions for cluster in self._clusters.all()),
            node=self._clusters.node(),
            acu=ACU,
        )

    def ca(self) -> CertificateView:
        return self.certificate

    async def renew_certificate(self) -> CertificateView:
        if self.certificate.root_pem is None:
            raise errors.Conflict("The certificate is the operator's.", hint="Replace its file.")
        self.certificate = replace(self.certificate, fingerprint="E8", not_after=NOW + timedelta(days=90))
        return self.certificate

    async def doctor(self) -> Sequence[Finding]:
        return self.findings

    def stop(self, *, leave_running: bool) -> None:
        self.left_running = leave_running
        self.stopping.set()

    def ready(self, port: int) -> None:
        """Take note of the API's port."""
        self.api_port = port
        self.is_ready.set()


def make_cluster(name: str, request: CreateRequest) -> ClusterView:
    """Answer a stopped cluster as `request` asks for."""
    cluster = ClusterView(
        name=name,
        id=f"{zlib.crc32(name.encode()):08x}",
        engine=request.engine,
        engine_version=request.version or "17.10",
        mode=request.mode,
        status=Status.AVAILABLE,
        compute=Compute.STOPPED,
        reason="Nobody has connected yet.",
        capacity=0,
        min_capacity=request.min_capacity,
        max_capacity=request.max_capacity,
        fixed_capacity=(request.fixed_capacity or request.max_capacity) if request.mode is Mode.PROVISIONED else None,
        last_scaling=None,
        load=None,
        acu_s=0.0,
        storage_bytes=None,
        pause_after_s=request.pause_after_s,
        freeze_after_s=request.freeze_after_s,
        allow=request.allow or LOOPBACK,
        require_tls=request.require_tls,
        wake_on=request.wake_on,
        max_clients=request.max_clients,
        endpoint=Address(host="127.0.0.1", port=request.port or 7400),
        endpoint_problem="",
        attach="handoff",
        attach_reason="Engines take clients' connections themselves.",
        username="zorya",
        database=name,
        sessions=0,
        engine_pid=None,
        resident_bytes=None,
        awake_reason="",
        engine_log="/home/of/the/test/engine.log",
        pauses_in_s=None,
        operation=None,
        volume=_volume(name, request.copies or 6),
        reader_endpoint=None,
        reader_problem="",
        created_at=NOW,
    )
    return _resized(cluster, cluster.volume.copies)


def _resized(cluster: ClusterView, copies: int) -> ClusterView:
    """Answer the cluster with a volume of so many copies, and with a reader endpoint if there are readers."""
    endpoint = cluster.endpoint
    reader = None if copies == 1 else replace(endpoint, port=endpoint.port + 100)
    return replace(cluster, volume=_volume(cluster.name, copies), reader_endpoint=reader)


def _volume(name: str, copies: int) -> VolumeView:
    current, epoch = {"hurt": (copies - 2, 2), "gone": (2, 2)}.get(name, (copies, 1))
    rule = quorum.rule(copies)
    health, reason = quorum.assess(rule, current=current, reachable=current, established=True)
    return VolumeView(
        copies=copies,
        current=current,
        needed=rule.write,
        health=health.value,
        reason=reason,
        epoch=epoch,
        primary="a_full" if epoch == 1 else "c_full",
    )


def _places(copies: int) -> Sequence[tuple[str, CopyKind]]:
    placed = placement.new_volume(copies, lambda zone: Path("/zones", zone)).copies
    return [(one.zone, one.kind) for one in placed]


def _copy_of(cluster: ClusterView, zone: str, kind: CopyKind) -> CopyView:
    name = f"{zone}_{kind}"
    current = CopyView(
        name=name,
        zone=zone,
        kind=kind,
        is_primary=name == cluster.volume.primary,
        state=CopyState.CURRENT,
        reason="",
        position=POSITION,
        lag_bytes=0,
        lag_s=0.0,
        progress=None,
        verified_at=None if kind is CopyKind.TAIL else NOW,
        folder=f"/zones/{zone}/{cluster.id}",
    )
    if cluster.name != "hurt":
        return current
    if name == "b_full":
        return replace(
            current,
            state=CopyState.BUILDING,
            reason="Its files\nwere gone.",
            position=None,
            lag_bytes=None,
            lag_s=None,
            progress=0.427,
            verified_at=None,
        )
    if name == "b_tail":
        return replace(
            current,
            state=CopyState.BEHIND,
            position=POSITION - 300_000,
            lag_bytes=300_000,
            lag_s=7.25,
            reason="It is slow.",
        )
    return current


def a_request(name: str) -> CreateRequest:
    """Answer the plainest request for a cluster."""
    return CreateRequest(
        name=name,
        engine=EngineKind.POSTGRES,
        version=None,
        min_capacity=0.5,
        max_capacity=4,
        mode=Mode.SERVERLESS,
        fixed_capacity=None,
        pause_after_s=300,
        freeze_after_s=10.0,
        allow=None,
        require_tls=False,
        wake_on=WakeOn.AUTHENTICATED,
        max_clients=None,
        copies=None,
        port=None,
    )


LOAD = LoadView(
    cores=0.312,
    cores_wanted=0.6,
    memory_bytes=1_720_000_000,
    in_use_bytes=432_013_312,
    at_work=3,
    waiting=1,
    hit_ratio=0.9921,
    cpu_s=71.3,
    throttled_s=0.4,
    oom_kills=0,
)


def a_busy_cluster(name: str) -> ClusterView:
    """Answer a running cluster with one session, an operation and a reason that a client had a hand in."""
    return replace(
        make_cluster(name, a_request(name)),
        compute=Compute.RUNNING,
        capacity=1.5,
        last_scaling=ScalingView(
            at=NOW,
            from_acu=0.5,
            to_acu=1.5,
            part="cpu",
            reason="It uses 0.6 of 0.25 cores.",
            took_s=0.0031,
        ),
        load=LOAD,
        acu_s=5400.25,
        storage_bytes=52_428_800,
        sessions=1,
        engine_pid=4242,
        resident_bytes=43_302_912,
        awake_reason="",
        pauses_in_s=250.0,
        reason="User \x1b[2Jmallory\nconnected.",
        endpoint=Address(host="::1", port=7401),
        endpoint_problem="Port 7401 is taken.",
        reader_endpoint=Address(host="::1", port=7501),
        reader_problem="Port 7501 is taken.",
        operation=OperationView(name="resume", step="starting PostgreSQL", since=NOW),
    )


def a_frozen_cluster(name: str) -> ClusterView:
    """Answer a frozen cluster that keeps two sessions, with a short delay."""
    return replace(
        make_cluster(name, a_request(name)),
        compute=Compute.FROZEN,
        reason="Quiet for 0.05 s.",
        freeze_after_s=0.05,
        sessions=2,
        engine_pid=4243,
        resident_bytes=5_347_738,
        awake_reason="",
    )


def _usage_of(cluster: ClusterView, since: datetime, until: datetime) -> UsageRow:
    return UsageRow(
        id=cluster.id,
        cluster=cluster.name,
        cluster_id=cluster.id,
        from_at=since,
        to_at=until,
        seconds=7200.0,
        awake_s=3600.0,
        acu_s=3600.0,
        mean_acu=0.5,
        peak_acu=1.0,
        storage_byte_s=0.0,
        cost=0.12,
        provisioned_cost=0.24,
        is_final=False,
    )


async def _serve(home: Path, tell: Callable[[FakeServer], None]) -> None:
    """Serve clusters `main`, `busy` and `cold` until the server is stopped; `tell` gets it when it is up."""
    clusters = FakeClusters()
    await clusters.create(a_request("main"))
    clusters.put(a_busy_cluster("busy"))
    clusters.put(a_frozen_cluster("cold"))
    await clusters.happen("busy", "User \x1b[2Jmallory\nwas refused.")
    await clusters.happen("cold", "The cluster is frozen.", EventKind.FROZEN)
    server = FakeServer(home, clusters)
    api = Api(server=server, clusters=clusters, token=TOKEN, socket_path=home / "run" / "zorya.sock", port=0)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(api.run(on_ready=server.ready))
        await server.is_ready.wait()
        tell(server)
        await server.stopping.wait()
        serving.cancel()


@contextmanager
def serving(home: Path) -> Iterator[None]:
    """Serve them in a thread of this process for the block."""
    up: Queue[tuple[asyncio.AbstractEventLoop, FakeServer]] = Queue()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(home, lambda server: up.put((asyncio.get_running_loop(), server))))
    )
    thread.start()
    loop, server = up.get(timeout=_DEADLINE_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.stopping.set)
        thread.join(_DEADLINE_S)


def _serve_alone(home: Path) -> None:
    """Serve them in this process, and tell on standard output when they are up and how the server was stopped."""
    told: list[FakeServer] = []

    def tell(server: FakeServer) -> None:
        told.append(server)
        print("ready", flush=True)  # noqa: T201 - the test that started this process reads it

    asyncio.run(_serve(home, tell))
    print("left running" if told[0].left_running else "put to sleep")  # noqa: T201


if __name__ == "__main__":
    _serve_alone(Path(sys.argv[1]))
