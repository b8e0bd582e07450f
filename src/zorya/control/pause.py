"""A pause, from its beginning to the engine's end: the checkpoint, who may log in afterwards, and the stop.

`lifecycle` decides which of the steps is next. Before the checkpoint, once it has no session any more, the engine is
asked for its roles and databases and kept from changing any until it has ended, so that what it said is what holds
while it is stopped.
"""

from zorya.control.attendance import Attendance
from zorya.control.copies import Copies
from zorya.control.identities import SavedIdentities
from zorya.control.lifecycle import Process, StopWish
from zorya.control.seat import Seat
from zorya.control.standing import Standing
from zorya.control.states import Cause
from zorya.control.surroundings import Surroundings
from zorya.control.waiting import WaitingRoom
from zorya.core import errors, failpoints, logging
from zorya.core.identity import Known
from zorya.engines.base import HeldIdentities

_log = logging.get("zorya.control")


class Pause:
    """The pause of one cluster that is wanted or under way, if any is."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        standing: Standing,
        seat: Seat,
        attendance: Attendance,
        waiting: WaitingRoom,
        saved: SavedIdentities,
        copies: Copies,
    ) -> None:
        """None is wanted yet."""
        self.wish = StopWish.NONE
        self.checkpointed = False
        self.counted_sessions = 0
        """The sessions that the engine itself had before the checkpoint."""
        self._runner = surroundings.runner
        self._clock = surroundings.clock
        self._standing = standing
        self._seat = seat
        self._attendance = attendance
        self._waiting = waiting
        self._saved = saved
        self._copies = copies
        self._signalled_s = 0.0
        self._held: HeldIdentities | None = None

    @property
    def identities(self) -> Known | None:
        """Who may log in once the engine has stopped, as far as it has said; nothing of it changes any more."""
        return self._held.identities if self._held is not None else None

    def stopping_s(self, now_s: float) -> float:
        """Answer how long ago the engine was told to stop; 0 if it was not."""
        return now_s - self._signalled_s if self._seat.phase is Process.STOPPING else 0.0

    async def begin(self, reason: str) -> None:
        """Let nobody in any more."""
        self._copies.thaw()
        self._seat.held().thaw()
        self._seat.entrance = None
        await self._copies.hold()
        await self._copies.drop_hanging()
        self.checkpointed = False
        self.counted_sessions = 0
        await self._standing.change_compute(Cause.STOP_DUE, reason)
        await failpoints.reached("pause.begun")

    async def cancel(self, reason: str) -> None:
        """Go on running."""
        self.wish = StopWish.NONE
        live, now_s = self._seat.held(), self._clock.monotonic_s()
        self._attendance.see(self.counted_sessions, of_unseen=0, now_s=now_s)
        self._attendance.begin_idling(now_s)
        self._seat.entrance = self._runner.entrance(self._standing.record, live.process)
        live.look_soon()
        self._copies.go_on()
        event = self._standing.apply_compute(Cause.WANTED, reason)
        if self._seat.entrance is not None:
            self._waiting.settle(self._seat.entrance)
        await self.release()
        await self._standing.save(event)

    async def checkpoint(self) -> None:
        """Count the sessions, and if the engine is to stop have it say who may log in, and write its pages.

        Sessions that are to be ended end first. One that does not leaves it unknown who may log in: it could change it.
        May be given up at any moment, and begun anew.
        """
        # What was held before may have been lost with all the engine's processes but the first.
        await self.release()
        try:
            self.counted_sessions = await self._seat.held().count_anew()
            if self.counted_sessions and self.wish is StopWish.NOW:
                await self._end_sessions()
            if not self.counted_sessions or self.wish is StopWish.NOW:
                if not self.counted_sessions:
                    await self._hold_identities()
                await failpoints.reached("pause.held")
                await self._runner.checkpoint(self._standing.record)
                self.checkpointed = True
        except errors.NotReady:
            # One of its processes crashed and it recovers, as it will at its next start.
            await self.release()
            self._seat.phase = Process.STARTING
        except errors.EngineProblem as error:
            await self.release()
            _log.warning("no checkpoint before the stop", cluster=self._standing.name, error=str(error))
            self.checkpointed = True
        await failpoints.reached("pause.checkpointed")

    async def _end_sessions(self) -> None:
        # The stop would end them too, but all processes at the same time: a session that has waited to change a role
        # could do so in the instant between the end of what kept it from it and its own.
        live = self._seat.held()
        await live.end_sessions()
        self.counted_sessions = await live.count_anew()

    async def _hold_identities(self) -> None:
        try:
            self._held = await self._runner.hold_identities(self._standing.record)
        except errors.NotReady:
            raise
        except errors.EngineProblem as error:
            # The next client then wakes the engine to have it decide.
            _log.info("who may log in is not known after this pause", cluster=self._standing.name, error=str(error))

    async def stop(self) -> None:
        """Tell the engine to end its sessions and to stop cleanly."""
        # No await between the decision and the signal: a client that came in it would be cut off.
        self._runner.stop(self._seat.held().process)
        self._seat.phase = Process.STOPPING
        self._signalled_s = self._clock.monotonic_s()
        await failpoints.reached("pause.signalled")

    async def keep_identities(self) -> None:
        """Have it known who may log in, the engine having ended, if it is certain."""
        held = self._held
        if held is not None and self._runner.ended_cleanly(self._standing.record):
            await self._saved.keep(held.identities)
        await self.release()

    async def release(self) -> None:
        """Let the engine's roles and databases be changed again. May be repeated."""
        held, self._held = self._held, None
        if held is not None:
            await held.close()
