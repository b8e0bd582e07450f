"""The owner of one cluster: it alone changes the cluster, one step at a time.

`lifecycle.decide` says what comes next; the owner does it, records it and asks again. The record in memory is the
truth while the server runs, since nobody else writes it; the catalog has the durable copy, and the host itself shows
whether an engine runs. So the server may be killed after any step: `_take_over` compares the record with the host and
the same rules go on from there.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from zorya.compute.processes import EngineProcess
from zorya.control import lifecycle, states
from zorya.control.catalog import Catalog, NewEvent
from zorya.control.events import EventKind
from zorya.control.instance import InstanceRunner
from zorya.control.lifecycle import Action, Decision, Process, Situation, StopWish
from zorya.control.record import ClusterRecord
from zorya.control.states import Cause
from zorya.control.view import OperationView
from zorya.control.waiting import WaitingRoom
from zorya.core import errors, failpoints, logging
from zorya.core.clock import Clock
from zorya.core.model import Address, Compute, Status

_log = logging.get("zorya.control")

RETRY_S = 2.0
"""How long the owner waits before it repeats a step that failed and has to be done."""

_OPERATIONS = {
    Action.BUILD: ("create", "making the data folder"),
    Action.START: ("resume", "starting the engine"),
    Action.AWAIT_READY: ("resume", "waiting until the engine is ready"),
    Action.CHECKPOINT: ("pause", "writing a checkpoint"),
    Action.STOP: ("pause", "waiting until the engine has stopped"),
    Action.ABORT: ("stop", "stopping the engine by force"),
    Action.ERASE: ("delete", "removing the data folder"),
}
_INTERRUPTIBLE = frozenset({Action.AWAIT_READY, Action.CHECKPOINT})


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What every owner shares with the others."""

    catalog: Catalog
    clock: Clock
    runner: InstanceRunner
    wake_timeout_s: float
    stop_timeout_s: float
    told: Callable[[], None]
    """Called after each event that was written."""


class ClusterOwner:
    """One cluster. The gateway knows it as an endpoint, `fleet.Fleet` as the cluster itself."""

    def __init__(self, record: ClusterRecord, *, revision: int, surroundings: Surroundings) -> None:
        """Own the cluster of this record; `run` does the work."""
        self.record = record
        self.endpoint_problem = ""
        self._revision = revision
        self._around = surroundings
        self._runner = surroundings.runner
        self._clock = surroundings.clock
        # What is seen of the engine.
        self._process: EngineProcess | None = None
        self._phase = Process.ABSENT
        self._address: Address | None = None
        self._ending = ""
        self._log_mark = 0
        # What is wanted.
        self._sessions = 0
        self._waiting = WaitingRoom(record.name, timeout_s=surroundings.wake_timeout_s)
        self._idle_since_s = surroundings.clock.monotonic_s()
        self._stop_wish = StopWish.NONE
        self._delete_asked = False
        self._server_stops = False
        # Where the pause under way is.
        self._checkpointed = False
        self._foreign_sessions = 0
        self._stop_sent_s = 0.0
        # Who is to be told.
        self._changed = asyncio.Event()
        self._settled = asyncio.Condition()
        self._operation: OperationView | None = None
        self._failure: errors.ZoryaError | None = None
        self._retries = False
        self._stops = 0

    # What the gateway asks; see gateway.directory.Endpoint.

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.record.name

    def enter(self) -> None:
        """Count a client in."""
        self._sessions += 1

    def leave(self) -> None:
        """Count a client out."""
        self._sessions -= 1
        if self._sessions == 0:
            self._idle_since_s = self._clock.monotonic_s()
            self._changed.set()

    def running_address(self) -> Address | None:
        """Answer where the engine listens if it runs and is not about to stop."""
        return self._address if self.record.compute is Compute.RUNNING else None

    async def wake(self) -> Address:
        """Answer where the engine listens, once it runs; see gateway.directory.Endpoint.wake."""
        address = self.running_address()
        if address is not None:
            return address
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
        """Clients at the endpoint, waiting ones included."""
        return self._sessions

    @property
    def pid(self) -> int | None:
        """The engine's first process, if it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def operation(self) -> OperationView | None:
        """What is being done now."""
        return self._operation

    @property
    def pauses_in_s(self) -> float | None:
        """Seconds until the pause begins if nobody connects."""
        after = self.record.pause_after_s
        if self.record.compute is not Compute.RUNNING or self._sessions or after is None:
            return None
        return max(0.0, after - self._idle_s())

    async def created(self) -> None:
        """Wait until the cluster is available. Raises what kept it from being made, once nothing is left of it.

        Where not even the failure could be recorded, the error comes at once, and the owner tries until it can.
        """
        await self._until(lambda: self.record.status in {Status.AVAILABLE, Status.DELETED} or self._retries)
        if self.record.status is not Status.AVAILABLE:
            raise self._failure or self._refusal()

    async def pause(self, *, force: bool) -> None:
        """Stop the engine and wait until it has stopped; see facade.Clusters.pause."""
        if self._sessions and not force:
            raise self._busy()
        if self._is_down():
            return
        stops = self._stops
        self._stop_wish = StopWish.NOW if force else StopWish.WHEN_UNUSED
        self._changed.set()
        await self._until(lambda: self._stop_wish is StopWish.NONE)
        if self._stops == stops and not self._is_down():
            raise self._busy()

    def _is_down(self) -> bool:
        return self.record.compute in {Compute.STOPPED, Compute.FAILED}

    def _busy(self) -> errors.ClusterBusy:
        sessions = self._sessions or self._foreign_sessions
        return errors.ClusterBusy(
            f"Cluster {self.name} has {sessions} open session{'' if sessions == 1 else 's'}.",
            hint="Close them, or use --force to end them.",
        )

    async def delete(self) -> None:
        """Remove the cluster and wait until it is gone."""
        self._delete_asked = True
        self._address = None
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
            lambda: self._process is None and (self._is_down() or self.record.status is not Status.AVAILABLE)
        )

    def let_go(self) -> None:
        """Leave the engine running, as when the server is ended by force."""
        if self._process is not None:
            self._process.release()

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with self._settled:
            await self._settled.wait_for(reached)

    # The loop.

    async def run(self) -> None:
        """Look after the cluster until it is deleted, or until cancelled: then its engine goes on without an owner."""
        await self._take_over()
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
        stopping = self._phase is Process.STOPPING
        return Situation(
            status=self.record.status,
            compute=self.record.compute,
            process=self._phase,
            waiters=self._waiting.waiters,
            sessions=self._sessions,
            idle_s=self._idle_s(),
            pause_after_s=self.record.pause_after_s,
            checkpointed=self._checkpointed,
            foreign_sessions=self._foreign_sessions,
            stopping_s=self._clock.monotonic_s() - self._stop_sent_s if stopping else 0.0,
            stop_timeout_s=self._around.stop_timeout_s,
            stop_wish=self._stop_wish,
            delete_asked=self._delete_asked,
            server_stops=self._server_stops,
        )

    def _idle_s(self) -> float:
        return 0.0 if self._sessions else self._clock.monotonic_s() - self._idle_since_s

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

    def _held(self) -> EngineProcess:
        assert self._process is not None
        return self._process

    def _hold(self, process: EngineProcess, phase: Process) -> None:
        def ended(ending: str) -> None:
            self._process = None
            self._address = None
            self._ending = ending
            self._phase = Process.ENDED
            self._changed.set()

        self._process = process
        self._phase = phase
        process.on_exit(ended)

    async def _take_over(self) -> None:
        """Compare the record with what the host shows, once, at the start."""
        if self.record.status is Status.CREATING:
            return
        found = self._runner.find_running(self.record)
        if found is None:
            self.record = replace(self.record, process=None)
            return
        process, address = found
        self._log_mark = self._runner.log_mark(self.record)
        self._hold(process, Process.READY if address else Process.STARTING)
        self.record = replace(self.record, process=process.identity)
        if self.record.status is not Status.AVAILABLE or self.record.compute is Compute.PAUSING:
            return
        self._address = address
        cause = Cause.FOUND_READY if address else Cause.FOUND_STARTING
        if self.record.compute is not Compute.RESUMING or address:
            await self._change_compute(cause, f"It is process {process.pid}.")

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
        saving = asyncio.create_task(self._save(event), name=f"{self.name}: note the resume")
        try:
            await failpoints.reached("resume.begun")
            process = await self._runner.start(self.record)
            self._hold(process, Process.STARTING)
            self.record = replace(self.record, process=process.identity)
        finally:
            await saving
        await failpoints.reached("resume.started")

    async def _await_ready(self) -> None:
        # The engine may end between the decision and this step, which runs as a task of its own, and also in the turn
        # in which it is found ready. Its end is a change that the next decision deals with.
        process = self._process
        if process is None:
            return
        await self._runner.await_ready(self.record, process)
        if self._process is process:
            self._phase = Process.READY

    async def _finish_resume(self) -> None:
        process = self._held()
        self._address = self._runner.address(self.record, process)
        if self._address is None:
            # It was ready and is stopping already; its end will be noticed.
            self._phase = Process.STARTING
            return
        self._idle_since_s = self._clock.monotonic_s()
        event = self._apply_compute(Cause.READY, f"The engine is process {process.pid}.")
        # The clients go first: they need not wait until it is written that they need not wait.
        self._waiting.settle(self._address)
        await self._save(event)
        await failpoints.reached("resume.done")

    async def _begin_pause(self, reason: str) -> None:
        self._address = None
        self._checkpointed = False
        self._foreign_sessions = 0
        await self._change_compute(Cause.STOP_DUE, reason)
        await failpoints.reached("pause.begun")

    async def _cancel_pause(self, reason: str) -> None:
        self._stop_wish = StopWish.NONE
        self._idle_since_s = self._clock.monotonic_s()
        self._address = self._runner.address(self.record, self._held())
        event = self._apply_compute(Cause.WANTED, reason)
        if self._address is not None:
            self._waiting.settle(self._address)
        await self._save(event)

    async def _checkpoint(self) -> None:
        try:
            self._foreign_sessions = await self._runner.count_sessions(self.record)
            if not self._foreign_sessions or self._stop_wish is StopWish.NOW:
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
        self._runner.stop(self._held())
        self._phase = Process.STOPPING
        self._stop_sent_s = self._clock.monotonic_s()
        await failpoints.reached("pause.signalled")

    async def _note_exit(self) -> None:
        self._phase = Process.ABSENT
        self._address = None
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
        if self._process is not None:
            await self._runner.abort(self.record, self._process)
        self._phase = Process.ABSENT
        self._stop_wish = StopWish.NONE
        event = self._apply_compute(Cause.START_FAILED, str(error))
        self._waiting.settle(error)
        await self._save(event)

    # The record.

    async def _change_compute(self, cause: Cause, reason: str) -> None:
        await self._save(self._apply_compute(cause, reason))

    def _apply_compute(self, cause: Cause, reason: str) -> NewEvent | None:
        target, kind = states.change_of_compute(self.record.compute, cause)
        self.record = replace(self.record, compute=target, reason=reason)
        if target in {Compute.STOPPED, Compute.RUNNING, Compute.FAILED}:
            self._operation = None
        _log.info("compute", cluster=self.name, state=target.value, reason=reason)
        return self._event(kind, reason)

    async def _change_status(self, cause: Cause, reason: str) -> None:
        before = self.record
        target, kind = states.change_of_status(before.status, cause)
        self.record = replace(before, status=target, reason=reason or before.reason)
        self._operation = None
        try:
            await self._save(self._event(kind, reason))
        except errors.ZoryaError:
            # Not written, not so: the step is repeated, and a deleted cluster must not come back at the next start.
            self.record = before
            raise
        _log.info("status", cluster=self.name, state=target.value, reason=reason)

    def _event(self, kind: EventKind | None, reason: str) -> NewEvent | None:
        if kind is None:
            return None
        return NewEvent(at=self._clock.now(), cluster=self.name, kind=kind, reason=reason)

    async def _save(self, event: NewEvent | None) -> None:
        """Write the record as it is now, and the event.

        A database that runs is not stopped because the catalog's disk is full: the failure is logged, and the next
        change writes the whole record again. What is on the host meanwhile is found again by looking at the host.
        """
        try:
            self._revision = await self._around.catalog.replace(self.record, revision=self._revision, event=event)
        except (errors.DiskFull, errors.HomeUnusable) as error:
            if self.record.status is not Status.AVAILABLE:
                raise
            _log.error("the catalog could not be written", cluster=self.name, error=str(error))
        else:
            self._around.told()

    async def tell(self, kind: EventKind, reason: str) -> None:
        """Write an event that is not a change of state; if that fails, it is logged, since no work depends on it."""
        event = NewEvent(at=self._clock.now(), cluster=self.name, kind=kind, reason=reason)
        try:
            await self._around.catalog.add_event(event)
        except (errors.DiskFull, errors.HomeUnusable) as error:
            _log.error("the catalog could not be written", cluster=self.name, error=str(error))
        else:
            self._around.told()
