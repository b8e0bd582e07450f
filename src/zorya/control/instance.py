"""Carry out one cluster's steps on the host: the engine's knowledge and the process put together, no decisions."""

import asyncio
import contextlib
import functools
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path

from zorya.compute import group, leftovers, logfile
from zorya.compute.group import Grouping, ProcessGroup
from zorya.compute.processes import EngineProcess, Launch
from zorya.control import marks
from zorya.control.installed import Installed
from zorya.control.live import LiveEngine
from zorya.control.marks import Mark
from zorya.control.record import ClusterRecord
from zorya.control.tail import LogTail
from zorya.core import errors, files
from zorya.core.account import Account
from zorya.core.capacity import Acu
from zorya.core.clock import Clock
from zorya.core.home import ClusterFolders, Home
from zorya.core.model import Address, Entrance, Handoff, Secret
from zorya.core.volume import ZONES, Copy, CopyKind, Volume
from zorya.engines.base import Engine, HeldIdentities, Installation, Instance, Phase, Replication, TlsFiles
from zorya.engines.following import Following, Source
from zorya.engines.handoff import Library
from zorya.storage import quorum

MOST_COPIES = 6

ABORT_TIMEOUT_S = 5.0
"""How long an engine may take to end after its abort signal before it is killed."""

LAST_WORD_S = 0.5
"""How long an engine that is given up may take to tell its clients so."""

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
        log_keep_bytes: int,
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
        self._log_keep_bytes = log_keep_bytes
        self._tls = tls

    @property
    def most_copies(self) -> int:
        """How many copies a volume of this kind of engine may have."""
        return MOST_COPIES if self._engine.replication is not None else 1

    @property
    def can_verify(self) -> bool:
        """Whether data of this kind of engine can be looked at for damage."""
        return self._engine.replication is not None

    async def choose(self, version: str | None) -> Installation:
        """Answer the installation for a new cluster; see engines.base.choose. Raises EngineMissing."""
        return await self._installed.choose(version)

    def engine_version(self, record: ClusterRecord) -> str:
        """Answer the full version of the installation that the cluster runs on."""
        return self._installed.version_of(record.engine_major)

    def folders(self, record: ClusterRecord, copy: Copy | None = None) -> ClusterFolders:
        """Answer where a full copy is; None is the primary."""
        return self._home.of_copy(record.id, copy or record.volume.copy(record.volume.primary))

    @property
    def account(self) -> Account:
        """Who engines run as."""
        return self._account

    @property
    def replication(self) -> Replication:
        """How copies come by their log."""
        replication = self._engine.replication
        assert replication is not None, "a volume with several copies is of a kind that has them"
        return replication

    async def let_replication_go(self, record: ClusterRecord) -> None:
        """Hold nothing of the primary's engine for the sake of copies any more. May be repeated."""
        if self._engine.replication is not None:
            await self._engine.replication.let_go(self.folders(record))

    async def installation(self, record: ClusterRecord) -> Installation:
        """Answer the installation that the cluster runs on. Raises EngineMissing."""
        return await self._installed.choose(record.engine_major)

    def tail_path(self, copy: Copy) -> Path:
        """Answer where a tail has its log."""
        return self._home.of_tail(copy)

    def mark_path(self, copy: Copy) -> Path:
        """Answer where a copy's mark is."""
        return self._home.mark(copy)

    async def write_mark(self, record: ClusterRecord, copy: Copy, epoch: int | None = None) -> None:
        """Have a copy's mark say that it has joined this epoch; None is the present one. Raises StorageProblem."""
        path = self.mark_path(copy)
        before = marks.read(path)
        mark = Mark(
            cluster=record.id,
            copy=copy.name,
            epoch=record.volume.epoch.number if epoch is None else epoch,
            verified_at=before.verified_at if before is not None else None,
        )
        with files.disk_errors("Marking a copy", path):
            await asyncio.to_thread(marks.write, path, mark)

    def collected_path(self, copy: Copy) -> Path:
        """Answer where the log is put that a full copy is given before it becomes the primary."""
        return self._home.collected(copy)

    def has_files(self, record: ClusterRecord, copy: Copy) -> bool:
        """Whether a copy's files are where they are to be: looked at from outside, at a few of them."""
        if copy.kind is CopyKind.TAIL:
            return self.tail_path(copy).is_dir()
        return self._engine.has_files(self.folders(record, copy))

    def free_bytes(self, record: ClusterRecord, copy: Copy | None) -> int:
        """Answer how much the engines' account may still write where a full copy is; None is the primary.

        Nothing where the folder is gone.
        """
        try:
            disk = os.statvfs(self.folders(record, copy).root)
        except OSError:
            return 0
        return disk.f_bavail * disk.f_frsize

    async def receiver(
        self, record: ClusterRecord, copy: Copy, source: Source
    ) -> tuple[Sequence[str], Mapping[str, str], Path]:
        """Answer the arguments, the environment and the log of the program that receives a tail's log.

        Raises EngineMissing, StorageProblem.
        """
        log = self._receiver_log(copy)
        with files.disk_errors("Preparing a receiver's start", log.parent):
            files.ensure_folder(log.parent, mode=0o700)
            logfile.rotate(log, max_bytes=self._log_max_bytes)
        installation = await self.installation(record)
        argv, env = self.replication.receiver(installation, source, copy=copy.name, tail=self.tail_path(copy))
        return argv, env, log

    async def write_following(
        self, record: ClusterRecord, copy: Copy, process: EngineProcess, source: Source | None, collected: Path | None
    ) -> None:
        """Have a full copy that runs get its log from elsewhere from now on. Raises DiskFull, StorageProblem."""
        instance = await self.instance(record, copy=copy, source=source, collected=collected)
        await self._engine.write_configuration(instance)
        await self._engine.reload(instance, process.signal)

    def log_path(self, record: ClusterRecord) -> Path:
        """Answer where the engine logs."""
        return self.folders(record).log

    def identities_path(self, record: ClusterRecord) -> Path:
        """Answer where it is kept who may log in while the engine does not run."""
        return self._home.identities(record.id)

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
        """Make the cluster's folders and the primary's data. Idempotent.

        Raises DiskFull, StorageProblem, StartFailed, EngineMissing.
        """
        instance = await self.instance(record)
        folders = instance.folders
        with files.disk_errors("Making the cluster's folders", folders.root):
            self.ensure_passable(self._home.of_cluster(record.id))
            self.ensure_passable(folders.root)
            files.ensure_folder(folders.log.parent, mode=0o700)
        await self._engine.build(instance, await self._new_verifier(record.password))

    def ensure_passable(self, folder: Path) -> None:
        """Make a folder through which the engine can pass, while it may write only where it has to. Raises OSError."""
        if not folder.parent.exists():
            self.ensure_passable(folder.parent)
        files.ensure_folder(folder, mode=0o710 if self._account.is_other else 0o700, group=self._account)

    async def _new_verifier(self, password: Secret) -> Secret:
        # It is slow on purpose.
        return await asyncio.to_thread(self._engine.new_verifier, password)

    async def start(self, record: ClusterRecord, capacity: float, *, port: int) -> LiveEngine:
        """Start the primary's engine for this capacity, or answer the one that runs already, before it is ready.

        `port` is where it shall listen on 127.0.0.1, and what its Unix socket is named by; see `core.ports`.

        Raises DataDamaged, DiskFull, StorageProblem, EngineMissing, StartFailed; then nothing was started.
        """
        running = self.find_running(record)
        if running is not None:
            return running[0]
        return await self.launch(record, await self.instance(record, capacity=capacity), port=port)

    async def launch(
        self, record: ClusterRecord, instance: Instance, *, port: int, copy: Copy | None = None
    ) -> LiveEngine:
        """Start the engine on a full copy that none runs on; None is the primary. Raises as `start`."""
        folders = instance.folders
        self._engine.check_data(instance)
        if self._engine.recorded_pid(folders) is not None:
            # The last engine did not end by itself. Its lock goes only when nothing can be using the folder.
            await leftovers.clear(folders.data)
            self._engine.forget_recorded_pid(folders)
        with files.disk_errors("Preparing the engine's start", folders.root):
            files.ensure_folder(folders.log.parent, mode=0o700)
            files.ensure_folder(folders.socket, mode=0o700, owner=self._account)
            files.ensure_folder(folders.given_up, mode=0o700, owner=self._account)
            # Whether it is there again tells whether this start's engine has opened it.
            folders.inlet.unlink(missing_ok=True)
            await self._engine.write_configuration(instance)
            logfile.rotate(folders.log, max_bytes=self._log_max_bytes)
        argv, env = self._engine.command(instance, port)
        plan = Launch(
            argv=argv,
            env=env,
            folder=folders.data,
            log=folders.log,
            account=self._account,
            is_spared=self._engine.spares_first,
        )
        try:
            return self.alive(record, await EngineProcess.launch(plan), copy)
        except OSError as error:
            raise errors.StartFailed(
                f"{argv[0]} could not be started: {error.strerror or error}.",
                hint="`zorya doctor` shows the installations found.",
                client_message=f'cluster "{record.name}" could not be started',
            ) from error

    def find_running(self, record: ClusterRecord) -> tuple[LiveEngine, Entrance | None] | None:
        """Answer the engine that runs on the primary's data folder, with its entrance once it is ready.

        One that was frozen is thawed: nobody has watched its sessions.
        """
        process = self.find_process(record, None)
        if process is None:
            return None
        return self.alive(record, process), self.entrance(record, process)

    def find_process(self, record: ClusterRecord, copy: Copy | None) -> EngineProcess | None:
        """Answer the engine that runs on a full copy, thawed; None is the primary."""
        folders = self.folders(record, copy)
        pid = self._engine.recorded_pid(folders)
        if pid is None:
            return None
        process = EngineProcess.take_over(pid, folder=folders.data, known=record.process if copy is None else None)
        if process is not None:
            group.thaw_found(group_name(record, copy), process.pid)
        return process

    def remove_groups(self, record: ClusterRecord) -> None:
        """Remove the control groups that engines left which ended while no server was there."""
        for copy in record.volume.copies:
            group.remove_left(self._grouping, group_name(record, copy))

    def alive(self, record: ClusterRecord, process: EngineProcess, copy: Copy | None = None) -> LiveEngine:
        """Answer what is known of an engine that is up on a full copy; None is the primary.

        Only the primary's group limits it: what the volume itself takes is not the capacity that clients use.
        """
        folders = self.folders(record, copy)
        enclosed = self.enclose(record, process, copy, limits=copy is None)
        watcher = functools.partial(self._engine.watcher, folders)
        tail = LogTail(folders.log, find=self._engine.failed_logins)

        def workers() -> Set[int]:
            return self._engine.workers(enclosed.pids(), process.pid)

        return LiveEngine(
            record.name, process, enclosed, workers=workers, new_watcher=watcher, tail=tail, clock=self._clock
        )

    def enclose(
        self, record: ClusterRecord, process: EngineProcess, copy: Copy | None, *, limits: bool
    ) -> ProcessGroup:
        """Put a process of a copy into a group of its own, with limits or only to be frozen; None is the primary."""
        grouping = self._grouping if limits else self._grouping.only_freezer()
        return ProcessGroup.enclose(grouping, group_name(record, copy), process.identity)

    async def await_ready(self, record: ClusterRecord, process: EngineProcess) -> Address:
        """Wait until the engine serves clients and answer its address. Waits for ever if the process ends."""
        folders = self.folders(record)
        began = asyncio.get_running_loop().time()
        while True:
            readiness = self._engine.readiness(folders, process.pid)
            if readiness.phase is Phase.READY and readiness.address is not None:
                return readiness.address
            waited = asyncio.get_running_loop().time() - began
            await asyncio.sleep(_POLL_FAST_S if waited < _POLL_FAST_FOR_S else _POLL_SLOW_S)

    def entrance(self, record: ClusterRecord, process: EngineProcess, copy: Copy | None = None) -> Entrance | None:
        """Answer how to get into a running engine; None when it takes nobody, or not any more."""
        folders = self.folders(record, copy)
        readiness = self._engine.readiness(folders, process.pid)
        address = readiness.address
        if address is None or (readiness.phase is Phase.FOLLOWING and (copy is None)):
            return None
        if folders.inlet.exists():
            handoff = Handoff(inlet=folders.inlet, reason="The engine takes connections from Zorya.")
        elif self._library.path is None:
            handoff = Handoff(inlet=None, reason=self._library.reason)
        else:
            handoff = Handoff(inlet=None, reason="The engine was started without the handoff library.")
        return Entrance(address=address, handoff=handoff)

    def phase(self, record: ClusterRecord, process: EngineProcess, copy: Copy | None = None) -> Phase:
        """Answer how far an engine is that runs on a full copy; None is the primary. Reads one small file."""
        return self._engine.readiness(self.folders(record, copy), process.pid).phase

    def expected_handoff(self, record: ClusterRecord) -> Handoff:
        """Answer how clients will get into an engine that is yet to be started."""
        inlet = self.folders(record).inlet if self._library.path is not None else None
        return Handoff(inlet=inlet, reason=self._library.reason)

    async def checkpoint(self, record: ClusterRecord) -> None:
        """Have the engine write its changed pages. Raises EngineProblem."""
        await self._engine.checkpoint(self.folders(record))

    async def hold_identities(self, record: ClusterRecord) -> HeldIdentities:
        """Have the engine say who may log in, and let nobody change it; see Engine.hold_identities."""
        return await self._engine.hold_identities(self.folders(record))

    async def set_password(self, record: ClusterRecord, password: Secret) -> None:
        """Give the cluster's user another password in the running engine. May be repeated. Raises EngineProblem."""
        verifier = await self._new_verifier(password)
        await self._engine.set_password(self.folders(record), record.username, verifier)

    async def reconfigure(
        self, record: ClusterRecord, process: EngineProcess, capacity: float, *, needed: int | None = None
    ) -> None:
        """Have an engine that runs read the present configuration, as far as it takes that without a start.

        `needed`: see `instance`.

        Raises DiskFull, StorageProblem, EngineMissing, NotReady, EngineProblem.
        """
        instance = await self.instance(record, capacity=capacity, needed=needed)
        await self._engine.write_configuration(instance)
        await self._engine.reload(instance, process.signal)

    async def write_capacity(self, record: ClusterRecord, capacity: float) -> bool:
        """Write the settings that follow the capacity, to be read at a reload; answer whether they are others now.

        Raises DiskFull, StorageProblem, EngineMissing.
        """
        return await self._engine.write_capacity(await self.instance(record, capacity=capacity))

    async def reload(self, record: ClusterRecord, process: EngineProcess, capacity: float) -> None:
        """Have an engine that is ready take what was written for it; see Engine.reload."""
        await self._engine.reload(await self.instance(record, capacity=capacity), process.signal)

    async def storage_bytes(self, record: ClusterRecord) -> int:
        """Answer the size of the cluster's files on the disk."""
        return await asyncio.to_thread(files.tree_bytes, self.folders(record).root)

    def stamp(self, record: ClusterRecord) -> str:
        """Answer what the data looks like from outside; see Engine.stamp."""
        return self._engine.stamp(self.folders(record))

    def ended_cleanly(self, record: ClusterRecord) -> bool:
        """Whether the engine, which has ended, had written everything, so that nothing will have to be recovered."""
        return self._engine.ended_cleanly(self.folders(record))

    def stop(self, process: EngineProcess) -> None:
        """Tell the engine to end its sessions and stop cleanly."""
        process.signal(self._engine.stop_signal)

    async def end_or_kill(self, live: LiveEngine) -> None:
        """End all of an engine's processes, with a word to its clients if it can still say one."""
        live.thaw()
        live.process.signal(self._engine.abort_signal)
        await asyncio.wait({asyncio.ensure_future(live.process.wait())}, timeout=LAST_WORD_S)
        await self.kill(live)

    async def kill(self, live: LiveEngine) -> None:
        """End all of an engine's processes with SIGKILL, whatever state they are in, and wait for the first's end."""
        live.thaw()
        others = live.group.pids() - {live.process.pid}
        live.process.signal(signal.SIGKILL)
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await live.process.wait()

    async def abort(self, record: ClusterRecord, live: LiveEngine) -> None:
        """Stop the engine at once and wait until all of it is gone. Raises StopFailed."""
        live.thaw()
        live.process.signal(self._engine.abort_signal)
        await asyncio.wait({asyncio.ensure_future(live.process.wait())}, timeout=ABORT_TIMEOUT_S)
        await leftovers.clear(self.folders(record).data)

    async def erase(self, record: ClusterRecord) -> None:
        """Remove all files of the cluster, in every zone. Idempotent. Raises StorageProblem."""
        for copy in record.volume.copies:
            await self.erase_copy(record, copy)
        await asyncio.to_thread(files.remove_tree, self._home.of_cluster(record.id))

    async def erase_copy(self, record: ClusterRecord, copy: Copy) -> None:
        """Remove a copy's files and those of the other copy in its folder. Idempotent. Raises StorageProblem."""
        folders = self.folders(record, copy)
        for used in (folders.data, self._home.of_tail(copy)):
            if used.exists():
                await leftovers.clear(used)
        self._engine.release(folders.data)
        await asyncio.to_thread(files.remove_tree, folders.root)
        await asyncio.to_thread(shutil.rmtree, folders.socket, ignore_errors=True)

    async def erase_one(self, record: ClusterRecord, copy: Copy) -> None:
        """Remove the files of one copy that is a copy no more. Idempotent. Raises StorageProblem."""
        if copy.kind is CopyKind.TAIL:
            await asyncio.to_thread(files.remove_tree, self.tail_path(copy))
        else:
            folders = self.folders(record, copy)
            await self.erase_data(folders)
            for folder in (folders.conf, folders.socket):
                await asyncio.to_thread(files.remove_tree, folder)
        self.mark_path(copy).unlink(missing_ok=True)

    async def erase_data(self, folders: ClusterFolders) -> None:
        """Remove a data folder on which nothing runs. Idempotent. Raises StorageProblem."""
        self._engine.release(folders.data)
        await asyncio.to_thread(files.remove_tree, folders.data)

    def log_mark(self, record: ClusterRecord) -> int:
        """Answer the log's present end, for `explain_exit`."""
        return logfile.size(self.folders(record).log)

    def explain_exit(self, record: ClusterRecord, ending: str, mark: int) -> str:
        """Answer why an engine ended, from how its process did (`ending`) and from its log since `mark`."""
        log = self.folders(record).log
        said = self._engine.explain_exit(logfile.read_from(log, mark))
        return f"It ended with {ending}: {said}" if said else f"It ended with {ending}; its log is {log}."

    def killed_since(self, record: ClusterRecord, first: int, mark: int) -> Sequence[str]:
        """Answer the kinds of the engine's processes that its log since `mark` says were killed.

        `first` is the engine's first process.
        """
        return self._engine.killed_processes(logfile.read_from(self.folders(record).log, mark), first)

    async def keep_logs_bounded(self, record: ClusterRecord) -> None:
        """Rotate the logs of the copies' engines and receivers that have grown too large."""
        for copy in record.volume.copies:
            log = self.folders(record, copy).log if copy.kind is CopyKind.FULL else self._receiver_log(copy)
            if log.exists():
                await asyncio.to_thread(logfile.rotate, log, max_bytes=self._log_max_bytes)

    async def keep_engine_log_bounded(self, record: ClusterRecord) -> None:
        """Have the primary's engine, which runs, keep no more log than it has to. Raises NotReady, EngineProblem."""
        await self._engine.bound_log(self.folders(record), self._log_keep_bytes)

    def _receiver_log(self, copy: Copy) -> Path:
        return self.tail_path(copy).parent / "log" / "receiver.log"

    def _library_for_start(self) -> Path | None:
        """Answer the library, unless it has been removed since it was tried out: the loader would only complain."""
        path = self._library.path
        return path if path is not None and path.exists() else None

    async def instance(
        self,
        record: ClusterRecord,
        *,
        capacity: float | None = None,
        copy: Copy | None = None,
        source: Source | None = None,
        collected: Path | None = None,
        needed: int | None = None,
    ) -> Instance:
        """Answer a full copy as its engine is to see it; None is the primary. See engines.following.

        `needed` of all the others are to have each commit; None is by the rule in force.
        """
        return Instance(
            cluster=record.name,
            installation=await self._installed.choose(record.engine_major),
            folders=self.folders(record, copy),
            account=self._account,
            username=record.username,
            database=record.database,
            bounds=record.bounds,
            capacity=record.bounds.least if capacity is None else capacity,
            acu=self._acu,
            library=self._library_for_start(),
            tls=self._tls(),
            following=self._following(record.volume, copy, source, collected, needed),
            requires_tls=record.access.require_tls,
        )

    def _following(
        self,
        volume: Volume,
        copy: Copy | None,
        source: Source | None,
        collected: Path | None,
        needed: int | None,
    ) -> Following | None:
        if len(volume.copies) == 1:
            return None
        name = copy.name if copy is not None else volume.primary
        return Following(
            copy=name,
            others=tuple(one.name for one in volume.copies if one.name != name),
            counted=tuple(one for one in (volume.established if needed is None else _names(volume)) if one != name),
            needed=quorum.rule(len(volume.established)).followers_needed if needed is None else needed,
            leads=name == volume.primary,
            source=source,
            collected=collected,
            keep_bytes=self._log_keep_bytes,
        )


def group_name(record: ClusterRecord, copy: Copy | None) -> str:
    """Answer the name of the control groups of a copy's processes; None is the primary."""
    chosen = copy or record.volume.copy(record.volume.primary)
    name = f"zorya-{record.id}" if chosen.zone == ZONES[0] else f"zorya-{record.id}-{chosen.zone}"
    return name if chosen.kind is CopyKind.FULL else f"{name}-tail"


def _names(volume: Volume) -> tuple[str, ...]:
    return tuple(one.name for one in volume.copies)
