"""One copy of a volume that follows the primary: its process, what is seen of it, and the steps that mend it."""

import asyncio
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from zorya.compute import leftovers
from zorya.compute.group import ProcessGroup
from zorya.compute.processes import EngineProcess, Launch
from zorya.control import marks
from zorya.control.instance import InstanceRunner
from zorya.control.live import LiveEngine
from zorya.control.marks import Mark
from zorya.control.record import ClusterRecord
from zorya.control.surroundings import Guard
from zorya.control.view import CopyView
from zorya.core import files, logging, ports
from zorya.core.capacity import Bounds
from zorya.core.clock import Clock
from zorya.core.volume import Copy, CopyKind, CopyState
from zorya.engines.base import FollowerSeen, Phase
from zorya.engines.following import Source
from zorya.storage.repair import Process

ENDING_S = 5.0
"""How long a follower may take to end by itself before it is ended by force."""

FOLLOWING_S = 20.0
"""How long a follower may take until it serves, when it is waited for."""

_POLL_S = 0.005

_log = logging.get("zorya.control")


class Member:
    """One of the copies. `record` answers the cluster's record as it is now; `changed` is called when it ends."""

    def __init__(
        self,
        copy: Copy,
        *,
        record: Callable[[], ClusterRecord],
        runner: InstanceRunner,
        guard: Guard,
        clock: Clock,
        changed: Callable[[], None],
        is_to_run: Callable[[], bool],
    ) -> None:
        """Nothing runs of it. `is_to_run` answers whether its process has a reason to run now."""
        self.copy = copy
        self.live: LiveEngine | None = None
        """Its engine, where it is a full copy and runs."""
        self.state = CopyState.LOST
        self.reason = "It has not been looked at."
        self.position: int | None = None
        """How far its log goes, as it was seen last."""
        self.lag_bytes: int | None = None
        self.lag_s: float | None = None
        self.progress: float | None = None
        self.verified_at: datetime | None = None
        self.damaged = ""
        """What was found to be damaged in it, as a sentence; empty when nothing is."""
        self.seen: FollowerSeen | None = None
        """What the primary knows of it; None while it is not connected."""
        self.ends = 0
        """How often in a row it has ended without having followed for long."""
        self.ended_at_s = 0.0
        self.failed_rebuilds = 0
        self.failed_at_s = 0.0
        self.started_at_s = 0.0
        self.moved_at_s = 0.0
        """When it last had all that the primary had, or more than before."""
        self.connected_at_s = 0.0
        """When it was last seen to be connected, or began."""
        self.is_leaving = False
        """Whether it was told to end."""
        self._record = record
        self._runner = runner
        self._guard = guard
        self._clock = clock
        self._changed = changed
        self._is_to_run = is_to_run
        self._receiver: EngineProcess | None = None
        self._group: ProcessGroup | None = None
        self.source: Source | None = None
        """Where it gets its log, as far as it was told."""
        self._bounds: Bounds | None = None
        mark = self.mark
        if mark is not None:
            self.verified_at = mark.verified_at
        self._looking: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        """The copy's name."""
        return self.copy.name

    @property
    def is_full(self) -> bool:
        """Whether it has data, and an engine."""
        return self.copy.kind is CopyKind.FULL

    @property
    def folder(self) -> Path:
        """Where its process works: its data, or its log."""
        if self.is_full:
            return self._runner.folders(self._record(), self.copy).data
        return self._runner.tail_path(self.copy)

    @property
    def process(self) -> EngineProcess | None:
        """Its process, if there is one."""
        return self.live.process if self.live is not None else self._receiver

    @property
    def group(self) -> ProcessGroup | None:
        """The group of its processes, if there are any."""
        return self.live.group if self.live is not None else self._group

    @property
    def seen_process(self) -> Process:
        """What is seen of its process."""
        if self.process is not None:
            return Process.RUNNING
        return Process.ENDED if self.ends else Process.ABSENT

    def view(self) -> CopyView:
        """Answer it as it was seen last."""
        return CopyView(
            name=self.name,
            zone=self.copy.zone,
            kind=self.copy.kind,
            is_primary=False,
            state=self.state,
            reason=self.reason,
            position=self.position,
            lag_bytes=self.lag_bytes,
            lag_s=self.lag_s,
            progress=self.progress,
            verified_at=self.verified_at,
            folder=str(self.folder if not self.is_full else self.folder.parent),
        )

    @property
    def mark(self) -> Mark | None:
        """What its mark says; None where it has none, or somebody else's."""
        found = marks.read(self._runner.mark_path(self.copy))
        record = self._record()
        return found if found is not None and (found.cluster, found.copy) == (record.id, self.name) else None

    @property
    def is_there(self) -> bool:
        """Whether its files are where they are to be: looked at from outside, at a few of them."""
        return self._runner.has_files(self._record(), self.copy)

    # Its process.

    async def follow(self, source: Source | None) -> None:
        """Have it run and get its log from there; None is from nowhere. What runs already only learns of the source.

        Raises what InstanceRunner.launch does, and OSError as StorageProblem.
        """
        record = self._record()
        if source is not None:
            await self.write_mark()
        if not self.is_full:
            await self._receive(source)
        elif self.live is None or self._bounds != record.bounds:
            # Some of what follows from the bounds must not be less than the primary has, and is chosen at a start only.
            if self.live is not None:
                await self.stop()
            self._bounds = record.bounds
            instance = await self._runner.instance(record, copy=self.copy, source=source)
            self._hold(await self._runner.launch(record, instance, port=ports.reserve(), copy=self.copy))
        elif source != self.source:
            await self._runner.write_following(record, self.copy, self.live.process, source, None)
        self.source = source

    async def write_mark(self) -> None:
        """Have its mark say the present epoch. Raises StorageProblem."""
        await self._runner.write_mark(self._record(), self.copy)

    def adopt(self) -> bool:
        """Hold the engine that an earlier server has started, if it runs; answer whether it does."""
        process = self._runner.find_process(self._record(), self.copy)
        if process is None:
            return False
        self._bounds = self._record().bounds
        self._hold(self._runner.alive(self._record(), process, self.copy))
        return True

    def _hold(self, live: LiveEngine) -> None:
        self.live = live
        self._begin(live.process, live.group)

    def _begin(self, process: EngineProcess, group: ProcessGroup) -> None:
        self.started_at_s = self.moved_at_s = self.connected_at_s = self._clock.monotonic_s()
        self.is_leaving = False
        self._guard.guard(group.name, group.freezer)
        process.on_exit(lambda ending: self._note_end(process, group, ending))

    def _note_end(self, process: EngineProcess, group: ProcessGroup, ending: str) -> None:
        if self.process is not process:
            return
        if self.live is not None:
            self.live.thaw()
        self._guard.forget(group.name)
        now_s = self._clock.monotonic_s()
        if not self.is_leaving:
            if self._is_to_run():
                self.ends += 1
                self.ended_at_s = now_s
            self.reason = f"Its process ended with {ending}."
            _log.info("a copy's process ended", cluster=self._record().name, copy=self.name, ending=ending)
        self._closing = asyncio.ensure_future(self._close(self.live, group))
        self.live = self._receiver = self._group = self.seen = None
        self.source = None
        self._changed()

    async def _close(self, live: LiveEngine | None, group: ProcessGroup) -> None:
        await self._end_look()
        if live is not None:
            await live.close()
            await self._runner.replication.let_go(self._runner.folders(self._record(), self.copy))
        await group.remove()

    @property
    def is_being_looked_at(self) -> bool:
        """Whether what its engine does is still being asked."""
        return self._looking is not None and not self._looking.done()

    def look(self, freeze_after_s: float | None) -> None:
        """See what sessions its engine has, and whether it rests, without waiting for that."""
        assert self.live is not None
        self._looking = asyncio.create_task(self.live.look(freeze_after_s), name=f"look at {self.name}")

    async def _end_look(self) -> None:
        looking, self._looking = self._looking, None
        if looking is not None and not looking.done():
            looking.cancel()
            await asyncio.wait({looking})

    async def _receive(self, source: Source | None) -> None:
        if self._receiver is not None and source != self.source:
            await self.stop()
        if source is None or self._receiver is not None:
            return
        record = self._record()
        argv, env, log = await self._runner.receiver(record, self.copy, source)
        tail = self.folder
        plan = Launch(argv=argv, env=env, folder=tail, log=log, account=self._runner.account)
        with files.disk_errors("Starting the receiver of a copy's log", tail):
            self._receiver = await EngineProcess.launch(plan)
        self._group = self._runner.enclose(record, self._receiver, self.copy, limits=False)
        self._begin(self._receiver, self._group)

    async def stop(self, *, at_once: bool = False) -> None:
        """End its process, if there is one, and wait until it is gone. Raises StopFailed."""
        process, live = self.process, self.live
        self.is_leaving = True
        if process is not None:
            self.thaw()
            if not at_once:
                # PostgreSQL's fast shutdown; the receiver too ends in order at it.
                process.signal(signal.SIGINT)
                await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=ENDING_S)
            if process.alive:
                # At SIGQUIT an engine ends as at once, but for what it would leave outside its folder.
                process.signal(signal.SIGQUIT if live is not None else signal.SIGKILL)
                # One that was stopped by a signal notices nothing but SIGKILL.
                await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=1.0)
                process.signal(signal.SIGKILL)
                await process.wait()
        if self._closing is not None:
            await self._closing
        await (leftovers.kill if at_once or process is None else leftovers.clear)(self.folder)

    async def following(self) -> bool:
        """Wait until a full copy's engine serves those who read; answer whether it does within FOLLOWING_S."""
        began = self._clock.monotonic_s()
        while self.live is not None and self._clock.monotonic_s() - began < FOLLOWING_S:
            if self._runner.phase(self._record(), self.live.process, self.copy) is Phase.FOLLOWING:
                return True
            await asyncio.sleep(_POLL_S)
        return False

    # Its sleep.

    def thaw(self) -> None:
        """Let it go on. May be repeated."""
        if self.live is not None:
            self.live.thaw()
        elif self._group is not None:
            self._group.thaw()

    async def freeze_receiver(self) -> None:
        """Freeze a tail's receiver, if it runs. Raises FreezeFailed."""
        if self._group is not None:
            await self._group.freeze()

    async def let_go(self) -> None:
        """Leave it running without anybody that watches it, thawed."""
        await self._end_look()
        self.thaw()
        if self.live is not None:
            await self.live.close()
            await self._runner.replication.let_go(self._runner.folders(self._record(), self.copy))
        if self.process is not None:
            self.process.release()

    def give_up_engine(self) -> EngineProcess:
        """Answer the process of its engine, which is held here no more: it has become the primary."""
        assert self.live is not None
        live, self.live = self.live, None
        self._guard.forget(live.group.name)
        self._closing = asyncio.ensure_future(live.close())
        return live.process
