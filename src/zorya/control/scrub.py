"""The verification of a cluster's volume: checksums of data and log, and whether the copies agree.

A stopped volume is looked at whole, and what is damaged is made anew from what is not, unless it is the primary's:
then another copy becomes the primary at the next start. Of one that runs, the full copies that follow are looked at one
after the other, each stopped for it; the primary serves, and is looked at when it is stopped.
"""

import asyncio
from collections.abc import Sequence, Set

from zorya.control import marks
from zorya.control.copies import Copies
from zorya.control.events import EventKind
from zorya.control.failover import Failover
from zorya.control.member import Member
from zorya.control.seat import Seat
from zorya.control.standing import Standing
from zorya.control.surroundings import Surroundings
from zorya.control.view import VerifyView
from zorya.core import errors, files, logging
from zorya.core.model import Compute
from zorya.core.volume import Copy, CopyKind, CopyState, Volume
from zorya.storage import quorum

_log = logging.get("zorya.control")


UNSURE_BYTES = 16 * 1024**2
"""So far before the end of its log, at the most, damage to a copy that runs is not told from a record half received."""


BACK_WITHIN_S = 120.0
"""How long a copy that was looked at may take to be back before the others are left for the next time."""

_POLL_S = 0.05


class Scrub:
    """Verifies one cluster's volume, one time after the other."""

    def __init__(
        self, surroundings: Surroundings, *, standing: Standing, seat: Seat, copies: Copies, failover: Failover
    ) -> None:
        """None is under way."""
        self._runner = surroundings.runner
        self._clock = surroundings.clock
        self._max_kib_s = surroundings.rebuild_max_kib_s
        self._standing = standing
        self._seat = seat
        self._copies = copies
        self._failover = failover
        self._working: asyncio.Task[VerifyView] | None = None

    async def verify(self) -> VerifyView:
        """See facade.Clusters.verify. Raises NotReady when the cluster starts meanwhile, or changes its state."""
        if self._working is None or self._working.done():
            compute = self._standing.record.compute
            if compute not in {Compute.STOPPED, Compute.FAILED, Compute.RUNNING}:
                raise errors.NotReady(f"Cluster {self._standing.name} is {compute}.", hint="Try again in a moment.")
            work = self._at_rest() if compute is not Compute.RUNNING else self._while_running()
            self._working = asyncio.create_task(work, name=f"{self._standing.name}: verify")
        try:
            return await asyncio.shield(self._working)
        except asyncio.CancelledError:
            if self._working.cancelled():
                raise errors.NotReady(
                    f"Cluster {self._standing.name} was wanted, so its verification was given up.",
                    hint="Try again when it is at rest.",
                ) from None
            raise

    @property
    def is_under_way(self) -> bool:
        """Whether one is."""
        return self._working is not None and not self._working.done()

    async def give_way(self) -> None:
        """Give up what is under way: the cluster is to start, stop or go. May be repeated."""
        working, self._working = self._working, None
        if working is not None and not working.done():
            working.cancel()
            await asyncio.wait({working})

    async def _at_rest(self) -> VerifyView:
        began_s = self._clock.monotonic_s()
        record = self._standing.record
        await self._copies.compare()
        end = self._copies.rest.position if self._copies.rest is not None else None
        damaged = {copy.name: await self._look_at(copy, end) for copy in record.volume.copies}
        for member in self._copies.members.values():
            if self._copies.rest is not None and member.reason and not damaged[member.name]:
                damaged[member.name] = [member.reason]
        bad = {name: found for name, found in damaged.items() if found}
        for name, found in bad.items():
            await self._tell_damage(name, found)
        repaired = await self._repair_at_rest(record.volume, set(bad))
        await self._copies.compare()
        return await self._report(len(damaged), bad, repaired, self._clock.monotonic_s() - began_s)

    async def _while_running(self) -> VerifyView:
        began_s = self._clock.monotonic_s()
        bad = {}
        looked_at = 0
        for member in list(self._copies.members.values()):
            looked_at += 1
            # What it has last may end within a record.
            flushed = max(0, member.seen.flushed - UNSURE_BYTES) if member.seen is not None else None
            async with self._copies.put_aside(member):
                found = await self._look_at(member.copy, flushed)
                if found:
                    bad[member.name] = found
                    await self._tell_damage(member.name, found)
                    await self._distrust(member.copy)
                    member.damaged = " ".join(found)
            # Commits are not to wait for a copy that is looked at: one at a time, and the next when this one is back.
            if not await self._is_back(member):
                break
        return await self._report(looked_at, bad, list(bad), self._clock.monotonic_s() - began_s)

    async def _is_back(self, member: Member) -> bool:
        """Wait until a copy has everything again; answer whether it has within BACK_WITHIN_S."""
        deadline = self._clock.monotonic_s() + BACK_WITHIN_S
        await asyncio.sleep(_POLL_S)
        while member.state is not CopyState.CURRENT or member.seen is None:
            if self._clock.monotonic_s() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def _look_at(self, copy: Copy, end: int | None) -> Sequence[str]:
        """Answer what is damaged in a copy on which nothing runs; what is right is marked as verified.

        A tail has to go to the position `end` at least, where that is known.
        """
        record, replication = self._standing.record, self._runner.replication
        if not self._runner.has_files(record, copy):
            return [f"Copy {copy.name} is not there."]
        installation = await self._runner.installation(record)
        if copy.kind is CopyKind.FULL:
            instance = await self._runner.instance(record, copy=copy)
            try:
                begin = replication.needs_from(instance.folders)
            except errors.DataDamaged as error:
                return [error.message]
            found = [
                *await replication.verify_data(instance, max_kib_s=self._max_kib_s),
                *await replication.verify_log(
                    installation, replication.log_folder(instance.folders), begin=begin, end=end
                ),
            ]
        else:
            tail = self._runner.tail_path(copy)
            found = list(await replication.verify_log(installation, tail, begin=0, end=end))
        # The data of one that was not stopped cleanly cannot be checked.
        if not found and (
            copy.kind is CopyKind.TAIL or replication.is_stopped_cleanly(self._runner.folders(record, copy))
        ):
            await self._copies.note_verified(copy, self._clock.now())
        return found

    async def _tell_damage(self, name: str, found: Sequence[str]) -> None:
        told = f"Copy {name}: {' '.join(found)}"
        _log.warning("damage found", cluster=self._standing.name, copy=name, found=told)
        await self._standing.tell(EventKind.DAMAGE_FOUND, told)

    async def _distrust(self, copy: Copy) -> None:
        """Have a copy not gone on from. Raises StorageProblem."""
        path = self._runner.mark_path(copy)
        with files.disk_errors("Removing a copy's mark", path):
            await asyncio.to_thread(marks.distrust, path)

    async def _repair_at_rest(self, volume: Volume, bad: Set[str]) -> list[str]:
        """Make what is damaged anew from what is not; answer which copies that is done for, or will be.

        Damage to the primary leaves the others to go on from, as long as enough of them are good to know all that was
        committed. Where too few are, nothing is changed: what there is may be all that there is.
        """
        if volume.primary in bad:
            good = len(volume.copies) - len(bad)
            others = any(one.is_full and one.name not in bad for one in self._copies.members.values())
            if good < quorum.rule(len(volume.copies)).read or not others:
                return []
            await self._distrust(volume.copy(volume.primary))
            self._failover.reason = "The primary's data is damaged."
            for name in bad - {volume.primary}:
                await self._distrust(volume.copy(name))
            # They are made anew once the next primary serves.
            return sorted(bad)
        repaired = []
        for name in sorted(bad):
            try:
                await self._copies.make_anew_at_rest(name)
            except errors.ZoryaError as error:
                _log.warning("a copy cannot be made anew", cluster=self._standing.name, copy=name, error=str(error))
            else:
                repaired.append(name)
        return repaired

    async def _report(
        self, looked_at: int, bad: dict[str, Sequence[str]], repaired: Sequence[str], took_s: float
    ) -> VerifyView:
        damaged = tuple(f"Copy {name}: {' '.join(found)}" for name, found in bad.items())
        told = f"{looked_at} copies were looked at, {len(bad)} of them damaged."
        await self._standing.tell(EventKind.VERIFIED, told)
        return VerifyView(copies=looked_at, damaged=damaged, repaired=tuple(repaired), took_s=took_s)
