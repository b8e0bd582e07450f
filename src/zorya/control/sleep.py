"""A running engine's rest: looking at what it does, freezing and thawing it.

`lifecycle` decides when; `live` is the engine itself. Here are the consequences for the cluster.
"""

from collections.abc import Callable

from zorya.control.attendance import FORK_S, Attendance
from zorya.control.copies import Copies
from zorya.control.seat import Seat
from zorya.control.standing import Standing
from zorya.control.states import Cause
from zorya.control.surroundings import Surroundings
from zorya.control.waiting import WaitingRoom
from zorya.core import failpoints


class Sleep:
    """The steps of one cluster's owner that have to do with its engine's rest."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        standing: Standing,
        seat: Seat,
        attendance: Attendance,
        waiting: WaitingRoom,
        login_failed: Callable[[str, str], None],
        changed: Callable[[], None],
        copies: Copies,
    ) -> None:
        """`login_failed` is called with the address and the role of each login that the engine has turned down."""
        self._around = surroundings
        self._clock = surroundings.clock
        self._standing = standing
        self._seat = seat
        self._attendance = attendance
        self._waiting = waiting
        self._login_failed = login_failed
        self._changed = changed
        self._copies = copies

    async def look(self) -> None:
        """See what sessions there are, whether the engine rests, and who could not log in."""
        live, of_unseen = self._seat.held(), self._attendance.seen_by_look_at(self._clock.monotonic_s())
        await live.look(self._standing.record.freeze_after_s)
        self._see(of_unseen)
        if live.sessions(self._attendance.unseen) > live.counted:
            # One that came as it was looked may have been counted twice.
            live.look_at_s = min(live.look_at_s, self._clock.monotonic_s() + FORK_S)
        for failed in await live.failed_logins():
            address = self._around.login_failed(self._standing.name, failed.address, failed.port, failed.role)
            self._login_failed(address, failed.role)

    def _see(self, of_unseen: int) -> None:
        counted = self._seat.held().counted + sum(reader.counted for reader in self._copies.lives)
        self._attendance.see(counted, of_unseen=of_unseen, now_s=self._clock.monotonic_s())

    async def freeze(self, reason: str) -> None:
        """Freeze the engine, unless a client comes first. Those who come meanwhile wait for the outcome."""
        live, entrance = self._seat.held(), self._seat.entrance
        assert entrance is not None
        record, unseen = self._standing.record, self._attendance.unseen
        ports = {record.port, entrance.address.port, *self._around.shared_ports}
        refused = await live.try_freeze(ports, self._changed, hindrance=self._around.guard.problem)
        if not refused and live.process.alive:
            refused = await self._copies.try_freeze(self._changed)
            if refused:
                live.thaw()
                live.block_freeze(refused)
        if refused:
            if self._seat.entrance is not None:
                self._waiting.settle(self._seat.entrance)
        elif live.process.alive:
            # It has said whose sessions it has, and whoever it was given since would have kept it from freezing.
            self._see(unseen)
            self._standing.save_later(self._standing.apply_compute(Cause.AT_REST, reason))
            await failpoints.reached("freeze.done")

    def thaw(self, reason: str) -> None:
        """Let the engine go on."""
        # The engine first, then those who want it, then the record: nobody needs to wait for the disk.
        self._copies.thaw()
        self._seat.held().thaw()
        event = self._standing.apply_compute(Cause.WANTED, reason)
        if self._seat.entrance is not None:
            self._waiting.settle(self._seat.entrance)
        self._standing.save_later(event)
