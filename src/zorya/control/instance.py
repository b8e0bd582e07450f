"""Carry out one cluster's steps on the host: the engine's knowledge and the process put together, no decisions."""

import asyncio
import functools
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from zorya.compute import group, leftovers, logfile
from zorya.compute.group import Grouping, ProcessGroup
from zorya.compute.processes import EngineProcess, Launch
from zorya.control.installed import Installed
from zorya.control.live import LiveEngine
from zorya.control.record import ClusterRecord
from zorya.control.tail import LogTail
from zorya.core import errors, files
from zorya.core.account import Account
from zorya.core.capacity import Acu
from zorya.core.clock import Clock
from zorya.core.home import Home
from zorya.core.model import Address, Entrance, Handoff, Secret
from zorya.engines.base import Engine, HeldIdentities, Installation, Instance, Phase, TlsFiles
from zorya.engines.handoff import Library

ABORT_TIMEOUT_S = 5.0
"""How long an engine may take to end after its abort signal before it is killed."""

_POLL_FAST_S = 0.001
_POLL_SLOW_S = 0.02
_POLL_FAST_FOR_S = 1.0


class InstanceRunner:
    """Runs engines of one kind for all clusters of a home. Keeps nothing about any of them."""

    def __init__(
        self,
        *,
        home: Home,
        engine: Engine,
        installed: Installed,
        account: Account,
        clock: Clock,
        library: Library,
        grouping: Grouping,
        log_max_bytes: int,
        acu: Acu,
        tls: Callable[[], TlsFiles | None],
    ) -> None:
        """Run `engine`'s programs as `account`, with the handoff library, in groups as the host allows.

        `tls` answers the present certificate; None where no engine is to speak TLS.
        """
        self._home = home
        self._engine = engine
        self._installed = installed
        self._account = account
        self._clock = clock
        self._library = library
        self._grouping = grouping
        self._log_max_bytes = log_max_bytes
        self._acu = acu
        self._tls = tls

    def engine_version(self, record: ClusterRecord) -> str:
        """Answer the full version of the installation that the cluster runs on."""
        return self._installed.version_of(record.engine_major)

    def log_path(self, record: ClusterRecord) -> Path:
        """Answer where the engine logs."""
        return self._home.of_cluster(record.id).log

    def identities_path(self, record: ClusterRecord) -> Path:
        """Answer where it is kept who may log in while the engine does not run."""
        return self._home.of_cluster(record.id).identities

    def speaks_tls(self, record: ClusterRecord) -> bool:
        """Whether the cluster's engine does TLS for clients that ask for it first."""
        installation = self._installation(record)
        return self._tls() is not None and installation is not None and self._engine.speaks_tls(installation)

    def speaks_direct_tls(self, record: ClusterRecord) -> bool:
        """Whether the cluster's engine does TLS for clients that begin with the handshake."""
        installation = self._installation(record)
        return self._tls() is not None and installation is not None and self._engine.speaks_direct_tls(installation)

    def _installation(self, record: ClusterRecord) -> Installation | None:
        return next((one for one in self._installed.found if one.major == record.engine_major), None)

    async def build(self, record: ClusterRecord) -> None:
        """Make the cluster's folders and data. Idempotent.

        Raises DiskFull, StorageProblem, StartFailed, EngineMissing.
        """
        instance = await self._instance(record)
        folders = instance.folders
        with files.disk_errors("Making the cluster's folders", folders.root):
            # Passable for the engine, writable by it only where it has to write.
            files.ensure_folder(folders.root, mode=0o710 if self._account.is_other else 0o700, group=self._account)
            files.ensure_folder(folders.log.parent, mode=0o700)
        await self._engine.build(instance, await self._new_verifier(record.password))

    async def _new_verifier(self, password: Secret) -> Secret:
        # It is slow on purpose.
        return await asyncio.to_thread(self._engine.new_verifier, password)

    async def start(self, record: ClusterRecord, capacity: float) -> LiveEngine:
        """Start the engine for this capacity, or answer the one that runs already. Returns before it is ready.

        Raises DataDamaged, DiskFull, StorageProblem, EngineMissing, StartFailed; then nothing was started.
        """
        running = self.find_running(record)
        if running is not None:
            return running[0]
        instance = await self._instance(record, capacity)
        folders = instance.folders
        self._engine.check_data(instance)
        if self._engine.recorded_pid(folders) is not None:
            # The last engine did not end by itself. Its lock goes only when nothing can be using the folder.
            await leftovers.clear(folders.data)
            self._engine.forget_recorded_pid(folders)
        with files.disk_errors("Preparing the engine's start", folders.root):
            files.ensure_folder(folders.socket, mode=0o700, owner=self._account)
            files.ensure_folder(folders.given_up, mode=0o700, owner=self._account)
            # Whether it is there again tells whether this start's engine has opened it.
            folders.inlet.unlink(missing_ok=True)
            await self._engine.write_configuration(instance)
            logfile.rotate(folders.log, max_bytes=self._log_max_bytes)
        argv, env = self._engine.command(instance, _free_port())
        plan = Launch(argv=argv, env=env, folder=folders.data, log=folders.log, account=self._account)
        try:
            return self._alive(record, await EngineProcess.launch(plan))
        except OSError as error:
            raise errors.StartFailed(
                f"{argv[0]} could not be started: {error.strerror or error}.",
                hint="`zorya doctor` shows the installations found.",
                client_message=f'cluster "{record.name}" could not be started',
            ) from error

    def find_running(self, record: ClusterRecord) -> tuple[LiveEngine, Entrance | None] | None:
        """Answer the engine that runs on the cluster's data folder, with its entrance once it is ready.

        One that was frozen is thawed: nobody has watched its sessions.
        """
        folders = self._home.of_cluster(record.id)
        pid = self._engine.recorded_pid(folders)
        if pid is None:
            return None
        process = EngineProcess.take_over(pid, folder=folders.data, known=record.process)
        if process is None:
            return None
        group.thaw_found(_group_name(record), process.pid)
        return self._alive(record, process), self.entrance(record, process)

    def remove_group(self, record: ClusterRecord) -> None:
        """Remove the control groups that an engine left which ended while no server was there."""
        group.remove_left(self._grouping, _group_name(record))

    def _alive(self, record: ClusterRecord, process: EngineProcess) -> LiveEngine:
        folders = self._home.of_cluster(record.id)
        enclosed = ProcessGroup.enclose(self._grouping, _group_name(record), process.identity)
        watcher = functools.partial(self._engine.watcher, folders)
        tail = LogTail(folders.log, find=self._engine.failed_logins)
        return LiveEngine(record.name, process, enclosed, new_watcher=watcher, tail=tail, clock=self._clock)

    async def await_ready(self, record: ClusterRecord, process: EngineProcess) -> Address:
        """Wait until the engine serves clients and answer its address. Waits for ever if the process ends."""
        folders = self._home.of_cluster(record.id)
        began = asyncio.get_running_loop().time()
        while True:
            readiness = self._engine.readiness(folders, process.pid)
            if readiness.phase is Phase.READY and readiness.address is not None:
                return readiness.address
            waited = asyncio.get_running_loop().time() - began
            await asyncio.sleep(_POLL_FAST_S if waited < _POLL_FAST_FOR_S else _POLL_SLOW_S)

    def entrance(self, record: ClusterRecord, process: EngineProcess) -> Entrance | None:
        """Answer how to get into a running engine; None when it takes nobody, or not any more."""
        folders = self._home.of_cluster(record.id)
        address = self._engine.readiness(folders, process.pid).address
        if address is None:
            return None
        if folders.inlet.exists():
            handoff = Handoff(inlet=folders.inlet, reason="The engine takes connections from Zorya.")
        elif self._library.path is None:
            handoff = Handoff(inlet=None, reason=self._library.reason)
        else:
            handoff = Handoff(inlet=None, reason="The engine was started without the handoff library.")
        return Entrance(address=address, handoff=handoff)

    def expected_handoff(self, record: ClusterRecord) -> Handoff:
        """Answer how clients will get into an engine that is yet to be started."""
        inlet = self._home.of_cluster(record.id).inlet if self._library.path is not None else None
        return Handoff(inlet=inlet, reason=self._library.reason)

    async def checkpoint(self, record: ClusterRecord) -> None:
        """Have the engine write its changed pages. Raises EngineProblem."""
        await self._engine.checkpoint(self._home.of_cluster(record.id))

    async def hold_identities(self, record: ClusterRecord) -> HeldIdentities:
        """Have the engine say who may log in, and let nobody change it; see Engine.hold_identities."""
        return await self._engine.hold_identities(self._home.of_cluster(record.id))

    async def set_password(self, record: ClusterRecord, password: Secret) -> None:
        """Give the cluster's user another password in the running engine. May be repeated. Raises EngineProblem."""
        verifier = await self._new_verifier(password)
        await self._engine.set_password(self._home.of_cluster(record.id), record.username, verifier)

    async def renew_tls(self, record: ClusterRecord, process: EngineProcess) -> None:
        """Have the engine, which must be ready, use the present certificate for those who come from now on.

        Raises DiskFull, StorageProblem, EngineMissing.
        """
        await self._engine.write_tls(await self._instance(record))
        process.signal(self._engine.reload_signal)

    async def reconfigure(self, record: ClusterRecord, process: EngineProcess, capacity: float) -> None:
        """Have an engine that runs read the present configuration, as far as it takes that without a start.

        Raises DiskFull, StorageProblem, EngineMissing.
        """
        await self._engine.write_configuration(await self._instance(record, capacity))
        self.reload(process)

    async def write_capacity(self, record: ClusterRecord, capacity: float) -> bool:
        """Write the settings that follow the capacity, to be read at a reload; answer whether they are others now.

        Raises DiskFull, StorageProblem, EngineMissing.
        """
        return await self._engine.write_capacity(await self._instance(record, capacity))

    def reload(self, process: EngineProcess) -> None:
        """Have an engine that is ready read what was written for it."""
        process.signal(self._engine.reload_signal)

    async def storage_bytes(self, record: ClusterRecord) -> int:
        """Answer the size of the cluster's files on the disk."""
        return await asyncio.to_thread(files.tree_bytes, self._home.of_cluster(record.id).root)

    def stamp(self, record: ClusterRecord) -> str:
        """Answer what the data looks like from outside; see Engine.stamp."""
        return self._engine.stamp(self._home.of_cluster(record.id))

    def ended_cleanly(self, record: ClusterRecord) -> bool:
        """Whether the engine, which has ended, had written everything, so that nothing will have to be recovered."""
        return self._engine.ended_cleanly(self._home.of_cluster(record.id))

    def stop(self, process: EngineProcess) -> None:
        """Tell the engine to end its sessions and stop cleanly."""
        process.signal(self._engine.stop_signal)

    async def abort(self, record: ClusterRecord, live: LiveEngine) -> None:
        """Stop the engine at once and wait until all of it is gone. Raises StopFailed."""
        live.thaw()
        live.process.signal(self._engine.abort_signal)
        await asyncio.wait({asyncio.ensure_future(live.process.wait())}, timeout=ABORT_TIMEOUT_S)
        await leftovers.clear(self._home.of_cluster(record.id).data)

    async def erase(self, record: ClusterRecord) -> None:
        """Remove all files of the cluster. Idempotent. Raises StorageProblem."""
        folders = self._home.of_cluster(record.id)
        if folders.data.exists():
            await leftovers.clear(folders.data)
        await asyncio.to_thread(files.remove_tree, folders.root)
        await asyncio.to_thread(shutil.rmtree, folders.socket, ignore_errors=True)

    def log_mark(self, record: ClusterRecord) -> int:
        """Answer the log's present end, for `explain_exit`."""
        return logfile.size(self._home.of_cluster(record.id).log)

    def explain_exit(self, record: ClusterRecord, ending: str, mark: int) -> str:
        """Answer why an engine ended, from how its process did (`ending`) and from its log since `mark`."""
        log = self._home.of_cluster(record.id).log
        said = self._engine.explain_exit(logfile.read_from(log, mark))
        return f"It ended with {ending}: {said}" if said else f"It ended with {ending}; its log is {log}."

    def killed_since(self, record: ClusterRecord, first: int, mark: int) -> Sequence[str]:
        """Answer the kinds of the engine's processes that its log since `mark` says were killed.

        `first` is the engine's first process.
        """
        return self._engine.killed_processes(logfile.read_from(self._home.of_cluster(record.id).log, mark), first)

    async def keep_log_bounded(self, record: ClusterRecord) -> None:
        """Rotate the engine's log if it has grown too large."""
        await asyncio.to_thread(logfile.rotate, self._home.of_cluster(record.id).log, max_bytes=self._log_max_bytes)

    def _library_for_start(self) -> Path | None:
        """Answer the library, unless it has been removed since it was tried out: the loader would only complain."""
        path = self._library.path
        return path if path is not None and path.exists() else None

    async def _instance(self, record: ClusterRecord, capacity: float | None = None) -> Instance:
        return Instance(
            cluster=record.name,
            installation=await self._installed.choose(record.engine_major),
            folders=self._home.of_cluster(record.id),
            account=self._account,
            username=record.username,
            database=record.database,
            bounds=record.bounds,
            capacity=record.bounds.least if capacity is None else capacity,
            acu=self._acu,
            library=self._library_for_start(),
            tls=self._tls(),
        )


def _group_name(record: ClusterRecord) -> str:
    return f"zorya-{record.id}"


def _free_port() -> int:
    """Answer a TCP port of 127.0.0.1 that is free now. If it is taken before the engine has it, the start fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
