"""The owner of one cluster: it alone changes the cluster, one step at a time.

`lifecycle.decide` says what comes next; the owner does it, records it and asks again. The record in memory is the
truth while the server runs, since nobody else writes it; the catalog has the durable copy, and the host itself shows
whether an engine runs. So the server may be killed after any step: `_take_over` compares the record with the host and
the same rules go on from there.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import inf

from zorya.control import lifecycle, states
from zorya.control.attendance import Attendance
from zorya.control.catalog import NewEvent
from zorya.control.events import EventKind
from zorya.control.journal import Journal
from zorya.control.lifecycle import Action, Decision, Process, Situation, StopWish
from zorya.control.live import LiveEngine
from zorya.control.record import ClusterRecord
from zorya.control.states import Cause
from zorya.control.surroundings import Surroundings
from zorya.control.view import OperationView
from zorya.control.waiting import WaitingRoom
from zorya.core import errors, failpoints, logging
from zorya.core.model import Compute, Entrance, Handoff, Status

_log = logging.get("zorya.control")

RETRY_S = 2.0
"""How long the owner waits before it repeats a step that failed and has to be done."""

LEAVING_S = 0.5
"""How long a session may take to end after its client has left, before a pause by hand is refused for it."""

_OPERATIONS = {
    Action.BUILD: ("create", "making the data folder"),
    Action.START: ("resume", "starting the engine"),
    Action.AWAIT_READY: ("resume", "waiting until the engine is ready"),
    Action.CHECKPOINT: ("pause", "writing a checkpoint"),
    Action.STOP: ("pause", "waiting until the engine has stopped"),
    Action.ABORT: ("stop", "stopping the engine by force"),
    Action.ERASE: ("delete", "removing the data folder"),
}
_INTERRUPTIBLE = frozenset({Action.AWAIT_READY, Action.CHECKPOINT, Action.RECLAIM})


class ClusterOwner:
    """One cluster. The gateway knows it as an endpoint, `fleet.Fleet` as the cluster itself."""

    def __init__(self, record: ClusterRecord, *, revision: int, surroundings: Surroundings) -> None:
        """Own the cluster of this record; `run` does the work."""
        self.record = record
        self.endpoint_problem = ""
        self._around = surroundings
        self._runner = surroundings.runner
        self._clock = surroundings.clock
        # What is seen of the engine.
        self._live: LiveEngine | None = None
        self._phase = Process.ABSENT
        self._entrance: Entrance | None = None
        self._ending = ""
        self._log_mark = 0
        # What is wanted.
        self._attendance = Attendance(surroundings.clock.monotonic_s())
        self._waiting = WaitingRoom(record.name, timeout_s=surroundings.wake_timeout_s)
        self._stop_wish = StopWish.NONE
        self._delete_asked = False
        self._server_stops = False
        # Where the pause under way is.
        self._checkpointed = False
        self._counted_sessions = 0
        self._stop_sent_s = 0.0
        # Who is to be told.
        self._changed = asyncio.Event()
        self._settled = asyncio.Condition()
        self._taken_over = asyncio.Event()
        self._operation: OperationView | None = None
        self._failure: errors.ZoryaError | None = None
        self._retries = False
        self._stops = 0
        self._journal = Journal(surroundings.catalog, revision=revision, told=surroundings.told)

    # What the gateway asks; see gateway.directory.Endpoint.

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.record.name

    def enter(self) -> None:
        """Count a client in that wants a session."""
        self._attendance.enter()

    def leave(self) -> None:
        """Count the client out."""
        if self._attendance.leave(self._clock.monotonic_s()):
            self._changed.set()

    def attached(self) -> None:
        """Note that a client has its session with the engine, which is to be looked at for it."""
        self._attendance.attach(self._clock.monotonic_s())

    def detached(self) -> None:
        """Note that a session is over, so that the engine is looked at soon."""
        if self._live is not None:
            self._live.look_soon()
        self._changed.set()

    @property
    def is_up(self) -> bool:
        """Whether the engine serves clients, be it frozen."""
        return self._entrance is not None and self.record.compute in {Compute.RUNNING, Compute.FROZEN}

    def running(self) -> Entrance | None:
        """Answer how to get into the engine if it runs and is about neither to stop nor to freeze."""
        if self.record.compute is not Compute.RUNNING or self._live is None or self._live.is_freezing:
            return None
        return self._entrance

    async def wake(self) -> Entrance:
        """Answer how to get into the engine, once it runs; see gateway.directory.Endpoint.wake."""
        entrance = self.running()
        if entrance is not None:
            return entrance
        if self._ends:
            raise self._refusal()
        self._changed.set()
        return await self._waiting.wait()

    @property
    def _ends(self) -> bool:
        return self._server_stops or self._delete_asked or self.record.status in {Status.DELETING, Status.DELETED}

    def _refusal(self) -> errors.ZoryaError:
        if self._server_stops:
            return errors.NotReady("The Zorya server is stopping.", client_message="the Zorya server is stopping")
        return errors.ClusterNotFound(f"Cluster {self.name} was deleted.")

    # What the fleet asks.

    @property
    def sessions(self) -> int:
        """Clients that have a session with the engine, and those at the endpoint that wait for theirs."""
        attendance = self._attendance
        return attendance.visitors + (self._live.sessions(attendance.unseen) if self._live is not None else 0)

    @property
    def pid(self) -> int | None:
        """The engine's first process, if it runs."""
        return self._live.process.pid if self._live is not None else None

    @property
    def handoff(self) -> Handoff:
        """Whether clients can be handed over to the engine, or to the next that is started."""
        return self._entrance.handoff if self._entrance else self._runner.expected_handoff(self.record)

    @property
    def resident_bytes(self) -> int | None:
        """The memory that the engine occupies; None when it does not run."""
        return self._live.group.resident_bytes() if self._live is not None else None

    @property
    def awake_reason(self) -> str:
        """What keeps a running cluster from freezing, as a sentence; empty when nothing does, or it does not run."""
        if self.record.compute is not Compute.RUNNING or self.record.freeze_after_s is None or self._live is None:
            return ""
        busy = self._live.quiet.busy if self._live.quiet is not None else ""
        return busy or self._live.freeze_problem

    @property
    def operation(self) -> OperationView | None:
        """What is being done now."""
        return self._operation

    @property
    def pauses_in_s(self) -> float | None:
        """Seconds until the pause begins if nobody connects."""
        after = self.record.pause_after_s
        if self.record.compute not in {Compute.RUNNING, Compute.FROZEN} or self.sessions or after is None:
            return None
        return max(0.0, after - self._attendance.idle_s(self._clock.monotonic_s()))

    async def taken_over(self) -> None:
        """Wait until it is known what the host has of the cluster."""
        await self._taken_over.wait()

    async def created(self) -> None:
        """Wait until the cluster is available. Raises what kept it from being made, once nothing is left of it.

        Where not even the failure could be recorded, the error comes at once, and the owner tries until it can.
        """
        await self._until(lambda: self.record.status in {Status.AVAILABLE, Status.DELETED} or self._retries)
        if self.record.status is not Status.AVAILABLE:
            raise self._failure or self._refusal()

    async def pause(self, *, force: bool) -> None:
        """Stop the engine and wait until it has stopped; see facade.Clusters.pause."""
        if not force and not await self._becomes_unused():
            raise self._busy()
        if self._is_down():
            return
        if self._live is not None:
            self._live.look_soon()
        stops = self._stops
        self._stop_wish = StopWish.NOW if force else StopWish.WHEN_UNUSED
        self._changed.set()
        await self._until(lambda: self._stop_wish is StopWish.NONE)
        if self._stops == stops and not self._is_down():
            raise self._busy()

    async def _becomes_unused(self) -> bool:
        """Whether there is no session, or none any more in a moment: one whose client has just left takes its time."""
        began_s = self._clock.monotonic_s()
        while self.sessions or self._attendance.is_unsettled(self._clock.monotonic_s()):
            if self._clock.monotonic_s() - began_s > LEAVING_S:
                return False
            await asyncio.sleep(0.01)
        return True

    def _is_down(self) -> bool:
        return self.record.compute in {Compute.STOPPED, Compute.FAILED}

    def _busy(self) -> errors.ClusterBusy:
        sessions = self.sessions or self._counted_sessions
        return errors.ClusterBusy(
            f"Cluster {self.name} has {sessions} open session{'' if sessions == 1 else 's'}.",
            hint="Close them, or use --force to end them.",
        )

    async def delete(self) -> None:
        """Remove the cluster and wait until it is gone."""
        self._delete_asked = True
        self._entrance = None
        self._waiting.settle(self._refusal())
        self._changed.set()
        await self._until(lambda: self.record.status is Status.DELETED)

    async def put_to_sleep(self) -> None:
        """Stop the engine for good, as the server stops, and wait until it has stopped. Ends sessions."""
        self._server_stops = True
        self._stop_wish = StopWish.NOW
        self._waiting.settle(self._refusal())
        self._changed.set()
        await self._until(
            lambda: self._live is None and (self._is_down() or self.record.status is not Status.AVAILABLE)
        )

    async def let_go(self) -> None:
        """Leave the engine running, as when the server is ended by force. Nobody watches its sessions: it is thawed."""
        if self._live is not None:
            await self._live.close()
            self._live.process.release()
        await self._journal.flush()

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with self._settled:
            await self._settled.wait_for(reached)

    # The loop.

    async def run(self) -> None:
        """Look after the cluster until it is deleted, or until cancelled: then its engine goes on without an owner."""
        writer = asyncio.create_task(self._journal.run(), name=f"{self.name}: journal")
        try:
            await self._look_after()
        finally:
            writer.cancel()
            await asyncio.wait({writer})

    async def _look_after(self) -> None:
        await self._take_over()
        self._taken_over.set()
        while True:
            async with self._settled:
                self._settled.notify_all()
            # From here to the step itself nothing is awaited, so that the decision still holds when it is acted on.
            self._changed.clear()
            decision = lifecycle.decide(self._situation())
            self._note_operation(decision.action)
            if decision.action is Action.END:
                return
            if decision.action is Action.REST:
                await self._rest(decision.recheck_s)
            else:
                await self._attempt(decision)

    def _situation(self) -> Situation:
        now_s = self._clock.monotonic_s()
        stopping = self._phase is Process.STOPPING
        live = self._live
        return Situation(
            status=self.record.status,
            compute=self.record.compute,
            process=self._phase,
            waiters=self._waiting.waiters,
            visitors=self._attendance.visitors,
            sessions=self._attendance.total,
            idle_s=self._attendance.idle_s(now_s),
            pause_after_s=self.record.pause_after_s,
            look_in_s=live.look_at_s - now_s if live is not None else inf,
            quiet_s=now_s - live.quiet.since_s if live and live.quiet and live.quiet.since_s is not None else 0.0,
            freeze_after_s=self.record.freeze_after_s,
            freeze_blocked_s=max(0.0, live.freeze_blocked_until_s - now_s) if live is not None else 0.0,
            stirred=live.stirred if live is not None else "",
            frozen_s=now_s - live.frozen_at_s if live is not None else 0.0,
            reclaim_after_s=self._around.reclaim_after_s if live is not None and live.can_reclaim else None,
            checkpointed=self._checkpointed,
            counted_sessions=self._counted_sessions,
            stopping_s=now_s - self._stop_sent_s if stopping else 0.0,
            stop_timeout_s=self._around.stop_timeout_s,
            stop_wish=self._stop_wish,
            delete_asked=self._delete_asked,
            server_stops=self._server_stops,
        )

    def _note_operation(self, action: Action) -> None:
        if action in _OPERATIONS:
            name, step = _OPERATIONS[action]
            if self._operation is None or self._operation.step != step:
                self._operation = OperationView(name=name, step=step, since=self._clock.now())
        elif action is Action.REST and self._phase is not Process.STOPPING:
            self._operation = None

    async def _rest(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _attempt(self, decision: Decision) -> None:
        """Do one step; if it fails, let that be a change like any other, so that no failure ends the owner."""
        try:
            if decision.action in _INTERRUPTIBLE:
                await self._do_unless_changed(decision)
            else:
                await self._do(decision)
        except errors.ZoryaError as error:
            await self._deal_with(decision, error)
        except Exception as error:  # noqa: BLE001 - a defect in one cluster's step must not end the others
            _log.exception("step failed unexpectedly", cluster=self.name, step=decision.action)
            unexpected = errors.EngineProblem(
                f"An internal error kept {self.name} from going on: {type(error).__name__}.",
                hint="The server's log has the details.",
                client_message="internal error",
            )
            await self._deal_with(decision, unexpected)

    async def _deal_with(self, decision: Decision, error: errors.ZoryaError) -> None:
        try:
            await self._failed(decision, error)
        except errors.ZoryaError as second:
            await self._retry_later(decision, second)

    async def _retry_later(self, decision: Decision, error: errors.ZoryaError) -> None:
        _log.error("step failed, will be repeated", cluster=self.name, step=decision.action, error=str(error))
        self._failure = error
        self._retries = True
        async with self._settled:
            self._settled.notify_all()
        await self._rest(RETRY_S)
        self._retries = False

    async def _do_unless_changed(self, decision: Decision) -> None:
        """Do a step that only waits; give it up when something changes, since the next decision may be another."""
        step = asyncio.create_task(self._do(decision), name=f"{self.name}: {decision.action}")
        change = asyncio.create_task(self._changed.wait(), name=f"{self.name}: change")
        try:
            await asyncio.wait({step, change}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
            step.cancel()
            await asyncio.wait({step, change})
        if not step.cancelled():
            step.result()

    async def _do(self, decision: Decision) -> None:  # noqa: PLR0912 - one arm an action
        match decision.action:
            case Action.BUILD:
                await self._build()
            case Action.START:
                await self._start(decision.reason)
            case Action.AWAIT_READY:
                await self._await_ready()
            case Action.FINISH_RESUME:
                await self._finish_resume()
            case Action.LOOK:
                await self._look()
            case Action.FREEZE:
                await self._freeze(decision.reason)
            case Action.LISTEN:
                self._held().listen()
            case Action.RECLAIM:
                await self._held().reclaim()
            case Action.THAW:
                self._thaw(decision.reason)
            case Action.BEGIN_PAUSE:
                await self._begin_pause(decision.reason)
            case Action.CANCEL_PAUSE:
                await self._cancel_pause(decision.reason)
            case Action.DROP_PAUSE:
                self._stop_wish = StopWish.NONE
            case Action.CHECKPOINT:
                await self._checkpoint()
            case Action.STOP:
                await self._stop()
            case Action.NOTE_EXIT:
                await self._note_exit()
            case Action.BEGIN_DELETE:
                await self._change_status(Cause.DELETE_ASKED, decision.reason)
                await failpoints.reached("delete.begun")
            case Action.ABORT:
                await self._abort(decision.reason)
            case Action.ERASE:
                await self._erase()
            case Action.REST | Action.END:
                raise AssertionError(decision.action)

    def _held(self) -> LiveEngine:
        assert self._live is not None
        return self._live

    def _hold(self, live: LiveEngine, phase: Process) -> None:
        def ended(ending: str) -> None:
            # Processes that are left of it notice its end only if they run.
            live.thaw()
            self._entrance = None
            self._ending = ending
            self._phase = Process.ENDED
            self._changed.set()

        self._live = live
        self._phase = phase
        self._around.guard.guard(self.record.id, live.group.freezer)
        live.process.on_exit(ended)

    async def _bury(self) -> None:
        """Hold nothing any more of an engine that has ended."""
        live, self._live = self._live, None
        self._phase = Process.ABSENT
        self._entrance = None
        self._attendance.lose_engine(self._clock.monotonic_s())
        if live is not None:
            await live.close()
            await live.group.remove()
            self._around.guard.forget(self.record.id)

    async def _take_over(self) -> None:
        """Compare the record with what the host shows, once, at the start."""
        if self.record.status is Status.CREATING:
            return
        found = self._runner.find_running(self.record)
        if found is None:
            self._runner.remove_group(self.record)
            self.record = replace(self.record, process=None)
            return
        await failpoints.reached("takeover.found")
        live, entrance = found
        self._log_mark = self._runner.log_mark(self.record)
        self._hold(live, Process.READY if entrance else Process.STARTING)
        self.record = replace(self.record, process=live.process.identity)
        if self.record.status is not Status.AVAILABLE or self.record.compute is Compute.PAUSING:
            return
        self._entrance = entrance
        cause = Cause.FOUND_READY if entrance else Cause.FOUND_STARTING
        if entrance:
            await self._look()  # so that its sessions are known from the beginning
        if self.record.compute is not Compute.RESUMING or entrance:
            await self._change_compute(cause, f"It is process {live.process.pid}.")
        if entrance and self._entrance is entrance:
            # Those who came before it was known that the engine runs.
            self._waiting.settle(entrance)

    # The steps.

    async def _build(self) -> None:
        await failpoints.reached("create.recorded")
        await self._runner.build(self.record)
        await failpoints.reached("create.built")
        await self._change_status(Cause.BUILT, "It sleeps until a client connects.")
        await failpoints.reached("create.done")

    async def _start(self, reason: str) -> None:
        # The record is written while the engine starts: a durable write costs as much as a good part of the start. If
        # the server dies in between, the data folder itself tells the next one of the engine.
        again = self.record.compute is Compute.RESUMING
        event = None if again else self._apply_compute(Cause.WANTED, reason)
        self._log_mark = self._runner.log_mark(self.record)
        saving = asyncio.create_task(self._journal.save(self.record, event), name=f"{self.name}: note the resume")
        try:
            await failpoints.reached("resume.begun")
            live = await self._runner.start(self.record)
            self._hold(live, Process.STARTING)
            self.record = replace(self.record, process=live.process.identity)
        finally:
            await saving
        await failpoints.reached("resume.started")

    async def _await_ready(self) -> None:
        # The engine may end between the decision and this step, which runs as a task of its own, and also in the turn
        # in which it is found ready. Its end is a change that the next decision deals with.
        live = self._live
        if live is None or not live.process.alive:
            return
        await self._runner.await_ready(self.record, live.process)
        if live.process.alive:
            self._phase = Process.READY

    async def _finish_resume(self) -> None:
        process = self._held().process
        self._entrance = self._runner.entrance(self.record, process)
        if self._entrance is None:
            # It was ready and is stopping already; its end will be noticed.
            self._phase = Process.STARTING
            return
        self._attendance.begin_idling(self._clock.monotonic_s())
        event = self._apply_compute(Cause.READY, f"The engine is process {process.pid}.")
        # The clients go first: they need not wait until it is written that they need not wait.
        self._waiting.settle(self._entrance)
        await self._journal.save(self.record, event)
        await failpoints.reached("resume.done")

    async def _look(self) -> None:
        """See what sessions there are, and whether the engine rests."""
        live, of_unseen = self._held(), self._attendance.seen_by_look_at(self._clock.monotonic_s())
        await live.look(self.record.freeze_after_s)
        self._attendance.see(live.counted, of_unseen=of_unseen, now_s=self._clock.monotonic_s())

    async def _freeze(self, reason: str) -> None:
        """Freeze the engine, unless a client comes first. Those who come meanwhile wait for the outcome."""
        live, entrance = self._held(), self._entrance
        assert entrance is not None
        ports = {self.record.port, entrance.address.port}
        refused = await live.try_freeze(ports, self._changed.set, hindrance=self._around.guard.problem)
        if refused:
            if self._entrance is not None:
                self._waiting.settle(self._entrance)
        elif live.process.alive:
            event = self._apply_compute(Cause.AT_REST, reason)
            self._journal.save_later(self.record, event)
            await failpoints.reached("freeze.done")

    def _thaw(self, reason: str) -> None:
        # The engine first, then those who want it, then the record: nobody needs to wait for the disk.
        self._held().thaw()
        event = self._apply_compute(Cause.WANTED, reason)
        if self._entrance is not None:
            self._waiting.settle(self._entrance)
        self._journal.save_later(self.record, event)

    async def _begin_pause(self, reason: str) -> None:
        self._held().thaw()
        self._entrance = None
        self._checkpointed = False
        self._counted_sessions = 0
        await self._change_compute(Cause.STOP_DUE, reason)
        await failpoints.reached("pause.begun")

    async def _cancel_pause(self, reason: str) -> None:
        self._stop_wish = StopWish.NONE
        live, now_s = self._held(), self._clock.monotonic_s()
        self._attendance.see(self._counted_sessions, of_unseen=0, now_s=now_s)
        self._attendance.begin_idling(now_s)
        self._entrance = self._runner.entrance(self.record, live.process)
        live.look_soon()
        event = self._apply_compute(Cause.WANTED, reason)
        if self._entrance is not None:
            self._waiting.settle(self._entrance)
        await self._journal.save(self.record, event)

    async def _checkpoint(self) -> None:
        try:
            self._counted_sessions = await self._held().count_anew()
            if not self._counted_sessions or self._stop_wish is StopWish.NOW:
                await self._runner.checkpoint(self.record)
                self._checkpointed = True
        except errors.NotReady:
            # One of its processes crashed and it recovers, as it will at its next start.
            self._phase = Process.STARTING
        except errors.EngineProblem as error:
            _log.warning("no checkpoint before the stop", cluster=self.name, error=str(error))
            self._checkpointed = True
        await failpoints.reached("pause.checkpointed")

    async def _stop(self) -> None:
        # No await between the decision and the signal: a client that came in it would be cut off.
        self._runner.stop(self._held().process)
        self._phase = Process.STOPPING
        self._stop_sent_s = self._clock.monotonic_s()
        await failpoints.reached("pause.signalled")

    async def _note_exit(self) -> None:
        await self._bury()
        self.record = replace(self.record, process=None)
        match self.record.compute:
            case Compute.RESUMING:
                why = self._runner.explain_exit(self.record, self._ending, self._log_mark)
                raise errors.StartFailed(
                    f"The engine of {self.name} did not start. {why}",
                    hint=f"Its log: {self._runner.log_path(self.record)}",
                    client_message=f'the engine of cluster "{self.name}" did not start',
                )
            case Compute.PAUSING:
                self._stops += 1
                self._stop_wish = StopWish.NONE
                await self._change_compute(Cause.EXITED, self.record.reason)
                await failpoints.reached("pause.done")
            case _:
                why = self._runner.explain_exit(self.record, self._ending or "an unseen end", self._log_mark)
                _log.error("engine lost", cluster=self.name, why=why)
                self._stop_wish = StopWish.NONE
                await self._change_compute(Cause.EXITED, why)

    async def _abort(self, reason: str) -> None:
        in_vain = self._phase is Process.STOPPING and self.record.status is Status.AVAILABLE
        await self._runner.abort(self.record, self._held())
        if in_vain:
            _log.warning("engine stopped by force", cluster=self.name, reason=reason)
            await self.tell(EventKind.STOP_FORCED, f"{reason} It recovers at its next start.")
        await failpoints.reached("delete.stopped")

    async def _erase(self) -> None:
        await self._bury()
        await self._runner.erase(self.record)
        await failpoints.reached("delete.erased")
        await self._change_status(Cause.ERASED, "")

    async def _failed(self, decision: Decision, error: errors.ZoryaError) -> None:
        self._failure = error
        if decision.action is Action.BUILD:
            _log.error("create failed", cluster=self.name, error=str(error))
            self._waiting.settle(error)
            # What was made goes first: on a full disk that is what lets the catalog be written.
            with suppress(errors.ZoryaError):
                await self._runner.erase(self.record)
            await self._change_status(Cause.BUILD_FAILED, str(error))
        elif self.record.status is Status.AVAILABLE and self.record.compute is Compute.RESUMING:
            await self._resume_failed(error)
        else:
            await self._retry_later(decision, error)

    async def _resume_failed(self, error: errors.ZoryaError) -> None:
        _log.error("resume failed", cluster=self.name, error=str(error))
        if self._live is not None:
            await self._runner.abort(self.record, self._live)
        await self._bury()
        self._stop_wish = StopWish.NONE
        event = self._apply_compute(Cause.START_FAILED, str(error))
        self._waiting.settle(error)
        await self._journal.save(self.record, event)

    # The record.

    async def _change_compute(self, cause: Cause, reason: str) -> None:
        event = self._apply_compute(cause, reason)
        await self._journal.save(self.record, event)

    def _apply_compute(self, cause: Cause, reason: str) -> NewEvent | None:
        target, kind = states.change_of_compute(self.record.compute, cause)
        self.record = replace(self.record, compute=target, reason=reason)
        if target in {Compute.STOPPED, Compute.RUNNING, Compute.FROZEN, Compute.FAILED}:
            self._operation = None
        _log.info("compute", cluster=self.name, state=target.value, reason=reason)
        return self._event(kind, reason)

    async def _change_status(self, cause: Cause, reason: str) -> None:
        before = self.record
        target, kind = states.change_of_status(before.status, cause)
        self.record = replace(before, status=target, reason=reason or before.reason)
        self._operation = None
        try:
            await self._journal.save(self.record, self._event(kind, reason))
        except errors.ZoryaError:
            # Not written, not so: the step is repeated, and a deleted cluster must not come back at the next start.
            self.record = before
            raise
        _log.info("status", cluster=self.name, state=target.value, reason=reason)

    def _event(self, kind: EventKind | None, reason: str) -> NewEvent | None:
        if kind is None:
            return None
        return NewEvent(at=self._clock.now(), cluster=self.name, kind=kind, reason=reason)

    async def tell(self, kind: EventKind, reason: str) -> None:
        """Write an event that is not a change of state."""
        await self._journal.tell(NewEvent(at=self._clock.now(), cluster=self.name, kind=kind, reason=reason))
