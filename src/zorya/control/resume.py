"""A resume: the start of the engine, until those who wait for it can be let in."""

import asyncio

from zorya.control.attendance import Attendance
from zorya.control.copies import Copies
from zorya.control.failover import Failover
from zorya.control.identities import SavedIdentities
from zorya.control.lifecycle import Process
from zorya.control.live import LiveEngine
from zorya.control.scrub import Scrub
from zorya.control.seat import Seat
from zorya.control.sizing import Sizing
from zorya.control.standing import Standing
from zorya.control.states import Cause
from zorya.control.surroundings import Surroundings
from zorya.control.waiting import WaitingRoom
from zorya.core import errors, failpoints, logging, ports
from zorya.core.model import Compute, Entrance
from zorya.engines.following import Source

_log = logging.get("zorya.control")


class Resume:
    """The resume of one cluster that is under way, if any is. `lifecycle` decides which of the steps is next."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        standing: Standing,
        seat: Seat,
        attendance: Attendance,
        waiting: WaitingRoom,
        saved: SavedIdentities,
        sizing: Sizing,
        copies: Copies,
        failover: Failover,
        scrub: Scrub,
    ) -> None:
        """None is under way yet."""
        self._runner = surroundings.runner
        self._clock = surroundings.clock
        self._standing = standing
        self._seat = seat
        self._attendance = attendance
        self._waiting = waiting
        self._saved = saved
        self._sizing = sizing
        self._copies = copies
        self._failover = failover
        self._scrub = scrub
        self._reload = False
        self._reloads = False
        self.reload_failure: errors.ZoryaError | None = None
        """Why the engine has not been given the present certificate and rules, when that was last put off."""

    async def start(self, reason: str) -> None:
        """Start the engine. Raises what InstanceRunner.start does."""
        # The record is written while the engine starts: a durable write costs as much as a good part of the start. If
        # the server dies in between, the data folder itself tells the next one of the engine. So it is with the removal
        # of the saved identities: it has to be durable before a client can change any, not before the launch.
        standing, seat = self._standing, self._seat
        await self._scrub.give_way()
        again = standing.record.compute is Compute.RESUMING
        problem = self._copies.why_not_in_place()
        standing.note_rest(None)
        event = None if again else standing.apply_compute(Cause.WANTED, reason)
        seat.log_mark = self._runner.log_mark(standing.record)
        writes = [asyncio.create_task(standing.save(event), name=f"{standing.name}: note the resume")]
        try:
            self._saved.forget()
            writes.append(asyncio.create_task(self._saved.be_forgotten(), name=f"{standing.name}: forget identities"))
            await failpoints.reached("resume.begun")
            self._sizing.choose_first()
            before = standing.record.volume.primary
            live = await self._bring_up(problem)
            if standing.record.volume.primary != before:
                seat.log_mark = self._runner.log_mark(standing.record)
            seat.take(live, Process.STARTING)
            self._sizing.begin(live)
            standing.note_process(live.process.identity)
        finally:
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        await failpoints.reached("resume.started")

    async def _bring_up(self, problem: str) -> LiveEngine:
        """Start the primary, or make another copy the primary; have the others follow it.

        `problem` says why the primary is not to be started as it is; empty when nothing speaks against it.
        """
        if self._copies.is_alone:
            return await self._runner.start(self._standing.record, self._standing.capacity, port=ports.reserve())
        if self._failover.is_unfinished:
            await self._failover.finish()
        self._failover.reason = self._failover.reason or problem
        if not self._failover.reason:
            try:
                return await self._start_in_place()
            except (errors.StorageProblem, errors.StartFailed) as error:
                if not self._failover.may_help():
                    raise
                self._failover.reason = str(error)
        live = await self._failover.run()
        await self._runner.reconfigure(self._standing.record, live.process, self._standing.capacity)
        entrance = self._runner.entrance(self._standing.record, live.process)
        if entrance is not None:
            self._copies.begin(self.source_of(entrance))
        return live

    async def _start_in_place(self) -> LiveEngine:
        record, port = self._standing.record, ports.reserve()
        self._copies.begin(Source(socket=self._runner.folders(record).socket, port=port))
        try:
            live = await self._runner.start(record, self._standing.capacity, port=port)
        except BaseException:
            await self._copies.hold()
            raise
        entrance = self._runner.entrance(record, live.process)
        if entrance is not None and entrance.address.port != port:
            # It ran already.
            self._copies.begin(self.source_of(entrance))
        return live

    def source_of(self, entrance: Entrance) -> Source:
        """Answer where the primary that is up gives its log away."""
        return Source(socket=self._runner.folders(self._standing.record).socket, port=entrance.address.port)

    async def await_ready(self) -> None:
        """Wait until the engine is ready, or for ever."""
        # The engine may end between the decision and this step, which runs as a task of its own, and also in the turn
        # in which it is found ready. Its end is a change that the next decision deals with.
        live = self._seat.live
        if live is None or not live.process.alive:
            return
        await self._runner.await_ready(self._standing.record, live.process)
        if live.process.alive:
            self._seat.phase = Process.READY

    async def finish(self) -> None:
        """Let those in who wait."""
        standing, seat = self._standing, self._seat
        process = seat.held().process
        seat.entrance = self._runner.entrance(standing.record, process)
        if seat.entrance is None:
            # It was ready and is stopping already; its end will be noticed.
            seat.phase = Process.STARTING
            return
        if not self._copies.is_begun:
            self._copies.begin(self.source_of(seat.entrance))
        self._attendance.begin_idling(self._clock.monotonic_s())
        event = standing.apply_compute(Cause.READY, f"The engine is process {process.pid}.")
        # The clients go first: they need not wait until it is written that they need not wait.
        self._waiting.settle(seat.entrance)
        await self.reconfigure_if_wanted()
        await standing.save(event)
        await failpoints.reached("resume.done")

    async def fail(self, error: errors.ZoryaError) -> None:
        """Take back what was begun, and tell those who wait."""
        standing, seat = self._standing, self._seat
        _log.error("resume failed", cluster=standing.name, error=str(error))
        if seat.live is not None:
            await self._runner.abort(standing.record, seat.live)
        await seat.clear()
        await self._copies.end()
        await self._copies.compare()
        self._attendance.lose_engine(self._clock.monotonic_s())
        event = standing.apply_compute(Cause.START_FAILED, str(error))
        self._waiting.settle(error)
        await standing.save(event)

    async def reconfigure(self) -> None:
        """Give the engine, if there is one, the present certificate and rules: at once, or as soon as it is ready.

        A frozen one is thawed for it. Raises StorageProblem, EngineMissing, EngineProblem.
        """
        live = self._seat.live
        if live is not None and self._seat.phase is Process.READY:
            async with live.telling:
                if self._standing.record.compute is Compute.FROZEN:
                    self._reload = True
                    live.stir("Its certificate or its rules have changed.")
                    return
                await self._runner.reconfigure(self._standing.record, live.process, self._standing.capacity)
            await self._copies.renew_tls()
        elif self._standing.record.compute is Compute.RESUMING:
            # A signal could end it before it is ready.
            self._reload = True

    async def reconfigure_if_wanted(self) -> None:
        """Do it now if it was to be done while the engine started or was frozen. A failure is logged, and kept."""
        if not self._reload:
            return
        self._reload, self._reloads = False, True
        self.reload_failure = None
        try:
            await self.reconfigure()
        except errors.ZoryaError as error:
            _log.error("a running engine keeps its configuration", cluster=self._standing.name, error=str(error))
            self.reload_failure = error
        finally:
            self._reloads = False

    @property
    def is_reload_due(self) -> bool:
        """Whether `reconfigure` has put it off, and an engine is there that it is still to be done for."""
        is_there = self._standing.record.compute in {Compute.FROZEN, Compute.RESUMING, Compute.RUNNING}
        return self._reloads or (self._reload and is_there)
