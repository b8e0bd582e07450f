"""The other copies of one cluster's volume while its engine runs: started with the primary, watched, mended, stopped.

They are attended to beside the owner's own steps, until the owner has them held: before a stop, and before another copy
becomes the primary (`failover`).
"""

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import replace

from zorya.compute import procfs
from zorya.control import marks
from zorya.control.events import EventKind
from zorya.control.member import Member
from zorya.control.mending import LOOK_EVERY_S, Mending
from zorya.core import errors, failpoints, logging
from zorya.core.model import Entrance
from zorya.core.volume import CopyState, format_position
from zorya.engines.base import LogEnd, Phase, PrimarySeen
from zorya.engines.following import Source
from zorya.storage import quorum, retention
from zorya.storage.history import Relation
from zorya.storage.quorum import Health

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

REST_WITHIN_S = 10.0
"""How long a full copy may take to replay the last of the log, once the primary has stopped."""

JOINT_S = 1.0
"""How long the engine has to take a new rule for commits, before it is relied on."""

PRUNE_EVERY_S = 60.0

_QUICK_S = 0.01

_log = logging.get("zorya.control")


class Copies(Mending):
    """The copies of one cluster's volume but for the primary. `crew` and `mending` have the rest of it."""

    # Their beginning and end.

    def why_not_in_place(self) -> str:
        """Answer why the primary is not to be started as it is, as a sentence; empty when nothing speaks against it."""
        if self.is_alone:
            return ""
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

    def begin(self, source: Source) -> None:
        """Start those that do not run, as soon as the primary at `source` can feed them, and attend to all of them."""
        if self.is_alone:
            return
        self.rest = None
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

    async def adopt(self) -> None:
        """Hold the engines that an earlier server has started, and end its receivers; `begin` has others started.

        Once, when this server has found the primary running. Raises StopFailed.
        """
        for one in self._fulls:
            one.adopt()
        await asyncio.gather(*(one.stop(at_once=True) for one in self.members.values() if not one.is_full))

    def go_on(self) -> None:
        """Attend to them again after `hold`, the primary being where it was."""
        if self._source is not None and self._attending is None and not self.is_alone:
            self._attending = asyncio.create_task(self._attend(), name=f"{self._standing.name}: copies")

    async def drop_hanging(self) -> None:
        """End those that are connected and do not move: the primary's stop would wait for them. Raises StopFailed."""
        now_s = self._clock.monotonic_s()
        for one in self.members.values():
            if one.seen is not None and now_s - one.moved_at_s > BEHIND_S and one.lag_bytes:
                await one.stop(at_once=True)

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
        # Written with the next change.
        self._standing.note_rest(self.rest.position if self.rest is not None else None)
        await self._tell_rest()

    async def _replay(self, one: Member, position: int) -> None:
        record = self._standing.record
        deadline = self._clock.monotonic_s() + REST_WITHIN_S
        while one.live is not None and self._clock.monotonic_s() < deadline:
            with contextlib.suppress(errors.EngineProblem):
                if await self._runner.replication.replayed(self._runner.folders(record, one.copy)) >= position:
                    return
            await asyncio.sleep(_QUICK_S)

    async def compare(self) -> None:
        """See, while nothing runs, which copies are where the primary was stopped."""
        if not self.is_alone:
            self.rest = await asyncio.to_thread(self._compare)

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

    async def build(self) -> None:
        """Make all of them from the primary's data, which no engine has run on yet. Idempotent.

        Raises DiskFull, StorageProblem, EngineMissing.
        """
        if self.is_alone:
            return
        await self.mark_primary()
        await asyncio.gather(*(self._build(one) for one in self.members.values()))
        await self.compare()

    # Attending.

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
            except Exception:  # noqa: BLE001 - a defect here must not leave the copies to themselves
                _log.exception("the copies could not be attended to", cluster=self._standing.name)
            next_s = self._clock.monotonic_s() + every_s
            if every_s == math.inf:
                await self._stirring.wait()
                self._answered_s = self._clock.monotonic_s()
            while not self._stirring.is_set() and self._clock.monotonic_s() < next_s:
                self.see_whether_it_is_there()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(every_s, GLANCE_EVERY_S)):
                        await self._stirring.wait()

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

    # The primary.

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

    # How many count.

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
