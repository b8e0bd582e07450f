"""The composition root: builds every room and runs them in one event loop. The only place where rooms meet.

A stop by SIGINT, SIGTERM or the API puts every cluster to sleep first; a second signal ends the server at once and
leaves the engines running. SIGKILL does the latter, too: the next server takes the engines over.
"""

import asyncio
import fcntl
import gc
import json
import os
import resource
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from zorya import __version__
from zorya.api.serve import Api
from zorya.api.server_control import ServerStatus
from zorya.compute import delegation, group, sight
from zorya.compute.freezer import Way
from zorya.control import host
from zorya.control.catalog import Catalog
from zorya.control.fleet import USERNAME, Fleet
from zorya.control.installed import Installed
from zorya.control.instance import InstanceRunner
from zorya.control.view import CreateRequest
from zorya.core import account, errors, files, logging
from zorya.core import settings as settings_module
from zorya.core.capacity import USUAL
from zorya.core.clock import Clock, SystemClock
from zorya.core.findings import Finding
from zorya.core.home import Home
from zorya.core.model import LOOPBACK, Compute, EngineKind, Handoff, Mode, Secret, WakeOn
from zorya.core.settings import Settings
from zorya.engines import handoff
from zorya.engines.base import Engine, TlsFiles
from zorya.engines.mariadb.engine import MariaDb
from zorya.engines.postgres.engine import Postgres
from zorya.gateway import attach
from zorya.gateway.listeners import Gateway
from zorya.keeper.client import Keeper
from zorya.metering.meters import Meters
from zorya.trust.certificates import Certificates, CertificateView
from zorya.trust.identity import ServerIdentity

FIRST_CLUSTER = "main"

_log = logging.get("zorya.server")


def run(
    home: Path, *, given: Mapping[str, object], on_ready: Callable[[], None], on_stopping: Callable[[int], None]
) -> None:
    """Run the server of this home until it is stopped. Blocking; in the main thread, since it handles signals.

    `given` are settings that win over all others. `on_ready` is called once clients and the API are served,
    `on_stopping` with the number of clusters that are awake when the stop begins; neither may block.

    Raises AlreadyRunning, HomeUnusable, HomeTooNew, InvalidSetting and other HostProblems before it is ready.
    """
    settings = settings_module.load(home, **given)
    logging.configure(settings.log_level or ("warning" if sys.stderr.isatty() else "info"))
    _raise_descriptor_limit()
    with ExitStack() as stack:
        place = Home(home)
        engine_account = account.ensure(settings.engine_user)
        sight.check(engine_account)
        place.ensure(engine_account)
        stack.enter_context(_lock(place))
        place.empty_scratch()
        delegation.prepare()
        catalog = Catalog.open(place.catalog)
        stack.callback(catalog.close)
        clock = SystemClock()
        meters = Meters.open(place.usage, clock)
        stack.callback(meters.close)
        server = Server(
            settings=settings,
            home=place,
            catalog=catalog,
            meters=meters,
            clock=clock,
            engine_account=engine_account,
            on_ready=on_ready,
            on_stopping=on_stopping,
        )
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        try:
            runner.run(server.run())
        except* errors.ZoryaError as group:
            raise _first(group) from None


def inspect_host(home: Path) -> Sequence[Finding]:
    """Answer what this host can do, without a server. Blocking. Raises InvalidSetting."""
    return host.examine(Home(home), settings_module.load(home))


class Server:
    """One server. Implements `api.server_control.ServerControl`."""

    def __init__(
        self,
        *,
        settings: Settings,
        home: Home,
        catalog: Catalog,
        meters: Meters,
        clock: Clock,
        engine_account: account.Account,
        on_ready: Callable[[], None],
        on_stopping: Callable[[int], None],
    ) -> None:
        """Build the rooms. The caller holds the home's lock."""
        self._settings = settings
        self._home = home
        self._clock = clock
        self._meters = meters
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._stop_asked = asyncio.Event()
        self._started_at = clock.now()
        self._started_s = clock.monotonic_s()
        self._api_port = 0
        self._by_force = False
        self._leave_running = False
        self._main: asyncio.Task[None] | None = None
        self._certificates = Certificates.open(home.tls, settings, now=clock.now())
        self._installed = [Installed(engine) for engine in _engines(settings, home, engine_account)]
        self._keeper = Keeper(home.run, log=home.keeper_log, keep_s=settings.keep_endpoints_s)
        self._gateway = Gateway(
            settings,
            keep=self._keeper,
            kept=self._keeper.join(),
            identity=self._identity,
            now=clock.now,
        )
        self._fleet = Fleet(
            settings=settings,
            home=home,
            catalog=catalog,
            clock=clock,
            runners=self._runners(engine_account),
            meters=meters,
            doors=self._gateway,
            guard=self._keeper,
            attach=self._show_attach,
            login_failed=self._gateway.login_failed,
        )
        self._api = Api(
            server=self,
            clusters=self._fleet,
            token=_token(home),
            socket_path=home.api_socket,
            port=settings.api_port,
            bind=settings.api_bind,
            identity=self._identity,
        )

    def _runners(self, engine_account: account.Account) -> Mapping[EngineKind, InstanceRunner]:
        settings, home = self._settings, self._home
        library = handoff.place(home, engine_account)
        grouping = group.examine(None if settings.freezer == "auto" else Way(settings.freezer))
        return {
            installed.engine.kind: InstanceRunner(
                home=home,
                engine=installed.engine,
                installed=installed,
                account=engine_account,
                clock=self._clock,
                library=library,
                grouping=grouping,
                log_max_bytes=settings.engine_log_max_bytes,
                acu=settings.acu,
                log_keep_bytes=settings.log_keep_mib * 1024**2,
                tls=self._tls_files,
            )
            for installed in self._installed
        }

    def _identity(self) -> ServerIdentity:
        return self._certificates.identity

    def _tls_files(self) -> TlsFiles:
        identity = self._certificates.identity
        return TlsFiles(
            certificate=identity.chain,
            key=identity.key,
            root=self._certificates.root_pem or identity.root,
            min_version=self._settings.tls_min_version,
        )

    async def _spread_certificate(self, _: ServerIdentity) -> None:
        """Have the engines that run show the new certificate too; the gateway and the API ask for it each time."""
        await self._fleet.renew_tls()

    def _show_attach(self, handoff: Handoff) -> tuple[str, str]:
        choice = attach.decide(handoff, relay_only=self._settings.attach == "relay")
        return choice.way.value, choice.reason

    async def run(self) -> None:
        """Serve until stopped; every cluster sleeps when this returns, unless engines were to be left running."""
        self._main = asyncio.current_task()
        try:
            await self._serve()
        except asyncio.CancelledError:
            if not self._by_force:
                raise
        finally:
            self._home.api_address.unlink(missing_ok=True)
            if self._leave_running:
                self._keeper.abandon()
            else:
                self._keeper.dismiss()
        _log.info("server is down", engines_left_running=self._leave_running)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        for installed in self._installed:
            await installed.refresh()
        if self._settings.shared_port:
            self._gateway.open_shared(self._settings.shared_port, EngineKind.POSTGRES)
        if self._settings.mysql_shared_port:
            self._gateway.open_shared(self._settings.mysql_shared_port, EngineKind.MARIADB)
        await self._fleet.load()
        async with asyncio.TaskGroup() as rooms:
            tasks = [
                rooms.create_task(self._gateway.run(), name="gateway"),
                rooms.create_task(self._fleet.run(), name="fleet"),
                rooms.create_task(self._keeper.run(), name="keeper"),
                rooms.create_task(self._meters.run(), name="meters"),
                rooms.create_task(
                    self._certificates.run(self._spread_certificate, self._clock), name="server certificate"
                ),
            ]
            await self._fleet.started()
            await self._create_first_cluster()
            api_ready = loop.create_future()
            tasks.append(rooms.create_task(self._api.run(on_ready=api_ready.set_result), name="api"))
            self._api_port = await api_ready
            self._write_api_address()
            # What there is by now stays: no collection, each of which holds every client up, has to go through it.
            gc.freeze()
            gc.enable()
            self._on_ready()
            _log.info("server is up", home=str(self._home.root), pid=os.getpid(), version=__version__)
            await self._stop_asked.wait()
            if not self._leave_running:
                self._on_stopping(sum(cluster.compute is not Compute.STOPPED for cluster in self._fleet.all()))
                await self._fleet.put_all_to_sleep()
            for task in tasks:
                task.cancel()

    async def _create_first_cluster(self) -> None:
        if self._fleet.all():
            return
        await self._fleet.create(
            CreateRequest(
                name=FIRST_CLUSTER,
                engine=EngineKind.POSTGRES,
                version=None,
                min_capacity=USUAL.least,
                max_capacity=USUAL.most,
                mode=Mode.SERVERLESS,
                fixed_capacity=None,
                pause_after_s=self._settings.pause_after,
                freeze_after_s=self._settings.freeze_after,
                # Nobody was asked who else may come.
                allow=LOOPBACK,
                require_tls=False,
                wake_on=WakeOn.AUTHENTICATED,
                max_clients=None,
                copies=None,
                port=None,
            )
        )

    def _on_signal(self) -> None:
        if self._stop_asked.is_set():
            _log.warning("ended by a second signal; engines go on and are taken over at the next start")
            self._by_force = True
            self._leave_running = True
            if self._main is not None:
                self._main.cancel()
        self._stop_asked.set()

    def _write_api_address(self) -> None:
        text = json.dumps({"url": self._api.url(self._api_port), "pid": os.getpid()})
        files.write_atomically(self._home.api_address, text + "\n", mode=0o600)

    # api.server_control.ServerControl

    @property
    def default_pause_after_s(self) -> int | None:
        """See ServerControl.default_pause_after_s."""
        return self._settings.pause_after

    @property
    def default_freeze_after_s(self) -> float | None:
        """See ServerControl.default_freeze_after_s."""
        return self._settings.freeze_after

    def status(self) -> ServerStatus:
        """See ServerControl.status."""
        clusters = self._fleet.all()
        counts: Counter[Compute] = Counter(cluster.compute for cluster in clusters)
        return ServerStatus(
            version=__version__,
            home=self._home.root,
            pid=os.getpid(),
            started_at=self._started_at,
            uptime_s=self._clock.monotonic_s() - self._started_s,
            api_socket=self._home.api_socket,
            api_port=self._api_port,
            api_url=self._api.url(self._api_port),
            bind=self._settings.bind,
            clusters=counts,
            sessions=sum(cluster.sessions for cluster in clusters),
            node=self._fleet.node(),
            acu=self._settings.acu,
        )

    async def doctor(self) -> Sequence[Finding]:
        """See ServerControl.doctor."""
        return await asyncio.to_thread(
            host.examine,
            self._home,
            self._settings,
            certificate=self._certificates.finding(),
            rules={cluster.name: cluster.allow for cluster in self._fleet.all()},
        )

    def ca(self) -> CertificateView:
        """See ServerControl.ca."""
        return self._certificates.view()

    async def renew_certificate(self) -> CertificateView:
        """See ServerControl.renew_certificate."""
        await self._certificates.renew_now(self._clock)
        return self._certificates.view()

    def stop(self, *, leave_running: bool) -> None:
        """See ServerControl.stop. The first request counts."""
        if not self._stop_asked.is_set():
            self._leave_running = leave_running
        self._stop_asked.set()


def _first(group: BaseExceptionGroup[errors.ZoryaError]) -> errors.ZoryaError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _engines(settings: Settings, home: Home, engine_account: account.Account) -> Sequence[Engine]:
    """Answer the kinds of engines that this server can run, whether or not the host has them."""
    own = _own_name()
    return (
        Postgres(
            home=home,
            account=engine_account,
            zorya_user=own,
            username=USERNAME,
            setting=settings.postgres,
            login_timeout_s=settings.startup_timeout_s,
        ),
        MariaDb(
            home=home,
            account=engine_account,
            zorya_user=own,
            username=USERNAME,
            setting=settings.mariadb,
            login_timeout_s=settings.startup_timeout_s,
        ),
    )


def _own_name() -> str:
    own = account.current()
    if own is None:
        raise errors.HostProblem("This user has no name.", hint="Give it an entry in /etc/passwd.")
    return own.name


def _token(home: Home) -> Secret:
    """Answer the API's token, made at the first start."""
    try:
        found = home.token.read_text().strip()
    except FileNotFoundError:
        found = ""
    if len(found) < 32:
        found = secrets.token_urlsafe(32)
        files.write_atomically(home.token, found + "\n", mode=0o600)
    return Secret(found)


@contextmanager
def _lock(home: Home) -> Iterator[None]:
    """Hold the home for this process; the kernel lets it go when the process ends in any way."""
    with home.lock.open("a+") as file:
        home.lock.chmod(0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise errors.AlreadyRunning(
                f"Another Zorya server has the home {home.root} (pid {file.read().strip() or 'unknown'}).",
                hint="Nothing was changed.",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
