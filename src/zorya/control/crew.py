"""The other copies of one cluster's volume, as they are known: their processes, states, sleep, and who reads from them.

`copies.Copies` attends to them, `mending.Mending` mends them.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Set
from dataclasses import replace
from datetime import datetime
from typing import Any

from zorya.control import marks
from zorya.control.lifecycle import Process
from zorya.control.live import LiveEngine
from zorya.control.member import Member
from zorya.control.seat import Seat
from zorya.control.standing import Standing
from zorya.control.surroundings import Surroundings
from zorya.control.view import CopyView
from zorya.core import errors, files, logging
from zorya.core.model import Entrance
from zorya.core.volume import Copy, CopyState
from zorya.engines.base import LogEnd, Phase
from zorya.engines.following import Source
from zorya.storage import quorum, repair
from zorya.storage.history import Relation
from zorya.storage.quorum import Health

STUCK_S = 30.0
"""How long a copy may be connected and get nothing of what it lacks before it is started anew."""

_log = logging.get("zorya.control")


class Crew:
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
        mark = marks.read(self._runner.mark_path(volume.copy(volume.primary)))
        self.primary_verified_at = mark.verified_at if mark is not None else None

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

    @property
    def is_begun(self) -> bool:
        """Whether they follow a primary, or are to."""
        return self._source is not None

    # How they are.

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

    def _hangs(self, one: Member) -> bool:
        """Whether a copy is connected, lacks something, and has not got any of it for long."""
        return one.seen is not None and self._clock.monotonic_s() - one.moved_at_s > STUCK_S

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

    def _lose(self, one: Member, why: str) -> None:
        one.state, one.reason, one.position, one.lag_bytes = CopyState.LOST, why, None, None

    # What is done for each of them.

    async def hold(self) -> None:
        """Attend to them no more; what is being made anew is given up. Their processes go on. May be repeated."""
        tasks = [task for task in (self._attending, *self._work.values()) if task is not None]
        self._attending = None
        self._work.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._runner.let_replication_go(self._standing.record)

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

    async def mark_primary(self) -> None:
        """Have the primary's mark say the present epoch. Raises StorageProblem."""
        record = self._standing.record
        await self._runner.write_mark(record, record.volume.copy(record.volume.primary))

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

    async def renew_tls(self) -> None:
        """Give the engines that follow the present certificate. Raises DiskFull, StorageProblem, EngineMissing."""
        for one in self._fulls:
            if one.live is not None:
                source = self._source
                await self._runner.write_following(self._standing.record, one.copy, one.live.process, source, None)

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

    def has_process(self, pid: int) -> bool:
        """Whether this is a process of one of the engines that follow."""
        return any(pid in live.group.pids() for live in self.lives)

    # Their sleep.

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
