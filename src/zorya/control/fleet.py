"""All clusters of a home: makes and finds their owners, and gives them their ports. Implements `facade.Clusters`."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import quote

from zorya.compute import node
from zorya.control import access, capacities, modify, showing
from zorya.control.autoscaler import Autoscaler
from zorya.control.catalog import Catalog
from zorya.control.cluster import ClusterOwner
from zorya.control.events import EventKind
from zorya.control.instance import InstanceRunner
from zorya.control.reader import ReaderEndpoint
from zorya.control.record import ClusterRecord
from zorya.control.surroundings import Guard, Surroundings
from zorya.control.view import (
    UNCHANGED,
    ClusterView,
    CopyView,
    CreateRequest,
    Credentials,
    EventView,
    ModifyRequest,
    NodeView,
    VerifyView,
)
from zorya.core import errors, ids, logging
from zorya.core.clock import Clock
from zorya.core.home import Home
from zorya.core.model import Access, Address, Compute, EngineKind, Handoff, Secret, Status
from zorya.core.settings import Settings
from zorya.metering import report
from zorya.metering.meters import Meters
from zorya.metering.report import Period, Prices, UsageReport
from zorya.storage import placement

_log = logging.get("zorya.control")

USERNAME = "zorya"

FREQUENT_EVENTS_KEPT = 1000
"""How many of a cluster's freezes and thaws are kept, and how many changes of its capacity: there may be thousands."""

_REOPEN_EVERY_S = 5.0
_TIDY_EVERY_S = 60.0
_VERIFY_EVERY_S = 60.0
"""How often it is seen whose verification is due."""


class Doors(Protocol):
    """What control needs of the gateway: the listening sockets of endpoints."""

    def open(self, port: int, endpoint: ClusterOwner | ReaderEndpoint) -> None:
        """Listen on `port` for clients of `endpoint`. Raises PortInUse, HostProblem, InvalidSetting."""

    def close(self, port: int) -> None:
        """Stop listening; clients that are there stay. Idempotent."""

    def let_unclaimed_go(self) -> None:
        """Stop listening where an earlier server did and no cluster is any more. Once, after all were opened."""

    async def end_sessions(self, port: int) -> None:
        """Cut off the clients that came through `port`, held ones too."""


class Fleet:
    """The clusters of one home. `run` must be going before anything else is called."""

    def __init__(
        self,
        *,
        settings: Settings,
        home: Home,
        catalog: Catalog,
        clock: Clock,
        runners: Mapping[EngineKind, InstanceRunner],
        meters: Meters,
        doors: Doors,
        guard: Guard,
        attach: Callable[[Handoff], tuple[str, str]],
        login_failed: Callable[[str, str, int, str], str],
    ) -> None:
        """`attach` answers how clients reach an engine and why, for `show`; `login_failed`: see Surroundings."""
        self._settings = settings
        self._home = home
        self._catalog = catalog
        self._clock = clock
        self._runners = runners
        self._meters = meters
        self._doors = doors
        self._attach = attach
        self._owners: dict[str, ClusterOwner] = {}
        self._making = asyncio.Lock()
        self._told = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._started = asyncio.Event()
        self._autoscaler = Autoscaler(clock=clock, read_node=self._node_acu)
        self._surroundings = {kind: self._surround(runner, guard, login_failed) for kind, runner in runners.items()}

    def _surround(
        self, runner: InstanceRunner, guard: Guard, login_failed: Callable[[str, str, int, str], str]
    ) -> Surroundings:
        settings = self._settings
        return Surroundings(
            catalog=self._catalog,
            clock=self._clock,
            runner=runner,
            guard=guard,
            wake_timeout_s=settings.wake_timeout_s,
            stop_timeout_s=settings.stop_timeout_s,
            reclaim_after_s=settings.reclaim_after_s,
            acu=settings.acu,
            log_keep_bytes=settings.log_keep_mib * 1024**2,
            log_retention_s=settings.log_retention_s,
            rebuild_max_kib_s=int(settings.rebuild_max_mib_s * 1024) if settings.rebuild_max_mib_s else None,
            burst=settings.burst,
            capacity_hold_s=settings.capacity_hold_s,
            meters=self._meters,
            shared_ports=frozenset({settings.shared_port, settings.mysql_shared_port} - {0}),
            login_failed=login_failed,
            told=self._tell_followers,
        )

    # Running.

    async def load(self) -> None:
        """Read the catalog, make the owners and open their endpoints. Once, before `run`.

        A port that another program has taken is no reason not to start: it is tried again while the server runs.
        """
        for record, revision in await self._catalog.load():
            owner = self._new_owner(record, revision)
            self._owners[record.name] = owner
            if record.status is not Status.DELETING:
                await self._open_door(owner)
        self._doors.let_unclaimed_go()

    async def run(self) -> None:
        """Run the owners until cancelled; engines then go on without them."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for owner in self._owners.values():
                    self._run_owner(owner)
                tasks.create_task(self._reopen_doors(), name="reopen doors")
                tasks.create_task(self._tidy(), name="tidy")
                tasks.create_task(self._verify_what_is_due(), name="verify")
                tasks.create_task(self._autoscaler.run(), name="autoscaler")
                self._started.set()
        finally:
            self._tasks = None
            for owner in self._owners.values():
                await owner.let_go()

    async def started(self) -> None:
        """Wait until `run` is going and every cluster is known as the host has it."""
        await self._started.wait()
        for owner in list(self._owners.values()):
            await owner.taken_over()

    async def put_all_to_sleep(self) -> None:
        """Stop listening and stop every engine cleanly, ending open sessions. Then nothing is left for `run` to do."""
        for owner in self._owners.values():
            self._close_doors(owner)
        async with asyncio.TaskGroup() as sleepers:
            for owner in self._owners.values():
                sleepers.create_task(owner.put_to_sleep(), name=f"{owner.name}: put to sleep")

    def _new_owner(self, record: ClusterRecord, revision: int) -> ClusterOwner:
        return ClusterOwner(
            record, revision=revision, surroundings=self._surroundings[record.engine], autoscaler=self._autoscaler
        )

    def _run_owner(self, owner: ClusterOwner) -> None:
        assert self._tasks is not None
        self._tasks.create_task(self._look_after(owner), name=f"cluster {owner.name}")

    async def _look_after(self, owner: ClusterOwner) -> None:
        await owner.run()
        # The cluster is deleted, or its creation failed.
        self._close_doors(owner)
        del self._owners[owner.name]
        for port in _ports(owner.record):
            await self._doors.end_sessions(port)

    def _close_doors(self, owner: ClusterOwner) -> None:
        for port in _ports(owner.record):
            self._doors.close(port)

    async def _open_door(self, owner: ClusterOwner) -> None:
        try:
            self._doors.open(owner.record.port, owner)
        except errors.ZoryaError as error:
            if not owner.endpoint_problem:
                _log.error("endpoint cannot listen", cluster=owner.name, error=str(error))
                await owner.tell(EventKind.ENDPOINT_FAILED, error.message)
            owner.endpoint_problem = error.message
        else:
            if owner.endpoint_problem:
                await owner.tell(EventKind.ENDPOINT_RESTORED, "")
            owner.endpoint_problem = ""
        if owner.record.reader_port is not None:
            self._open_reader(owner, owner.record.reader_port)

    def _open_reader(self, owner: ClusterOwner, port: int) -> None:
        reader = ReaderEndpoint(
            owner,
            max_lag_s=self._settings.max_reader_lag_s,
            wake_timeout_s=self._settings.wake_timeout_s,
            clock=self._clock,
        )
        try:
            self._doors.open(port, reader)
        except errors.ZoryaError as error:
            if not owner.reader_problem:
                _log.error("reader endpoint cannot listen", cluster=owner.name, error=str(error))
            owner.reader_problem = error.message
        else:
            owner.reader_problem = ""

    async def _reopen_doors(self) -> None:
        while True:
            await asyncio.sleep(_REOPEN_EVERY_S)
            for owner in list(self._owners.values()):
                if (owner.endpoint_problem or owner.reader_problem) and owner.record.status is not Status.DELETING:
                    await self._open_door(owner)

    async def _tidy(self) -> None:
        while True:
            await self._prune_events()
            await asyncio.sleep(_TIDY_EVERY_S)
            for owner in list(self._owners.values()):
                if owner.pid is not None:
                    await self._keep_logs_bounded(owner)
                    await owner.measure()

    async def _keep_logs_bounded(self, owner: ClusterOwner) -> None:
        await self._runner_of(owner.record).keep_logs_bounded(owner.record)
        try:
            await owner.bound_log()
        except errors.EngineProblem as error:
            _log.info("the engine's log is not bounded", cluster=owner.name, reason=error.message)

    async def _verify_what_is_due(self) -> None:
        """Have the volumes at rest verified, one after the other, that have not been for long."""
        every_h = self._settings.scrub_every_h
        while every_h is not None:
            for owner in list(self._owners.values()):
                if not self._runner_of(owner.record).can_verify:
                    continue
                since_s = owner.verification_due_s
                if since_s is not None and since_s >= every_h * 3600:
                    try:
                        await owner.verify()
                    except errors.ZoryaError as error:
                        _log.info("not verified", cluster=owner.name, reason=error.message)
            await asyncio.sleep(_VERIFY_EVERY_S)

    async def _prune_events(self) -> None:
        before = self._clock.now() - timedelta(days=self._settings.event_retention_days)
        try:
            await self._catalog.prune_events(before=before)
            await self._catalog.thin_out(keep=FREQUENT_EVENTS_KEPT)
        except (errors.DiskFull, errors.HomeUnusable) as error:
            _log.error("old events could not be removed", error=str(error))

    # What else the server asks.

    def find(self, name: str) -> ClusterOwner | None:
        """Answer the cluster of this name, in any case, as the gateway's endpoint; None when there is none."""
        return self._owners.get(name.lower())

    async def renew_tls(self) -> None:
        """Have every engine that is up use the present certificate; sessions stay. One that is frozen thaws for it.

        Where that fails it is logged, and the engine goes on with the old one until the next time, or its next start.
        """
        for owner in list(self._owners.values()):
            try:
                await owner.renew_tls()
            except errors.ZoryaError as error:
                _log.error("the certificate could not be renewed", cluster=owner.name, error=str(error))

    # facade.Clusters

    def all(self) -> Sequence[ClusterView]:
        """See facade.Clusters.all."""
        return [self._view(owner) for _, owner in sorted(self._owners.items())]

    def get(self, name: str) -> ClusterView:
        """See facade.Clusters.get."""
        return self._view(self._owner(name))

    def credentials(self, name: str) -> Credentials:
        """See facade.Clusters.credentials."""
        record = self._owner(name).record
        address = self._endpoint(record)
        url = f"{record.engine.scheme}://{quote(record.username)}:{quote(record.password.value)}@{address}/{quote(record.database)}"
        return Credentials(
            username=record.username,
            password=record.password,
            database=record.database,
            endpoint=address,
            url=Secret(url),
        )

    async def create(self, request: CreateRequest) -> ClusterView:
        """See facade.Clusters.create."""
        name = ids.parse_name(request.name)
        capacities.check_bounds(request.min_capacity, request.max_capacity)
        fixed = capacities.choose_fixed(
            request.mode, wanted=request.fixed_capacity, present=None, most=request.max_capacity
        )
        runner = self._runners[request.engine]
        if request.copies is not None:
            modify.check_copies(request.copies, request.engine, most=runner.most_copies)
        elif self._settings.copies > runner.most_copies:
            request = replace(request, copies=runner.most_copies)
        rules = self._rules(request)
        installation = await runner.choose(request.version)
        async with self._making:
            if name in self._owners:
                raise errors.NameTaken(f"There is a cluster named {name} already.", hint="Choose another name.")
            owner = await self._admit(name, replace(request, fixed_capacity=fixed), installation.major, rules)
        self._run_owner(owner)
        await owner.created()
        return self._view(owner)

    async def modify(self, name: str, request: ModifyRequest) -> ClusterView:
        """See facade.Clusters.modify."""
        owner = self._owner(name)
        checked = modify.checked(request)
        if checked.copies is not UNCHANGED:
            engine = owner.record.engine
            modify.check_copies(checked.copies, engine, most=self._runners[engine].most_copies)
        if checked.copies is not UNCHANGED and checked.copies != len(owner.record.volume.copies):
            await self._resize(owner, checked.copies)
        await owner.modify(checked)
        return self._view(owner)

    async def _resize(self, owner: ClusterOwner, copies: int) -> None:
        before = owner.record
        reader_port = before.reader_port
        if reader_port is None and copies > 1:
            reader_port = self._free_reader_port(before.port)
        await owner.resize(
            copies,
            lambda zone: self._home.zone_folder(before.id, zone, self._settings.zone_dirs.get(zone)),
            reader_port,
        )
        if before.reader_port is not None and owner.record.reader_port is None:
            self._doors.close(before.reader_port)
        elif owner.record.reader_port is not None:
            self._open_reader(owner, owner.record.reader_port)

    async def change_password(self, name: str) -> Credentials:
        """See facade.Clusters.change_password."""
        owner = self._owner(name)
        await owner.change_password()
        return self.credentials(owner.name)

    async def set_capacity(self, name: str, capacity: float) -> ClusterView:
        """See facade.Clusters.set_capacity."""
        capacities.check(capacity)
        owner = self._owner(name)
        await owner.set_capacity(capacity)
        return self._view(owner)

    async def usage(self, name: str | None, *, since: datetime, until: datetime, by: Period) -> UsageReport:
        """See facade.Clusters.usage."""
        cluster = self._event_name(name)
        found = await self._meters.stretches(cluster, since=since, until=until)
        if cluster is not None and not found and not await self._meters.knows(cluster):
            self._owner(cluster)
        settings = self._settings
        prices = Prices(
            acu_hour=settings.price_acu_hour, gib_month=settings.price_gib_month, currency=settings.currency
        )
        # Of thousands of clusters over months it takes a while.
        return await asyncio.to_thread(report.build, found, since=since, until=until, by=by, prices=prices)

    def node(self) -> NodeView:
        """See facade.Clusters.node."""
        found = node.examine()
        return NodeView(
            capacity=self._autoscaler.node_acu,
            allotted=sum(owner.capacity for owner in self._owners.values()),
            cores=found.cores,
            memory_bytes=found.memory_bytes,
        )

    def _node_acu(self) -> float:
        settings = self._settings
        return settings.node_capacity or node.examine().capacity(settings.acu)

    async def resume(self, name: str) -> ClusterView:
        """See facade.Clusters.resume."""
        owner = self._owner(name)
        await owner.wake()
        return self._view(owner)

    async def pause(self, name: str, *, force: bool) -> ClusterView:
        """See facade.Clusters.pause."""
        owner = self._owner(name)
        await owner.pause(force=force)
        return self._view(owner)

    def copies(self, name: str) -> Sequence[CopyView]:
        """See facade.Clusters.copies."""
        return self._owner(name).copies

    async def verify(self, name: str) -> VerifyView:
        """See facade.Clusters.verify."""
        engine = self._owner(name).record.engine
        if not self._runners[engine].can_verify:
            raise errors.InvalidInput(
                f"{name} is a {engine.product} cluster, whose data Zorya cannot verify.",
                hint="The engine checks the checksum of each page that it reads.",
            )
        return await self._owner(name).verify()

    async def recover(self, name: str, *, accept_data_loss: bool) -> ClusterView:
        """See facade.Clusters.recover."""
        owner = self._owner(name)
        await owner.recover(accept_data_loss=accept_data_loss)
        return self._view(owner)

    async def delete(self, name: str) -> None:
        """See facade.Clusters.delete."""
        owner = self._owner(name)
        self._close_doors(owner)
        await owner.delete()

    async def events(self, name: str | None, *, after: int, limit: int, sleep: bool) -> Sequence[EventView]:
        """See facade.Clusters.events."""
        return await self._catalog.events(self._event_name(name), after=after, limit=limit, sleep=sleep)

    async def next_events(self, name: str | None, *, after: int, sleep: bool) -> Sequence[EventView]:
        """See facade.Clusters.next_events."""
        cluster = self._event_name(name)
        while True:
            told = self._told
            newest = await self._catalog.events(cluster, after=after, limit=1, sleep=True)
            found = await self._catalog.events(cluster, after=after, limit=1000, sleep=sleep) if newest else ()
            if found:
                return found
            if newest:
                after = newest[-1].seq  # so that freezes and thaws are passed over once, not again with each event
            await told.wait()

    def _event_name(self, name: str | None) -> str | None:
        return name.lower() if name is not None else None

    def _tell_followers(self) -> None:
        self._told.set()
        self._told = asyncio.Event()

    # Making.

    def _rules(self, request: CreateRequest) -> Access:
        """Answer who may come to a new cluster. Raises InvalidInput."""
        access.check_max_clients(request.max_clients)
        allow = request.allow
        return Access(
            allow=access.allow_by_default(self._settings.bind) if allow is None else access.parse_allow(allow),
            require_tls=request.require_tls,
            wake_on=request.wake_on,
            max_clients=request.max_clients,
        )

    async def _admit(self, name: str, request: CreateRequest, major: str, rules: Access) -> ClusterOwner:
        """Find a port, listen on it and write the record: from here on the cluster exists, if not yet its data."""
        for port in self._candidate_ports(request.port):
            record = self._new_record(name, request, major, port, rules)
            if len(record.volume.copies) > 1:
                record = replace(record, reader_port=self._free_reader_port(port))
            owner = self._new_owner(record, 1)
            try:
                self._doors.open(port, owner)
            except errors.PortInUse:
                if request.port is not None:
                    raise
                continue
            try:
                await self._catalog.insert(record)
            except BaseException:
                self._doors.close(port)
                raise
            self._owners[name] = owner
            if record.reader_port is not None:
                self._open_reader(owner, record.reader_port)
            return owner
        raise errors.NoFreePort(
            f"No port of {self._settings.port_range} is free.",
            hint="Widen the setting port_range, or choose one with --port.",
        )

    def _free_reader_port(self, but: int) -> int:
        for port in self._candidate_ports(None):
            if port != but and _is_free(self._settings.bind[0], port):
                return port
        raise errors.NoFreePort(
            f"No second port of {self._settings.port_range} is free, for the reader endpoint.",
            hint="Widen the setting port_range, or choose --copies 1.",
        )

    def _candidate_ports(self, wanted: int | None) -> Iterator[int]:
        taken = {port: owner.name for owner in self._owners.values() for port in _ports(owner.record)}
        if wanted is None:
            yield from (port for port in self._settings.ports if port not in taken)
            return
        if not 1024 <= wanted <= 65535:
            raise errors.InvalidInput(f"{wanted} cannot be a cluster's port.", hint="Choose one from 1024 to 65535.")
        if wanted in taken:
            raise errors.PortInUse(
                f"Port {wanted} belongs to cluster {taken[wanted]}.", hint="Choose another --port, or none."
            )
        yield wanted

    def _new_record(self, name: str, request: CreateRequest, major: str, port: int, rules: Access) -> ClusterRecord:
        cluster_id = ids.new_cluster_id()
        return ClusterRecord(
            id=cluster_id,
            name=name,
            port=port,
            engine=request.engine,
            engine_major=major,
            mode=request.mode,
            status=Status.CREATING,
            compute=Compute.STOPPED,
            reason="It is being created.",
            min_capacity=request.min_capacity,
            max_capacity=request.max_capacity,
            fixed_capacity=request.fixed_capacity,
            pause_after_s=request.pause_after_s,
            freeze_after_s=request.freeze_after_s,
            username=USERNAME,
            password=Secret(ids.new_password()),
            next_password=None,
            access=rules,
            database=name,
            created_at=self._clock.now(),
            process=None,
            volume=placement.new_volume(
                self._settings.copies if request.copies is None else request.copies,
                lambda zone: self._home.zone_folder(cluster_id, zone, self._settings.zone_dirs.get(zone)),
            ),
            reader_port=None,
        )

    # Showing.

    def _owner(self, name: str) -> ClusterOwner:
        owner = self._owners.get(name.lower())
        if owner is None:
            raise errors.ClusterNotFound(
                f"There is no cluster named {name!r}.", hint="`zorya list` shows the clusters there are."
            )
        return owner

    def _runner_of(self, record: ClusterRecord) -> InstanceRunner:
        return self._runners[record.engine]

    def _endpoint(self, record: ClusterRecord) -> Address:
        host = self._settings.bind[0]
        # Every address is no address to connect to: the first that always works is this host's own.
        return Address(host={"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port=record.port)  # noqa: S104

    def _reader_endpoint(self, record: ClusterRecord) -> Address | None:
        return None if record.reader_port is None else replace(self._endpoint(record), port=record.reader_port)

    def _view(self, owner: ClusterOwner) -> ClusterView:
        record = owner.record
        attach, attach_reason = self._attach(owner.handoff)
        return showing.view(
            owner,
            engine_version=self._runner_of(record).engine_version(record),
            engine_log=str(self._runner_of(record).log_path(record)),
            endpoint=self._endpoint(record),
            reader_endpoint=self._reader_endpoint(record),
            attach=attach,
            attach_reason=attach_reason,
            acu_s=self._meters.total_acu_s(record.id),
            storage_bytes=self._meters.storage_bytes(record.id),
        )


def _ports(record: ClusterRecord) -> list[int]:
    """Answer the ports of a cluster's endpoints."""
    return [record.port, *([record.reader_port] if record.reader_port is not None else [])]


def _is_free(host: str, port: int) -> bool:
    """Whether nothing listens on the port now; opening it is what decides."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
