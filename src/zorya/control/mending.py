"""What is done for copies that do not follow as they should: they join, are taken back, or are made anew.

`storage.repair` decides which; here it is carried out, beside the owner's own steps.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from zorya.control.crew import Crew
from zorya.control.events import EventKind
from zorya.control.member import Member
from zorya.core import errors, failpoints, files, logging
from zorya.core.volume import Copy, CopyState
from zorya.engines.base import LogEnd, Phase, PrimarySeen
from zorya.storage import history, quorum, repair
from zorya.storage.election import Seen
from zorya.storage.history import Relation
from zorya.storage.repair import Action, CopySeen

LOOK_EVERY_S = 1.0
"""How often the primary is asked how far its copies are."""

FULLS_WAIT_S = 0.5
"""How long the full copies that follow wait, at the most, for the tails to be there."""

_log = logging.get("zorya.control")


class Mending(Crew):
    """The copies, and how they are made and mended."""

    # What they have.

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

    # How they come to follow.

    def _have_join(self, members: Sequence[Member]) -> None:
        """Have those follow of which nothing speaks against it; the others are decided on when the primary is asked."""
        for one in members:
            if one.is_there and self._relation(one) is Relation.FOLLOWS and one.name not in self._work:
                self._do(one, self._join(one))

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
            if not one.is_full and mark is not None:
                await self._cut(one, seen.position.epoch if seen.position is not None else mark.epoch)
            await one.follow(self._source)
        elif one.is_full and relation is Relation.DIVERGED:
            await self._rejoin(one, "It has log that the present one does not have.")
        else:
            await self._rebuild(one, "It has log that the present one does not have.")

    async def _cut(self, one: Member, epoch: int) -> None:
        """Take from a tail whose last record is of an earlier epoch what it has beyond the beginning of the next."""
        for later in self._standing.record.volume.epochs:
            if later.number > epoch and later.timeline is not None and later.begins_at is not None:
                tail = self._runner.tail_path(one.copy)
                await one.stop(at_once=True)
                await self._runner.replication.cut_tail(tail, timeline=later.timeline, position=later.begins_at)
                return

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

    def _serves(self, seen: PrimarySeen, now_s: float) -> bool:
        """Whether commits go on without the full copies, or have had time to: only then are those started."""
        needed = quorum.rule(len(self._standing.record.volume.established)).followers_needed
        is_late = self._ready_s is not None and now_s - self._ready_s > FULLS_WAIT_S
        return not self._tails or len(seen.followers) >= needed or is_late

    def _may_be_needed(self, one: Member, seen: PrimarySeen) -> bool:
        """Whether a copy is sound, as far as is known, and there are too few others to do without what it has."""
        is_sound = one.is_there and not one.damaged and self._relation(one) is Relation.FOLLOWS
        volume = self._standing.record.volume
        others = self.current - (one.state is CopyState.CURRENT)
        if one.ends >= 2 * repair.ENDS_BEFORE_REBUILD and all(
            other.state is not CopyState.BUILDING for other in self.members.values()
        ):
            # It does not come back by itself, and commits may wait for it.
            return False
        return is_sound and one.name not in seen.given_up and others < quorum.rule(len(volume.established)).write

    def _unconnected_s(self, one: Member, now_s: float) -> float:
        """Answer how long a copy's engine serves without being connected; one that recovers takes its time."""
        if one.live is None or one.seen is not None or one.source != self._source:
            return 0.0
        if self._runner.phase(self._standing.record, one.live.process, one.copy) is not Phase.FOLLOWING:
            return 0.0
        return now_s - one.connected_at_s

    async def _end_hanging(self, one: Member) -> None:
        _log.warning("a copy hangs", cluster=self._standing.name, copy=one.name)
        await one.stop(at_once=True)
        one.ends += 1
        one.ended_at_s = self._clock.monotonic_s()

    # How they are made.

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

    async def make_anew_at_rest(self, name: str) -> None:
        """Make a copy anew from the primary's files, nothing of the cluster running. Raises StorageProblem."""
        one = self.members[name]
        await one.stop(at_once=True)
        if one.is_full:
            await self._runner.erase_data(self._runner.folders(self._standing.record, one.copy))
        await self._build(one)
        one.damaged = ""

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


async def _until(done: asyncio.Future[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await done
