"""A failover: another full copy becomes the primary, with every commit that a client has heard of.

The order is what makes it safe; `storage.election` has the proof. Each step that matters is durable before the next, so
that a server that dies in the middle leaves what the next one goes on from:

1. *Fence*: the old primary's processes are ended, and no copy that can be reached takes log of its epoch any more.
2. *Read* how far the log of each goes, and *choose* which to go on from, and with which full copy.
3. *Record* the new epoch, with the copy that is to begin it.
4. *Collect*: that copy gets all that the chosen log has.
5. *Promote* it: its mark first, then the engine.
6. *Record* where the epoch begins. Only then does any other copy join it.
"""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace

from zorya.compute import leftovers
from zorya.control.copies import Copies
from zorya.control.events import EventKind
from zorya.control.live import LiveEngine
from zorya.control.member import Member
from zorya.control.seat import Seat
from zorya.control.standing import Standing
from zorya.control.surroundings import Surroundings
from zorya.core import errors, failpoints, logging
from zorya.core.volume import Volume, format_position
from zorya.storage import election, history, quorum, repair
from zorya.storage.election import Choice, Refusal, Seen
from zorya.storage.history import Relation
from zorya.storage.repair import Way

_log = logging.get("zorya.control")

COLLECT_WITHIN_S = 60.0
"""How long the chosen copy may take to replay what the others have more than it."""

ANSWER_WITHIN_S = 5.0
"""How long a copy may take to say how far its log goes, before it counts as out of reach."""

START_WITHIN_S = 60.0
"""How long one may take for it whose engine has to be started, and to replay what it has."""

_POLL_S = 0.005


class Failover:
    """Carries it out for one cluster."""

    def __init__(self, surroundings: Surroundings, *, standing: Standing, seat: Seat, copies: Copies) -> None:
        """Nothing is under way."""
        self.reason = ""
        """Why another copy has to become the primary, as a sentence; empty while none has to."""
        self.accepts_loss = False
        """Whether to go on from the furthest log there is, though it may lack commits."""
        self.is_refused = False
        """Whether too few copies were left, the last time, to know what was committed."""
        self._prefer = ""
        self._runner = surroundings.runner
        self._clock = surroundings.clock
        self._standing = standing
        self._seat = seat
        self._copies = copies

    @property
    def is_possible(self) -> bool:
        """Whether there is another full copy that counts."""
        return any(one.is_full for one in self._counted)

    @property
    def _counted(self) -> list[Member]:
        """The copies by whose number the rule goes that is in force, but for the primary."""
        volume = self._standing.record.volume
        return [one for one in self._copies.members.values() if one.name in volume.established]

    def may_help(self) -> bool:
        """Whether there is another full copy, and none has been chosen for this reason already."""
        return self.is_possible and not self.reason

    def consider(self, why: str) -> None:
        """Choose, the primary having ended by itself, whether it is started in place or another copy takes over."""
        record, replication = self._standing.record, self._runner.replication
        try:
            needs_from = replication.needs_from(self._runner.folders(record))
        except errors.ZoryaError:
            # Its files are gone, which its start will show too.
            self.reason = f"{why} Its data is not there."
            return
        to_replay = max(0, self._copies.flushed - needs_from)
        way, reason = repair.way_back(log_to_replay_bytes=to_replay, candidates_current=self._copies.current_fulls)
        if way is Way.PROMOTE:
            self.reason = reason

    @property
    def is_unfinished(self) -> bool:
        """Whether one was begun, and it was not recorded that the copy has become the primary."""
        return self._standing.record.volume.epoch.timeline is None

    async def finish(self) -> None:
        """Record an earlier failover as complete, if its copy has become the primary; else have it done anew.

        As long as its copy is out of reach, it may have become the primary: the epoch stays until another is chosen.

        Raises StorageProblem, HomeUnusable, DataDamaged.
        """
        record, runner = self._standing.record, self._runner
        copy = record.volume.copy(record.volume.primary)
        if runner.replication.has_begun(runner.folders(record)):
            timeline, begins_at = runner.replication.timeline(runner.folders(record))
            await self._record(history.began(record.volume, timeline, begins_at), "It was found to be complete.")
            member = self._copies.members.get(copy.name)
            if member is not None and member.live is not None:
                member.give_up_engine().release()
            self._copies.renew()
            return
        self._prefer = copy.name
        self.reason = self.reason or "An earlier failover was not completed."
        if runner.has_files(record, copy):
            # It may have joined the epoch, but there was no log of it yet.
            await runner.write_mark(record, copy, record.volume.epochs[-2].number)
            await self._record(history.abandon(record.volume), None)
            self._copies.renew()

    async def run(self) -> LiveEngine:
        """Make another copy the primary, and answer its engine. Raises StartFailed, StorageProblem, HomeUnusable."""
        began_s = self._clock.monotonic_s()
        reason = self.reason
        _log.warning("failover", cluster=self._standing.name, reason=reason)
        await self._standing.tell(EventKind.FAILOVER_BEGUN, reason)
        try:
            await self._fence()
            await failpoints.reached("failover.fenced")
            candidates = self._candidates()
            seen = await asyncio.gather(*(self._see(one) for one in candidates))
            choice = self._choose(seen)
            await self._begin(choice)
            await failpoints.reached("failover.recorded")
            chosen = next(one for one in candidates if one.name == choice.candidate)
            await self._collect(chosen, choice, [*zip(candidates, seen, strict=True)])
            await failpoints.reached("failover.collected")
            await self._promote(chosen)
            await failpoints.reached("failover.promoted")
        except (errors.ZoryaError, OSError) as error:
            await self._standing.tell(EventKind.FAILOVER_FAILED, str(error))
            raise
        record = self._standing.record
        timeline, begins_at = self._runner.replication.timeline(self._runner.folders(record))
        took_s = self._clock.monotonic_s() - began_s
        await self._record(
            history.began(record.volume, timeline, begins_at),
            f"{choice.reason} Copy {choice.candidate} is the primary, after {took_s:.1f} s.",
        )
        self.reason, self._prefer, self.accepts_loss = "", "", False
        await failpoints.reached("failover.done")
        process = chosen.give_up_engine()
        self._copies.renew()
        return self._runner.alive(record, process)

    def _candidates(self) -> list[Member]:
        """Answer the copies that are asked how far they are.

        Not the primary that is fenced, nor one that was chosen before and is out of reach.
        """
        volume = self._standing.record.volume
        fenced = {volume.primary, *({volume.epochs[-2].copy} if self.is_unfinished else ())}
        members = self._copies.members.values() if self.accepts_loss else self._counted
        return [one for one in members if one.name not in fenced]

    async def _fence(self) -> None:
        """End the old primary's processes, wherever they are, and have nobody take its log any more."""
        await self._copies.hold()
        record, live = self._standing.record, self._seat.live
        if live is not None:
            await self._runner.kill(live)
            await self._seat.clear()
        volume = record.volume
        for name in {volume.primary, *({volume.epochs[-2].copy} if self.is_unfinished else ())}:
            await leftovers.kill(self._runner.folders(record, volume.copy(name)).data)
        # The full copies are told to follow nobody as they are asked how far they are.
        await asyncio.gather(*(self._end_receiver(one) for one in self._copies.members.values()))

    async def _end_receiver(self, one: Member) -> None:
        one.thaw()
        if not one.is_full:
            await one.stop(at_once=True)

    async def _see(self, one: Member) -> Seen:
        """Answer how far a copy's log goes; a copy of which that cannot be told is out of reach."""
        try:
            has_to_start = one.is_full and one.live is None
            async with asyncio.timeout(START_WITHIN_S if has_to_start else ANSWER_WITHIN_S):
                return await self._copies.see(one)
        except (errors.ZoryaError, OSError, TimeoutError) as error:
            _log.warning("copy out of reach", cluster=self._standing.name, copy=one.name, error=str(error))
            # It must not take log of the old epoch later, and count for what it says then.
            await one.stop(at_once=True)
            return Seen(copy=one.copy, position=None)

    def _choose(self, seen: Sequence[Seen]) -> Choice:
        volume = self._standing.record.volume
        for one in seen:
            where = format_position(one.position.position) if one.position else "out of reach"
            _log.info("copy seen", cluster=self._standing.name, copy=one.copy.name, position=where)
        begun = [epoch for epoch in volume.epochs if epoch.timeline is not None]
        if self.accepts_loss:
            choice = election.after_loss(seen, epochs=begun)
        else:
            choice = election.choose(quorum.rule(len(volume.established)), seen, epochs=begun, prefer=self._prefer)
        self.is_refused = isinstance(choice, Refusal)
        if isinstance(choice, Refusal):
            raise errors.StartFailed(choice.reason, hint=choice.hint, client_message="too few copies of it are left")
        return choice

    async def _begin(self, choice: Choice) -> None:
        volume = self._standing.record.volume
        if self.is_unfinished:
            volume = history.abandon(volume)
        await self._record(history.begin(volume, choice.candidate), None)

    async def _record(self, volume: Volume, told: str | None) -> None:
        await self._standing.edit(
            lambda before: replace(before, volume=volume),
            EventKind.FAILED_OVER if told is not None else None,
            lambda _before, _after: told or "Another copy is to become the primary.",
        )

    async def _collect(self, chosen: Member, choice: Choice, seen: Sequence[tuple[Member, Seen]]) -> None:
        """Give the chosen copy all of the log that it is to go on from, and wait until it has replayed it."""
        record, runner = self._standing.record, self._runner
        assert chosen.live is not None
        folders = runner.folders(record, chosen.copy)
        wanted = choice.position.position
        # Those who came to read must not find themselves able to write. Before it collects: the programs that fetch log
        # for it then would pass for sessions.
        await chosen.live.look(None)
        await chosen.live.end_sessions()
        # What it gets is of the epoch before at the latest; if this is interrupted, its log must not pass for diverged.
        await runner.write_mark(record, chosen.copy, record.volume.epochs[-2].number)
        if choice.source != chosen.name:
            # A tail: of the full copies the chosen one goes furthest.
            collected = runner.collected_path(chosen.copy)
            begun = record.volume.epochs[:-1]
            usable = [
                one
                for one, found in seen
                if not one.is_full and history.can_follow(begun, found.position) is Relation.FOLLOWS
            ]
            # That of the furthest over the others'.
            for one in sorted(usable, key=lambda one: one.name == choice.source):
                await runner.replication.offer(runner.tail_path(one.copy), collected)
            await runner.write_following(record, chosen.copy, chosen.live.process, None, collected)
        deadline = self._clock.monotonic_s() + COLLECT_WITHIN_S
        while await runner.replication.replayed(folders) < wanted:
            if self._clock.monotonic_s() > deadline or chosen.live is None:
                raise errors.StartFailed(
                    f"Copy {chosen.name} did not come to {format_position(wanted)} within {COLLECT_WITHIN_S:g} s.",
                    hint=f"Its log: {folders.log}",
                )
            await asyncio.sleep(_POLL_S)

    async def _promote(self, chosen: Member) -> None:
        record, runner = self._standing.record, self._runner
        assert chosen.live is not None
        await runner.write_mark(record, chosen.copy)
        await runner.replication.promote(runner.folders(record, chosen.copy))
        await asyncio.to_thread(shutil.rmtree, runner.collected_path(chosen.copy), ignore_errors=True)
