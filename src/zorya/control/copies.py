"""The other copies of one cluster's volume while its engine runs: started with the primary, watched, mended, stopped.

`storage.repair` decides what is done for a copy; here it is carried out, beside the owner's own steps, until the owner
has it held: before a stop, and before another copy becomes the primary (`failover`).
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from zorya.compute import procfs
from zorya.control import marks
from zorya.control.events import EventKind
from zorya.control.lifecycle import Process
from zorya.control.live import LiveEngine
from zorya.control.member import Member
from zorya.control.seat import Seat
from zorya.control.standing import Standing
from zorya.control.surroundings import Surroundings
from zorya.control.view import CopyView
from zorya.core import errors, failpoints, files, logging
from zorya.core.model import Entrance
from zorya.core.volume import Copy, CopyState, format_position
from zorya.engines.base import LogEnd, Phase, PrimarySeen
from zorya.engines.following import Source
from zorya.storage import history, quorum, repair, retention
from zorya.storage.election import Seen
from zorya.storage.history import Relation
from zorya.storage.quorum import Health
from zorya.storage.repair import Action, CopySeen

LOOK_EVERY_S = 1.0
"""How often the primary is asked how far its copies are."""

GLANCE_EVERY_S = 0.25
"""How often it is seen whether the primary's files are where they are to be."""

HANGS_S = 10.0
"""How long a primary of which a process was stopped by a signal may not answer before another copy takes over."""

FULL_BYTES = 1024**2
"""A disk with no more than this is full."""

ROOM_BYTES = 256 * 1024**2
"""A disk with more than this has room for the primary."""

FULL_FOR_S = 2.0
"""How long the disk of the primary's zone may be full before another copy takes over."""

BEHIND_S = 5.0
"""How long a copy may lack what the primary has before it counts as behind."""

SETTLE_S = 5.0
"""How long copies may take to come up, or to come back, before it is told that the volume is degraded."""

STEADY_S = 10.0
"""How long a copy has to follow until it is forgotten how often it had ended before."""

STUCK_S = 30.0
"""How long a copy may be connected and get nothing of what it lacks before it is started anew."""

FULLS_WAIT_S = 0.5
"""How long the full copies that follow wait, at the most, for the tails to be there."""

REST_WITHIN_S = 10.0
"""How long a full copy may take to replay the last of the log, once the primary has stopped."""

JOINT_S = 1.0
"""How long the engine has to take a new rule for commits, before it is relied on."""

PRUNE_EVERY_S = 60.0

_QUICK_S = 0.01
_log = logging.get("zorya.control")


class Copies:
    """The copies of one cluster's volume but for the primary."""

    def __init__(
        self, surroundings: Surroundings, *, standing: Standing, seat: Seat, changed: Callable[[], None]
    ) -> None:
        """None runs, as far as is known. `changed` is called when what `health` answers has changed."""
        self._around = surroundings
        self._runner = surroundings.runner
        self._clock = surroundings.clock
        self._standing = standing
        self._seat = seat
        self._changed = changed
        self.members: dict[str, Member] = {}
        self.rest: LogEnd | None = None
        """Where the volume rests; None while it does not, or that is not known."""
        self.primary_verified_at: datetime | None = None
        """When the primary's checksums were last found to be right."""
        self._attending: asyncio.Task[None] | None = None
        self._work: dict[str, asyncio.Task[None]] = {}
        self._rebuilding = asyncio.Lock()
        self._keeping = asyncio.Lock()
        self._source: Source | None = None
        self._kept: Set[str] | None = None
        self._flushed: deque[tuple[float, int]] = deque(maxlen=600)
        self._began_s = 0.0
        self._answered_s = 0.0
        self._full_since_s: float | None = None
        self._ready_s: float | None = None
        """Since when the primary serves; None before."""
        self.primary_problem = ""
        """Why the primary cannot go on though its process is there, as a sentence; empty when it can."""
        self._unwell_since_s: float | None = None
        self._told = Health.WHOLE
        self._pruned_s = 0.0
        self._joint: tuple[float, int | None] | None = None
        """Since when commits wait for all copies, so that all can count, and the position all have to have first."""
        self._stirring = asyncio.Event()
        self.renew()

    def renew(self) -> None:
        """Have a member for each copy that the record has now, but for the primary; those that there are stay."""
        volume = self._standing.record.volume
        self.members = {
            copy.name: self.members[copy.name] if copy.name in self.members else self._new_member(copy)
            for copy in volume.others
        }

    def _new_member(self, copy: Copy) -> Member:
        return Member(
            copy,
            record=lambda: self._standing.record,
            runner=self._runner,
            guard=self._around.guard,
            clock=self._clock,
            changed=self._stir,
            # With the primary, or at a pause, those that follow it end in order.
            is_to_run=lambda: self._attending is not None and self._seat.phase is Process.READY,
        )

    def _stir(self) -> None:
        self._stirring.set()

    @property
    def is_alone(self) -> bool:
        """Whether the volume has one copy."""
        return not self._standing.record.volume.others

    @property
    def _fulls(self) -> list[Member]:
        return [one for one in self.members.values() if one.is_full]

    @property
    def _tails(self) -> list[Member]:
        return [one for one in self.members.values() if not one.is_full]

    @property
    def lives(self) -> list[LiveEngine]:
        """The engines of full copies that follow, and serve."""
        return [one.live for one in self._fulls if one.live is not None]

    # How it is.

    def view(self, copy: Copy) -> CopyView:
        """Answer one of them as it was seen last."""
        # While another becomes the primary, the one that was is no member yet.
        member = self.members.get(copy.name) or self._new_member(copy)
        return member.view()

    @property
    def current(self) -> int:
        """How many copies have everything, the primary among them."""
        return 1 + sum(one.state is CopyState.CURRENT for one in self.members.values())

    @property
    def health(self) -> tuple[Health, str]:
        """How the volume is, and why, as a sentence."""
        volume = self._standing.record.volume
        reachable = 1 + sum(one.state in {CopyState.CURRENT, CopyState.BEHIND} for one in self.members.values())
        health, reason = quorum.assess(
            quorum.rule(len(volume.copies)),
            current=self.current,
            reachable=reachable,
            established=volume.is_established or self.is_alone,
        )
        missing = [one for one in self.members.values() if one.state is not CopyState.CURRENT]
        detail = "; ".join(
            f"{one.name} {one.reason[:1].lower()}{one.reason[1:].rstrip('.')}" for one in missing if one.reason
        )
        return health, f"{reason} {detail}." if detail else reason

    @property
    def flushed(self) -> int:
        """How far the primary's log went when it was seen last; 0 if it was not."""
        return self._flushed[-1][1] if self._flushed else 0

    @property
    def current_fulls(self) -> int:
        """How many of the other full copies have everything."""
        return sum(one.state is CopyState.CURRENT and one.live is not None for one in self._fulls)

    @property
    def mends(self) -> str:
        """What is being done for a copy that has to come first before a pause or a freeze; empty when nothing is."""
        now_s = self._clock.monotonic_s()
        for one in self.members.values():
            if one.process is not None and one.seen is None and now_s - one.started_at_s < repair.UNCONNECTED_S:
                return f"Copy {one.name} is connecting."
            if one.state is CopyState.BUILDING:
                return f"Copy {one.name} is being made anew."
            if one.state is CopyState.BEHIND and one.seen is not None and not self._hangs(one):
                return f"Copy {one.name} is catching up."
        return ""

    # Its beginning and end.

    @property
    def is_begun(self) -> bool:
        """Whether they follow a primary, or are to."""
        return self._source is not None

    def begin(self, source: Source) -> None:
        """Start those that do not run, as soon as the primary at `source` can feed them, and attend to all of them."""
        if self.is_alone:
            return
        self.rest = None
        self._standing.note_rest(None)
        self._source = source
        self._kept = None
        self._joint = None
        self.primary_problem = ""
        self._began_s = self._clock.monotonic_s()
        self._flushed.clear()
        self._unwell_since_s = None
        self._ready_s = None
        for one in self.members.values():
            if one.state is CopyState.CURRENT:
                # So it was at rest; what it is now is not seen yet.
                one.state, one.reason, one.seen = CopyState.BEHIND, "It is not connected yet.", None
        if not self._tails:
            # They are what commits wait for, and need nothing of the primary to begin with.
            self._have_join(self._fulls)
        if self._attending is None:
            self._attending = asyncio.create_task(self._attend(), name=f"{self._standing.name}: copies")

    def _have_join(self, members: Sequence[Member]) -> None:
        """Have those follow of which nothing speaks against it; the others are decided on when the primary is asked."""
        for one in members:
            if one.is_there and self._relation(one) is Relation.FOLLOWS and one.name not in self._work:
                self._do(one, self._join(one))

    async def build(self) -> None:
        """Make all of them from the primary's data, which no engine has run on yet. Idempotent.

        Raises DiskFull, StorageProblem, EngineMissing.
        """
        if self.is_alone:
            return
        await self.mark_primary()
        await asyncio.gather(*(self._build(one) for one in self.members.values()))
        await self.compare()

    async def _build(self, one: Member) -> None:
        record, runner = self._standing.record, self._runner
        self._check_zone(one.copy)
        folders = runner.folders(record, one.copy)
        with files.disk_errors("Making a copy's folders", folders.root):
            runner.ensure_passable(folders.root)
        if one.is_full:
            instance = await runner.instance(record, copy=one.copy)
            await runner.replication.seed(instance, runner.folders(record).data)
        else:
            await self._empty_tail(one)
            await runner.replication.begin_tail(await runner.instance(record), runner.tail_path(one.copy))
        await one.write_mark()

    async def mark_primary(self) -> None:
        """Have the primary's mark say the present epoch. Raises StorageProblem."""
        record = self._standing.record
        await self._runner.write_mark(record, record.volume.copy(record.volume.primary))

    def why_not_in_place(self) -> str:
        """Answer why the primary is not to be started as it is, as a sentence; empty when nothing speaks against it."""
        record = self._standing.record
        copy = record.volume.copy(record.volume.primary)
        if not self._runner.has_files(record, copy):
            return "The primary's data is not there."
        mark = marks.read(self._runner.mark_path(copy))
        if record.volume.rest is not None and len(record.volume.established) > 1:
            rest = self._runner.replication.rest(self._runner.folders(record))
            if rest is None or rest.position != record.volume.rest:
                return "The primary's data is not what it was when it came to rest."
        if len(record.volume.established) > 1 and (mark is None or mark.epoch != record.volume.epoch.number):
            return "The primary's data is not to be trusted: it has no mark of the present epoch."
        return ""

    async def note_verified(self, copy: Copy, at: datetime) -> None:
        """Keep that a copy's checksums were found to be right. Raises StorageProblem."""
        member = self.members.get(copy.name)
        if member is not None:
            member.verified_at = at
        else:
            self.primary_verified_at = at
        path = self._runner.mark_path(copy)
        mark = await asyncio.to_thread(marks.read, path)
        if mark is not None:
            with files.disk_errors("Marking a copy", path):
                await asyncio.to_thread(marks.write, path, replace(mark, verified_at=at))

    @asynccontextmanager
    async def put_aside(self, one: Member) -> AsyncIterator[None]:
        """Have a copy stopped, and left alone, for the block; then it follows again."""
        if one.name in self._work:
            raise errors.NotReady(f"Copy {one.name} is being mended.", hint="Try again when it is done.")
        aside = asyncio.get_running_loop().create_future()
        self._work[one.name] = asyncio.ensure_future(_until(aside))
        try:
            await one.stop()
            yield
        finally:
            aside.cancel()
            self._work.pop(one.name, None)
            one.ends = 0
            self._stir()

    async def make_anew_at_rest(self, name: str) -> None:
        """Make a copy anew from the primary's files, nothing of the cluster running. Raises StorageProblem."""
        one = self.members[name]
        await one.stop(at_once=True)
        if one.is_full:
            await asyncio.to_thread(files.remove_tree, self._runner.folders(self._standing.record, one.copy).data)
        await self._build(one)
        one.damaged = ""

    async def renew_tls(self) -> None:
        """Give the engines that follow the present certificate. Raises DiskFull, StorageProblem, EngineMissing."""
        for one in self._fulls:
            if one.live is not None:
                source = self._source
                await self._runner.write_following(self._standing.record, one.copy, one.live.process, source, None)

    async def adopt(self) -> None:
        """Hold the engines that an earlier server has started, and end its receivers; `begin` has others started.

        Once, when this server has found the primary running. Raises StopFailed.
        """
        for one in self._fulls:
            one.adopt()
        await asyncio.gather(*(one.stop(at_once=True) for one in self.members.values() if not one.is_full))

    async def hold(self) -> None:
        """Attend to them no more; what is being made anew is given up. Their processes go on. May be repeated."""
        tasks = [task for task in (self._attending, *self._work.values()) if task is not None]
        self._attending = None
        self._work.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._runner.replication.let_go(self._runner.folders(self._standing.record))

    async def drop_hanging(self) -> None:
        """End those that are connected and do not move: the primary's stop would wait for them. Raises StopFailed."""
        now_s = self._clock.monotonic_s()
        for one in self.members.values():
            if one.seen is not None and now_s - one.moved_at_s > BEHIND_S and one.lag_bytes:
                await one.stop(at_once=True)

    def go_on(self) -> None:
        """Attend to them again after `hold`, the primary being where it was."""
        if self._source is not None and self._attending is None and not self.is_alone:
            self._attending = asyncio.create_task(self._attend(), name=f"{self._standing.name}: copies")

    async def end(self) -> None:
        """End all of their processes at once. May be repeated. Raises StopFailed."""
        await self.hold()
        self._source = None
        await asyncio.gather(*(one.stop(at_once=True) for one in self.members.values()))

    async def let_go(self) -> None:
        """Leave their processes running without anybody that attends to them."""
        await self.hold()
        for one in self.members.values():
            await one.let_go()

    async def come_to_rest(self) -> None:
        """Have all of them, the primary having stopped, come to where it stopped, end, and be compared; tell of it.

        Raises StopFailed.
        """
        if self.is_alone:
            return
        await self.hold()
        self._source = None
        end = self._runner.replication.rest(self._runner.folders(self._standing.record))
        if end is not None:
            # One that was not connected has not got it.
            connected = [one for one in self._fulls if one.seen is not None or not self._flushed]
            await asyncio.gather(*(self._replay(one, end.position) for one in connected))
        await failpoints.reached("rest.replayed")
        await asyncio.gather(*(one.stop() for one in self.members.values()))
        await self.compare()
        await self._tell_rest()

    async def compare(self) -> None:
        """See, while nothing runs, which copies are where the primary was stopped, and keep that."""
        if self.is_alone:
            return
        self.rest = await asyncio.to_thread(self._compare)
        # Written with the next change.
        self._standing.note_rest(self.rest.position if self.rest is not None else None)

    def _compare(self) -> LogEnd | None:
        record, replication = self._standing.record, self._runner.replication
        end = replication.rest(self._runner.folders(record))
        for one in self.members.values():
            one.seen, one.lag_s, one.progress = None, None, None
            if not one.is_there:
                self._lose(one, "It is not there.")
            elif one.damaged:
                self._lose(one, one.damaged)
            elif end is None:
                one.state, one.position, one.lag_bytes = CopyState.BEHIND, None, None
                one.reason = "The primary was not stopped cleanly, so it is not known where it is."
            elif self._rests(one, end):
                one.state, one.reason, one.position, one.lag_bytes = CopyState.CURRENT, "", end.position, 0
            else:
                one.state, one.position, one.lag_bytes = CopyState.BEHIND, None, None
                one.reason = "It does not have the last of the log."
        return end

    def _rests(self, one: Member, end: LogEnd) -> bool:
        replication = self._runner.replication
        if one.mark is None or self._relation(one) is not Relation.FOLLOWS:
            return False
        if one.is_full:
            return replication.rests_at(self._runner.folders(self._standing.record, one.copy), end)
        return replication.tail_reaches(self._runner.tail_path(one.copy), end)

    def _lose(self, one: Member, why: str) -> None:
        one.state, one.reason, one.position, one.lag_bytes = CopyState.LOST, why, None, None

    async def _tell_rest(self) -> None:
        total = len(self.members) + 1
        if self.rest is None:
            await self._standing.tell(EventKind.COPIES_COMPARED, "The primary was not stopped cleanly.")
            return
        where = format_position(self.rest.position)
        if self.current == total:
            await self._standing.tell(EventKind.COPIES_COMPARED, f"All {total} are at {where}.")
            return
        others = ", ".join(
            f"{one.name}: {one.reason}" for one in self.members.values() if one.state is not CopyState.CURRENT
        )
        await self._standing.tell(EventKind.COPIES_COMPARED, f"{self.current} of {total} are at {where}. {others}")

    async def _replay(self, one: Member, position: int) -> None:
        record = self._standing.record
        deadline = self._clock.monotonic_s() + REST_WITHIN_S
        while one.live is not None and self._clock.monotonic_s() < deadline:
            with contextlib.suppress(errors.EngineProblem):
                if await self._runner.replication.replayed(self._runner.folders(record, one.copy)) >= position:
                    return
            await asyncio.sleep(_QUICK_S)

    async def agree(self) -> bool:
        """Have every commit on all copies from now on, and wait until all have what was before; answer whether they do.

        So that fewer of them can count. `resize` has the rule of their number hold again.
        """
        live, runner, record = self._seat.live, self._runner, self._standing.record
        if live is None:
            return False
        await runner.reconfigure(record, live.process, self._standing.capacity, needed=len(record.volume.others))
        await asyncio.sleep(JOINT_S)
        folders = runner.folders(record)
        wanted = (await runner.replication.look(folders)).flushed
        deadline = self._clock.monotonic_s() + REST_WITHIN_S
        while self._clock.monotonic_s() < deadline:
            seen = (await runner.replication.look(folders)).followers
            if all(name in seen and seen[name].flushed >= wanted for name in self.members):
                return True
            await asyncio.sleep(_QUICK_S * 5)
        await runner.reconfigure(record, live.process, self._standing.capacity)
        return False

    async def resize(self, source_of: Callable[[Entrance], Source]) -> None:
        """Take up that the record has other copies than before: make what is missing, remove what is too much."""
        before = dict(self.members)
        await self.hold()
        self.renew()
        for name, one in before.items():
            if name not in self.members:
                await one.stop(at_once=True)
                await self._runner.erase_one(self._standing.record, one.copy)
        await self.mark_primary()
        for one in self.members.values():
            if one.name not in before:
                one.state, one.reason = CopyState.LOST, "It is to be made."
        live = self._seat.live
        if live is None:
            return
        await self._runner.reconfigure(self._standing.record, live.process, self._standing.capacity)
        if self.is_alone:
            await self._runner.replication.ensure_kept(self._runner.folders(self._standing.record), frozenset())
            return
        entrance = self._runner.entrance(self._standing.record, live.process)
        if entrance is not None:
            self.begin(source_of(entrance))

    # Attending.

    def _do(self, one: Member, work: Coroutine[Any, Any, None]) -> None:
        """Have something done for a copy beside everything else; what fails is noted and decided on anew."""

        async def guarded() -> None:
            try:
                await work
            except errors.ZoryaError as error:
                _log.warning("a copy's step failed", cluster=self._standing.name, copy=one.name, error=str(error))
                self._note_failure(one, error.message)
            except Exception as error:  # noqa: BLE001 - a defect in one copy's step must not end the others
                _log.exception("a copy's step failed unexpectedly", cluster=self._standing.name, copy=one.name)
                self._note_failure(one, f"An internal error: {type(error).__name__}.")
            finally:
                self._work.pop(one.name, None)
                self._stir()

        self._work[one.name] = asyncio.create_task(guarded(), name=f"{self._standing.name}: {one.name}")

    def _note_failure(self, one: Member, why: str) -> None:
        one.ends += 1
        one.ended_at_s = one.failed_at_s = self._clock.monotonic_s()
        self._lose(one, why)

    async def _attend(self) -> None:
        while True:
            self._stirring.clear()
            every_s = LOOK_EVERY_S
            try:
                every_s = await self._round()
                self._answered_s = self._clock.monotonic_s()
            except errors.EngineProblem as error:
                _log.debug("the primary does not say how its copies are", cluster=self._standing.name, error=str(error))
                self._see_whether_it_hangs()
            except errors.ZoryaError as error:
                _log.error("the copies could not be attended to", cluster=self._standing.name, error=str(error))
            next_s = self._clock.monotonic_s() + every_s
            if every_s == math.inf:
                await self._stirring.wait()
                self._answered_s = self._clock.monotonic_s()
            while not self._stirring.is_set() and self._clock.monotonic_s() < next_s:
                self.see_whether_it_is_there()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(every_s, GLANCE_EVERY_S)):
                        await self._stirring.wait()

    def see_whether_it_is_there(self) -> None:
        """Notice that the primary's files are gone, though its processes may work on for a while."""
        record, live = self._standing.record, self._seat.live
        if live is None or self.primary_problem or self.is_alone:
            return
        if not self._runner.has_files(record, record.volume.copy(record.volume.primary)):
            self.primary_problem = "The primary's files are gone."
            self._changed()

    def _see_whether_it_has_room(self, now_s: float) -> None:
        """Notice that the disk of the primary's zone has been full for a while, and another full copy's is not.

        PostgreSQL goes on with a full disk as long as the log needs no room, and has every statement fail that does.
        """
        record, runner = self._standing.record, self._runner
        if runner.free_bytes(record, None) > FULL_BYTES:
            self._full_since_s = None
            return
        self._full_since_s = now_s if self._full_since_s is None else self._full_since_s
        fit = any(
            one.state is CopyState.CURRENT and runner.free_bytes(record, one.copy) > ROOM_BYTES for one in self._fulls
        )
        if fit and now_s - self._full_since_s > FULL_FOR_S and not self.primary_problem:
            self.primary_problem = "The disk of the primary's zone is full, and another copy's is not."
            self._changed()

    def _see_whether_it_hangs(self) -> None:
        """Notice that the primary does not answer since somebody has stopped one of its processes."""
        live = self._seat.live
        if live is None or self.primary_problem or live.group.is_frozen:
            return
        if self._clock.monotonic_s() - max(self._answered_s, self._began_s) < HANGS_S:
            return
        if any(procfs.read_state(pid) == "T" for pid in live.group.pids()):
            self.primary_problem = f"A process of the primary was stopped, and it has not answered for {HANGS_S:g} s."
            self._changed()

    async def _round(self) -> float:
        """Look at all copies once, and have done what is to be done. Answer when to look again, in seconds."""
        record, live = self._standing.record, self._seat.live
        if live is None or live.is_freezing:
            return _QUICK_S
        if live.group.is_frozen:
            # Nothing changes before it thaws, which is told.
            return math.inf
        if self._runner.phase(record, live.process) is not Phase.READY:
            return _QUICK_S
        if self._ready_s is None:
            # The first commits are on the tails, which start quickest; so clients get the processors, not the rest.
            self._ready_s = self._clock.monotonic_s()
            self._have_join([one for one in self._tails if one.process is None])
        await self._keep_log()
        seen = await self._runner.replication.look(self._runner.folders(record))
        now_s = self._clock.monotonic_s()
        self._flushed.append((now_s, seen.flushed))
        for one in self.members.values():
            self._note(one, seen, now_s)
            if one.name not in self._work:
                if self._relation(one) is Relation.UNKNOWN:
                    await self._mend_mark(one)
                self._mend(one, seen, now_s)
            if one.live is not None and not one.live.is_freezing and not one.is_being_looked_at:
                one.look(record.freeze_after_s)
        await self._establish(seen, now_s)
        self._see_whether_it_has_room(now_s)
        self._tell_health(now_s)
        await self._prune(seen, now_s)
        waits = any(one.state is not CopyState.CURRENT for one in self.members.values())
        return _QUICK_S * 5 if waits and now_s - self._began_s < SETTLE_S else LOOK_EVERY_S

    async def _keep_log(self, anew: str = "") -> None:
        """Have the primary keep log for all of them, and for the copy `anew` from now on."""
        names = frozenset(self.members)
        folders = self._runner.folders(self._standing.record)
        async with self._keeping:
            if anew:
                await self._runner.replication.ensure_kept(folders, names, anew={anew})
            elif self._kept != names:
                await self._runner.replication.ensure_kept(folders, names)
            self._kept = names

    def _note(self, one: Member, seen: PrimarySeen, now_s: float) -> None:
        """Keep what the primary says of a copy."""
        one.seen = seen.followers.get(one.name)
        if one.state is CopyState.BUILDING and one.name in self._work:
            return
        if one.seen is None:
            if one.position is not None:
                one.lag_bytes = max(0, seen.flushed - one.position)
                one.lag_s = self._lag_s(one.position, now_s)
            if one.process is not None:
                one.state, one.reason = CopyState.BEHIND, "It is not connected yet."
            elif one.state is not CopyState.LOST:
                self._lose(one, one.reason or "It does not run.")
            return
        one.connected_at_s = now_s
        if one.seen.flushed >= seen.flushed or one.seen.flushed != one.position:
            one.moved_at_s = now_s
        one.position = one.seen.flushed
        one.lag_bytes = max(0, seen.flushed - one.seen.flushed)
        one.lag_s = self._lag_s(one.seen.flushed, now_s)
        if one.seen.is_streaming and one.lag_s <= BEHIND_S:
            one.state, one.reason = CopyState.CURRENT, ""
            one.failed_rebuilds = 0
            if now_s - one.started_at_s > STEADY_S:
                one.ends = 0
        else:
            one.state = CopyState.BEHIND
            one.reason = f"It is {one.lag_bytes} bytes behind." if one.lag_bytes else "It is catching up."

    def _lag_s(self, flushed: int, now_s: float) -> float:
        """Answer for how long the primary has had more on its disk than this."""
        since = now_s
        for at_s, position in reversed(self._flushed):
            if position <= flushed:
                break
            since = at_s
        return now_s - since

    def _relation(self, one: Member) -> Relation:
        """Answer how a copy's log stands to the present one, by its mark: the log itself is not read."""
        volume, mark = self._standing.record.volume, one.mark
        joined = next((epoch for epoch in volume.epochs if mark is not None and epoch.number == mark.epoch), None)
        if joined is None:
            return Relation.UNKNOWN
        # What was the primary may have more than the next epoch began with.
        if joined is not volume.epoch and joined.copy == one.name:
            return Relation.DIVERGED
        return Relation.FOLLOWS

    async def see(self, one: Member) -> Seen:
        """Answer how far the log goes of a copy that gets none; a full one is started for it.

        Raises NotReady when that cannot be told now, EngineProblem, StorageProblem.
        """
        await self._mend_mark(one)
        record, replication, mark = self._standing.record, self._runner.replication, one.mark
        if mark is None or not one.is_there or one.damaged:
            return Seen(copy=one.copy, position=None)
        if one.is_full:
            await one.follow(None)
            if not await one.following():
                raise errors.NotReady(f"Copy {one.name} does not serve.")
            end: LogEnd | None = await replication.received(self._runner.folders(record, one.copy))
        else:
            end = await replication.tail_end(await self._runner.installation(record), self._runner.tail_path(one.copy))
        if end is None:
            return Seen(copy=one.copy, position=None)
        position = history.position_of(record.volume.epochs, mark.epoch, end.position)
        return Seen(copy=one.copy, position=position, begins_at=end.begins)

    async def _mend_mark(self, one: Member) -> None:
        """Correct the mark of a copy that was to begin an epoch, and never did. Raises StorageProblem."""
        record, mark = self._standing.record, one.mark
        if mark is None or not one.is_full:
            return
        begun = self._runner.replication.has_begun(self._runner.folders(record, one.copy))
        joined = history.mark_of(record.volume.epochs, mark.epoch, begun=begun)
        if joined != mark.epoch:
            await self._runner.write_mark(record, one.copy, joined)

    async def _join(self, one: Member) -> None:
        """Have a copy follow. One that was not there when the present epoch began does so only if it has no other log.

        Its mark must not say the new epoch before that is certain; see storage.election.
        """
        assert self._source is not None
        volume, mark = self._standing.record.volume, one.mark
        if mark is not None and mark.epoch == volume.epoch.number:
            await one.follow(self._source)
            return
        seen = await self.see(one)
        relation = history.can_follow(volume.epochs, seen.position)
        if relation is Relation.FOLLOWS or (seen.position is None and not one.is_full):
            await one.follow(self._source)
        elif one.is_full and relation is Relation.DIVERGED:
            await self._rejoin(one, "It has log that the present one does not have.")
        else:
            await self._rebuild(one, "It has log that the present one does not have.")

    def _mend(self, one: Member, seen: PrimarySeen, now_s: float) -> None:
        """Have done what `storage.repair` decides."""
        step = repair.decide(
            CopySeen(
                copy=one.copy,
                folder_there=one.is_there,
                marked=one.mark is not None and self._relation(one) is not Relation.UNKNOWN,
                process=one.seen_process,
                ended_times_in_a_row=one.ends,
                ended_s=now_s - one.ended_at_s,
                streaming=one.seen is not None and one.seen.is_streaming,
                lag_bytes=one.lag_bytes,
                kept=one.name not in seen.given_up,
                relation=self._relation(one),
                damaged=one.damaged,
                rebuilding=one.state is CopyState.BUILDING,
                failed_rebuilds=one.failed_rebuilds,
                since_failure_s=now_s - one.failed_at_s,
                unconnected_s=self._unconnected_s(one, now_s),
            )
        )
        assert self._source is not None
        if step.action is Action.RESTART and one.is_full and not self._serves(seen, now_s):
            return
        if step.action is Action.NONE and one.process is not None and self._hangs(one):
            self._do(one, self._end_hanging(one))
            return
        if step.action is Action.NONE and one.process is not None and one.source != self._source:
            self._do(one, self._join(one))
            return
        action = step.action
        if action is Action.REBUILD and self._may_be_needed(one, seen):
            action = Action.RESTART if one.process is None and now_s - one.ended_at_s > LOOK_EVERY_S else Action.NONE
        match action:
            case Action.RESTART:
                self._do(one, self._join(one))
            case Action.REJOIN:
                self._do(one, self._rejoin(one, step.reason))
            case Action.REBUILD:
                self._do(one, self._rebuild(one, step.reason))
            case Action.NONE:
                pass

    def _hangs(self, one: Member) -> bool:
        """Whether a copy is connected, lacks something, and has not got any of it for long."""
        return one.seen is not None and self._clock.monotonic_s() - one.moved_at_s > STUCK_S

    async def _end_hanging(self, one: Member) -> None:
        _log.warning("a copy hangs", cluster=self._standing.name, copy=one.name)
        await one.stop(at_once=True)
        one.ends += 1
        one.ended_at_s = self._clock.monotonic_s()

    def _unconnected_s(self, one: Member, now_s: float) -> float:
        """Answer how long a copy's engine serves without being connected; one that recovers takes its time."""
        if one.live is None or one.seen is not None or one.source != self._source:
            return 0.0
        if self._runner.phase(self._standing.record, one.live.process, one.copy) is not Phase.FOLLOWING:
            return 0.0
        return now_s - one.connected_at_s

    def _may_be_needed(self, one: Member, seen: PrimarySeen) -> bool:
        """Whether a copy is sound, as far as is known, and there are too few others to do without what it has."""
        is_sound = one.is_there and not one.damaged and self._relation(one) is Relation.FOLLOWS
        volume = self._standing.record.volume
        others = self.current - (one.state is CopyState.CURRENT)
        return is_sound and one.name not in seen.given_up and others < quorum.rule(len(volume.established)).write

    def _serves(self, seen: PrimarySeen, now_s: float) -> bool:
        """Whether commits go on without the full copies, or have had time to: only then are those started."""
        needed = quorum.rule(len(self._standing.record.volume.established)).followers_needed
        is_late = self._ready_s is not None and now_s - self._ready_s > FULLS_WAIT_S
        return not self._tails or len(seen.followers) >= needed or is_late

    async def _rejoin(self, one: Member, reason: str) -> None:
        """Take back what a former primary has too much of, and have it follow; if that fails, it is made anew."""
        assert self._source is not None
        record = self._standing.record
        one.state, one.reason, one.progress = CopyState.BUILDING, reason, None
        try:
            instance = await self._runner.instance(record, copy=one.copy, source=self._source)
            await one.stop(at_once=True)
            await self._runner.replication.rejoin(instance, self._source)
            await one.follow(self._source)
        except errors.ZoryaError as error:
            _log.warning("a copy cannot be taken back", cluster=record.name, copy=one.name, error=str(error))
            await self._rebuild(one, f"It could not be taken back to where it can follow: {error.message}")

    async def _rebuild(self, one: Member, reason: str) -> None:
        """Make a copy anew from the others."""
        assert self._source is not None
        _log.info("copy is made anew", cluster=self._standing.name, copy=one.name, reason=reason)
        one.state, one.reason, one.progress = CopyState.BUILDING, reason, 0.0
        one.position = one.lag_bytes = one.lag_s = None
        # Until it has followed: one that ends at once was made in vain, too.
        one.failed_rebuilds += 1
        try:
            await one.stop(at_once=True)
            self._check_zone(one.copy)
            if one.is_full:
                await self._clone(one)
            else:
                await self._empty_tail(one)
                await self._keep_log(anew=one.name)
            await failpoints.reached("rebuild.made")
            one.ends, one.damaged, one.progress = 0, "", None
            one.failed_at_s = self._clock.monotonic_s()
            await one.follow(self._source)
            if not one.is_full:
                await self._fill_tail(one)
        except errors.ZoryaError as error:
            if one.failed_rebuilds == 1:
                await self._standing.tell(
                    EventKind.COPY_LOST, f"Copy {one.name}: {reason} It cannot be made anew: {error}"
                )
            raise
        finally:
            one.progress = None
            if one.state is CopyState.BUILDING:
                one.state = CopyState.BEHIND
        await self._standing.tell(EventKind.COPY_REBUILT, f"Copy {one.name}: {reason}")

    def _check_zone(self, copy: Copy) -> None:
        """Raise StorageProblem where a folder that the operator has chosen is not there: its disk may be missing."""
        if copy.folder.is_absolute() and not copy.folder.parent.is_dir():
            raise errors.StorageProblem(
                f"The folder of zone {copy.zone}, {copy.folder.parent}, is not there.",
                hint="Mount its disk, or make the folder.",
                client_message="A zone's folder is not there.",
            )

    async def _clone(self, one: Member) -> None:
        assert self._source is not None
        record = self._standing.record
        folders = self._runner.folders(record, one.copy)
        with files.disk_errors("Making a copy's folders", folders.root):
            self._runner.ensure_passable(folders.root)

        def note(part: float) -> None:
            one.progress = part

        async with self._rebuilding:
            instance = await self._runner.instance(record, copy=one.copy, source=self._source)
            max_kib_s = self._around.rebuild_max_kib_s
            await self._runner.replication.clone(instance, self._source, max_kib_s=max_kib_s, progress=note)

    async def _empty_tail(self, one: Member) -> None:
        tail = self._runner.tail_path(one.copy)
        await asyncio.to_thread(files.remove_tree, tail)
        with files.disk_errors("Making a copy's folder", tail):
            self._runner.ensure_passable(tail.parent)
            files.ensure_folder(tail, mode=0o700, owner=self._runner.account)

    async def _fill_tail(self, one: Member) -> None:
        """Give a new tail the log of before it began, as far as others have it."""
        record, replication = self._standing.record, self._runner.replication
        tails = [
            self._runner.tail_path(other.copy)
            for other in self.members.values()
            if not other.is_full and other is not one
        ]
        logs = [replication.log_folder(self._runner.folders(record))]
        upto = self._flushed[-1][1] if self._flushed else 0
        await replication.mend_tail(self._runner.tail_path(one.copy), [*tails, *logs], upto=upto)

    async def _establish(self, seen: PrimarySeen, now_s: float) -> None:
        """Have all copies count for commits, once all of them are there for the first time.

        Between the old rule and the new one both hold: a commit is on all copies. So whichever of them is recorded when
        the primary is lost, those that are read then have every commit.
        """
        record, live = self._standing.record, self._seat.live
        if record.volume.is_established or live is None or self.current < len(record.volume.copies):
            self._joint = None
            return
        capacity = self._standing.capacity
        if self._joint is None:
            await self._runner.reconfigure(record, live.process, capacity, needed=len(record.volume.others))
            self._joint = (now_s, None)
            return
        since_s, position = self._joint
        if now_s - since_s < JOINT_S:
            return
        if position is None:
            # The engine has taken it by now: what comes after this waits for all, and what came before is looked for.
            self._joint = (since_s, seen.flushed)
            return
        if any(one.seen is None or one.seen.flushed < position for one in self.members.values()):
            return
        self._joint = None
        rule = quorum.rule(len(record.volume.copies))
        names = tuple(one.name for one in record.volume.copies)
        await self._standing.edit(
            lambda before: replace(before, volume=replace(before.volume, established=names)),
            EventKind.VOLUME_WHOLE,
            lambda _before, _after: f"All {rule.copies} copies are made; a commit is on {rule.write} from now on.",
        )
        self._told = Health.WHOLE
        await self._runner.reconfigure(self._standing.record, live.process, capacity)
        for one in self._fulls:
            if one.live is not None:
                process = one.live.process
                await self._runner.write_following(self._standing.record, one.copy, process, self._source, None)

    def _tell_health(self, now_s: float) -> None:
        """Have it told when the volume's health is another for a while."""
        health, reason = self.health
        if health is Health.BUILDING:
            return
        if health is self._told:
            self._unwell_since_s = None
            return
        self._unwell_since_s = now_s if self._unwell_since_s is None else self._unwell_since_s
        at_once = health is Health.WHOLE or (health is Health.WAITING and now_s - self._began_s > SETTLE_S)
        if not at_once and now_s - self._unwell_since_s < SETTLE_S:
            return
        self._unwell_since_s, self._told = None, health
        kind = {
            Health.WHOLE: EventKind.VOLUME_WHOLE,
            Health.DEGRADED: EventKind.VOLUME_DEGRADED,
        }.get(health, EventKind.COMMITS_WAIT)
        self._standing.tell_later(kind, reason)
        self._changed()

    async def _prune(self, seen: PrimarySeen, now_s: float) -> None:
        """Remove from tails what nothing needs any more, now and then."""
        if now_s - self._pruned_s < PRUNE_EVERY_S:
            return
        self._pruned_s = now_s
        record, replication = self._standing.record, self._runner.replication
        needs = [replication.needs_from(self._runner.folders(record))]
        for one in self._fulls:
            with contextlib.suppress(errors.ZoryaError):
                needs.append(replication.needs_from(self._runner.folders(record, one.copy)))
        before = retention.keep_from(needs, flushed=seen.flushed, keep_bytes=self._around.log_keep_bytes)
        for one in self.members.values():
            if not one.is_full and one.is_there:
                tail = self._runner.tail_path(one.copy)
                await replication.prune_tail(tail, before=before, older_than_s=self._around.log_retention_s)

    # Reading.

    def reader_entrance(self, max_lag_s: float, turn: int) -> Entrance | None:
        """Answer how to get into one of the copies that serve those who only read, each in its turn; None is none."""
        record = self._standing.record
        fit = [
            one
            for one in self._fulls
            if one.live is not None
            and not one.live.is_freezing
            and one.state is CopyState.CURRENT
            and (one.lag_s or 0.0) <= max_lag_s
        ]
        for number in range(len(fit)):
            one = fit[(turn + number) % len(fit)]
            assert one.live is not None
            if self._runner.phase(record, one.live.process, one.copy) is Phase.FOLLOWING:
                return self._runner.entrance(record, one.live.process, one.copy)
        return None

    # Its sleep.

    async def try_freeze(self, stirred: Callable[[], None]) -> str:
        """Freeze all of them, the primary being frozen. Answer why not, as a sentence; then all of them run."""
        record = self._standing.record
        try:
            for one in self._fulls:
                if one.live is not None:
                    entrance = self._runner.entrance(record, one.live.process, one.copy)
                    own = {entrance.address.port} if entrance is not None else set()
                    ports = {*own, *({record.reader_port} if record.reader_port else ()), *self._around.shared_ports}
                    why = await one.live.try_freeze(ports, stirred, hindrance="")
                    if why:
                        self.thaw()
                        return why
            for one in self.members.values():
                await one.freeze_receiver()
        except errors.FreezeFailed as error:
            self.thaw()
            return error.message
        return ""

    def thaw(self) -> None:
        """Let all of them go on. Never waits; may be repeated."""
        for one in self.members.values():
            one.thaw()
        self._stir()

    def quiet_since_s(self) -> float | None:
        """Answer since when all engines that follow have been at rest; 0 if there are none, None if one is not."""
        since = [one.quiet.since_s if one.quiet is not None else None for one in self.lives]
        return None if None in since else max((at for at in since if at is not None), default=0.0)

    def stirred(self) -> str:
        """Answer why a frozen copy is wanted, as a sentence; empty when none is."""
        return next((live.stirred for live in self.lives if live.stirred), "")

    def has_process(self, pid: int) -> bool:
        """Whether this is a process of one of the engines that follow."""
        return any(pid in live.group.pids() for live in self.lives)


async def _until(done: asyncio.Future[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await done
