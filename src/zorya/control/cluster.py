"""The owner of one cluster: it alone changes the cluster, one step at a time.

`lifecycle.decide` says what comes next; the owner does it, records it and asks again. The record in memory is the
truth while the server runs, since nobody else writes it; the catalog has the durable copy, and the host itself shows
whether an engine runs. So the server may be killed after any step: `_take_over` compares the record with the host and
the same rules go on from there.

What it consists of: `endpoint` (what the gateway asks), `orders` (what the fleet asks), `resume`, `sleep`, `pause`,
`passwords`, `edits`, `sizing`.
"""

import asyncio
from contextlib import suppress
from math import inf

from zorya.control import lifecycle
from zorya.control.events import EventKind
from zorya.control.lifecycle import Action, Decision, Process, Situation, StopWish
from zorya.control.live import LiveEngine
from zorya.control.orders import ClusterOrders
from zorya.control.states import Cause
from zorya.control.view import OperationView
from zorya.core import errors, failpoints, logging
from zorya.core.model import Compute, Status

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
_INTERRUPTIBLE = frozenset({Action.AWAIT_READY, Action.CHECKPOINT, Action.RECLAIM})


class ClusterOwner(ClusterOrders):
    """One cluster. The gateway knows it as an endpoint, `fleet.Fleet` as the cluster itself."""

    _recovers = False
    """Whether its engine was lost, and is to be brought back though nobody wants it."""

    # The loop.

    async def run(self) -> None:
        """Look after the cluster until it is deleted, or until cancelled: then its engine goes on without an owner."""
        writer = asyncio.create_task(self._standing.journal.run(), name=f"{self.name}: journal")
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
            self._be_scaled()
            if self._ends:
                self._edits.refuse(self._refusal())
            if self._is_resized:
                await self._take_up_resize()
                continue
            if self._edits.is_due:
                await self._edits.make()
                continue
            decision = lifecycle.decide(self._situation())
            self._note_operation(decision.action)
            if decision.action is Action.END:
                return
            if decision.action is Action.REST:
                await self._rest(decision.recheck_s)
            else:
                await self._attempt(decision)

    async def _take_up_resize(self) -> None:
        """Have the copies that the volume lacks made, and those removed that it has no more."""
        await self._copies.resize(self._resume.source_of)
        self._is_resized = False

    def _be_scaled(self) -> None:
        """Have the autoscaler look after the cluster while its engine works."""
        if self.record.compute is Compute.RUNNING:
            self._autoscaler.add(self.record.id, self._sizing)
        else:
            self._autoscaler.remove(self.record.id)

    def _situation(self) -> Situation:
        if self.record.compute is Compute.FROZEN and (self._attendance.visitors or self._waiting.waiters):
            # While it sleeps nobody looks; who wants it is not to be given to a primary whose files are gone.
            self._copies.see_whether_it_is_there()
        now_s = self._clock.monotonic_s()
        live = self._seat.live
        return Situation(
            status=self.record.status,
            compute=self.record.compute,
            process=self._seat.phase,
            waiters=self._waiting.waiters,
            visitors=self._attendance.visitors,
            sessions=self._attendance.total,
            idle_s=self._attendance.idle_s(now_s),
            always_runs=self.record.is_provisioned,
            pause_after_s=self._pause_after_s,
            look_in_s=live.look_at_s - now_s if live is not None else inf,
            quiet_s=self._quiet_s(now_s),
            freeze_after_s=self._freeze_after_s,
            freeze_blocked_s=max(0.0, live.freeze_blocked_until_s - now_s) if live is not None else 0.0,
            stirred=(live.stirred or self._copies.stirred()) if live is not None else "",
            frozen_s=now_s - live.frozen_at_s if live is not None else 0.0,
            reclaim_after_s=self._around.reclaim_after_s if live is not None and live.can_reclaim else None,
            primary_problem=self._copies.primary_problem if live is not None else "",
            mends=self._copies.mends,
            recovers=self._recovers,
            password_due_in_s=self._password.due_in_s(now_s),
            checkpointed=self._pause.checkpointed,
            counted_sessions=self._pause.counted_sessions,
            stopping_s=self._pause.stopping_s(now_s),
            stop_timeout_s=self._around.stop_timeout_s,
            stop_wish=self._pause.wish,
            delete_asked=self._delete_asked,
            server_stops=self._server_stops,
        )

    def _quiet_s(self, now_s: float) -> float:
        live, readers_s = self._seat.live, self._copies.quiet_since_s()
        if live is None or live.quiet is None or live.quiet.since_s is None or readers_s is None:
            return 0.0
        return now_s - max(live.quiet.since_s, readers_s)

    def _note_operation(self, action: Action) -> None:
        if action in _OPERATIONS:
            name, step = _OPERATIONS[action]
            if self._standing.operation is None or self._standing.operation.step != step:
                self._standing.operation = OperationView(name=name, step=step, since=self._clock.now())
        elif action is Action.REST and self._seat.phase is not Process.STOPPING:
            self._standing.operation = None

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
                self._recovers = False
                await self._resume.start(decision.reason)
            case Action.AWAIT_READY:
                await self._resume.await_ready()
            case Action.FINISH_RESUME:
                await self._resume.finish()
            case Action.LOOK:
                await self._sleep.look()
            case Action.FREEZE:
                await self._sleep.freeze(decision.reason)
            case Action.LISTEN:
                self._seat.held().listen()
            case Action.RECLAIM:
                await self._seat.held().reclaim()
            case Action.THAW:
                self._sleep.thaw(decision.reason)
                await self._resume.reconfigure_if_wanted()
            case Action.GIVE_VERIFIER:
                await self._password.set()
            case Action.BEGIN_PAUSE:
                await self._pause.begin(decision.reason)
            case Action.CANCEL_PAUSE:
                await self._pause.cancel(decision.reason)
            case Action.DROP_PAUSE:
                self._pause.wish = StopWish.NONE
            case Action.CHECKPOINT:
                await self._pause.checkpoint()
            case Action.STOP:
                await self._pause.stop()
            case Action.NOTE_EXIT:
                await self._note_exit()
            case Action.BEGIN_DELETE:
                await self._standing.change_status(Cause.DELETE_ASKED, decision.reason)
                await failpoints.reached("delete.begun")
            case Action.ABORT:
                await self._abort(decision.reason)
            case Action.KILL:
                self._failover.reason = decision.reason
                await self._runner.end_or_kill(self._seat.held())
            case Action.ERASE:
                await self._erase()
            case Action.REST | Action.END:
                raise AssertionError(decision.action)

    async def _take_over(self) -> None:
        """Compare the record with what the host shows, once, at the start."""
        if self.record.status is Status.CREATING:
            return
        if self._failover.is_unfinished:
            # Which copy is the primary is not known before it is known how that ended.
            with suppress(errors.ZoryaError):
                await self._failover.finish()
        found = self._runner.find_running(self.record)
        self._resume_metering(found[0] if found is not None else None)
        if found is None:
            await self._end_followers()
            self._runner.remove_groups(self.record)
            self._standing.note_process(None)
            await self._copies.compare()
            await self._saved.load()
            return
        await self._adopt_followers()
        await self._forget_identities()
        await failpoints.reached("takeover.found")
        live, entrance = found
        self._seat.log_mark = self._runner.log_mark(self.record)
        self._seat.take(live, Process.READY if entrance else Process.STARTING)
        self._standing.note_process(live.process.identity)
        self._sizing.begin(live)
        await self._bring_up_to_date(live)
        if self.record.status is not Status.AVAILABLE or self.record.compute is Compute.PAUSING:
            return
        self._seat.entrance = entrance
        cause = Cause.FOUND_READY if entrance else Cause.FOUND_STARTING
        if entrance:
            await self._sleep.look()  # so that its sessions are known from the beginning
        if self.record.compute is not Compute.RESUMING or entrance:
            await self._standing.change_compute(cause, f"It is process {live.process.pid}.")
        if entrance:
            self._copies.begin(self._resume.source_of(entrance))
        if entrance and self._seat.entrance is entrance:
            # Those who came before it was known that the engine runs.
            self._waiting.settle(entrance)

    async def _end_followers(self) -> None:
        """End what followed a primary that runs no more. What hangs is dealt with at the next start."""
        try:
            await self._copies.end()
        except errors.ZoryaError as error:
            _log.error("a copy's processes are left", cluster=self.name, error=str(error))

    async def _adopt_followers(self) -> None:
        try:
            await self._copies.adopt()
        except errors.ZoryaError as error:
            _log.error("a copy's processes are left", cluster=self.name, error=str(error))

    def _resume_metering(self, live: LiveEngine | None) -> None:
        """Have the meter go on from where an earlier server left it: the engine may have run all the time since."""
        meters, record = self._around.meters, self.record
        went_on = live is not None and live.process.identity == record.process
        self._standing.capacity = meters.last_capacity(record.id) or record.bounds.least
        meters.take_over(
            record.id, self.name, capacity=self._standing.capacity if live is not None else 0.0, went_on=went_on
        )

    async def _bring_up_to_date(self, live: LiveEngine) -> None:
        """Have an engine that an earlier server started do as this one's settings say, as far as it can by now."""
        try:
            await self._runner.reconfigure(self.record, live.process, self._standing.capacity)
        except errors.ZoryaError as error:
            _log.warning("a running engine keeps its configuration", cluster=self.name, error=str(error))

    async def _forget_identities(self) -> None:
        """An engine runs, so there is no file, unless a server died as it removed it; go on without if it stays."""
        try:
            self._saved.forget()
            await self._saved.be_forgotten()
        except errors.StorageProblem as error:
            _log.error("who may log in could not be removed", cluster=self.name, error=str(error))

    # The steps.

    async def _build(self) -> None:
        await failpoints.reached("create.recorded")
        await self._runner.build(self.record)
        await self._copies.build()
        await self._saved.load()
        await failpoints.reached("create.built")
        self._standing.meter()
        await self.measure()
        await self._standing.change_status(Cause.BUILT, "It sleeps until a client connects.")
        await failpoints.reached("create.done")

    async def _bury(self) -> None:
        """Hold nothing any more of an engine that has ended."""
        await self._pause.release()
        await self._seat.clear()
        self._attendance.lose_engine(self._clock.monotonic_s())

    async def _note_exit(self) -> None:
        if self.record.compute is Compute.PAUSING:
            await self._pause.keep_identities()
        await self._bury()
        self._standing.note_process(None)
        match self.record.compute:
            case Compute.RESUMING:
                why = self._runner.explain_exit(self.record, self._seat.ending, self._seat.log_mark)
                if self._failover.may_help():
                    # It stays as it is, and the next start is that of another copy.
                    self._failover.reason = f"The primary does not start: {why}"
                    return
                raise errors.StartFailed(
                    f"The engine of {self.name} did not start. {why}",
                    hint=f"Its log: {self._runner.log_path(self.record)}",
                    client_message=f'the engine of cluster "{self.name}" did not start',
                )
            case Compute.PAUSING:
                self._stops += 1
                self._pause.wish = StopWish.NONE
                await self._copies.come_to_rest()
                await self._standing.change_compute(Cause.EXITED, self.record.reason)
                await self.measure()
                await failpoints.reached("pause.done")
            case _:
                why = self._runner.explain_exit(self.record, self._seat.ending or "an unseen end", self._seat.log_mark)
                _log.error("engine lost", cluster=self.name, why=why)
                self._pause.wish = StopWish.NONE
                await self._copies.hold()
                self._recovers = not self._copies.is_alone
                if self._recovers:
                    self._failover.consider(why)
                await self._standing.change_compute(Cause.EXITED, why)

    async def _abort(self, reason: str) -> None:
        # Whatever it said of its roles: it does not end cleanly, and what was committed last may be undone.
        await self._pause.release()
        in_vain = self._seat.phase is Process.STOPPING and self.record.status is Status.AVAILABLE
        await self._runner.abort(self.record, self._seat.held())
        if in_vain:
            _log.warning("engine stopped by force", cluster=self.name, reason=reason)
            await self._standing.tell(EventKind.STOP_FORCED, f"{reason} It recovers at its next start.")
        await failpoints.reached("delete.stopped")

    async def _erase(self) -> None:
        await self._scrub.give_way()
        await self._bury()
        await self._copies.end()
        await self._runner.erase(self.record)
        self._around.meters.end(self.record.id)
        await failpoints.reached("delete.erased")
        await self._standing.change_status(Cause.ERASED, "")

    async def _failed(self, decision: Decision, error: errors.ZoryaError) -> None:
        self._failure = error
        if decision.action is Action.BUILD:
            _log.error("create failed", cluster=self.name, error=str(error))
            self._waiting.settle(error)
            # What was made goes first: on a full disk that is what lets the catalog be written.
            with suppress(errors.ZoryaError):
                await self._runner.erase(self.record)
            await self._standing.change_status(Cause.BUILD_FAILED, str(error))
        elif self.record.status is Status.AVAILABLE and self.record.compute is Compute.RESUMING:
            self._pause.wish = StopWish.NONE
            await self._resume.fail(error)
        elif decision.action is Action.GIVE_VERIFIER:
            self._password.note_failure(error, self._clock.monotonic_s())
        else:
            await self._retry_later(decision, error)
