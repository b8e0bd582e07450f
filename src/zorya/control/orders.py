"""What is asked of one cluster: what it shows, and wishes that are noted, and waited for until they are carried out.

`cluster.ClusterOwner` carries them out.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from zorya.control import modify, passwords
from zorya.control.autoscaler import Autoscaler
from zorya.control.edits import Edits
from zorya.control.endpoint import ClusterEndpoint
from zorya.control.events import EventKind
from zorya.control.failover import Failover
from zorya.control.lifecycle import StopWish
from zorya.control.passwords import PasswordChange
from zorya.control.record import ClusterRecord
from zorya.control.resume import Resume
from zorya.control.scrub import Scrub
from zorya.control.sizing import Sizing
from zorya.control.sleep import Sleep
from zorya.control.surroundings import Surroundings
from zorya.control.view import (
    CopyView,
    LoadView,
    ModifyRequest,
    OperationView,
    ScalingView,
    VerifyView,
    VolumeView,
)
from zorya.core import errors, failpoints, logging
from zorya.core.model import Compute, Entrance, Handoff, Status
from zorya.core.volume import Copy, CopyState
from zorya.storage import placement, quorum

_log = logging.get("zorya.control")

PAUSE_ATTEMPTS = 3
"""How often a pause by hand is tried that somebody is in the way of who is just leaving."""

LEAVING_S = 2.0
"""How long a session may take to end after its client has left, before a pause by hand is refused for it."""

SETTLING_S = 5.0
"""How long a pause by hand waits for the engine to say whether there is a session."""


class ClusterOrders(ClusterEndpoint):
    """What an owner can be asked for beside what the gateway asks."""

    def __init__(
        self, record: ClusterRecord, *, revision: int, surroundings: Surroundings, autoscaler: Autoscaler
    ) -> None:
        """Own the cluster of this record; `run` does the work."""
        super().__init__(record, revision=revision, surroundings=surroundings)
        self.endpoint_problem = ""
        self.reader_problem = ""
        self._autoscaler = autoscaler
        self._sizing = Sizing(surroundings, standing=self._standing, seat=self._seat, changed=self._changed.set)
        self._failover = Failover(surroundings, standing=self._standing, seat=self._seat, copies=self._copies)
        self._scrub = Scrub(
            surroundings,
            standing=self._standing,
            seat=self._seat,
            copies=self._copies,
            failover=self._failover,
        )
        self._resume = Resume(
            surroundings,
            standing=self._standing,
            seat=self._seat,
            attendance=self._attendance,
            waiting=self._waiting,
            saved=self._saved,
            sizing=self._sizing,
            copies=self._copies,
            failover=self._failover,
            scrub=self._scrub,
        )
        self._sleep = Sleep(
            surroundings,
            standing=self._standing,
            seat=self._seat,
            attendance=self._attendance,
            waiting=self._waiting,
            login_failed=self.login_failed,
            changed=self._changed.set,
            copies=self._copies,
        )
        self._password = PasswordChange(self._runner, self._standing)
        self._edits = Edits(self._standing, changed=self._changed.set)
        # Who is to be told.
        self._settled = asyncio.Condition()
        self._taken_over = asyncio.Event()
        self._failure: errors.ZoryaError | None = None
        self._retries = False
        self._stops = 0
        self._is_resized = False

    # What the volume is.

    @property
    def volume(self) -> VolumeView:
        """The volume as it is now."""
        volume = self.record.volume
        health, reason = self._copies.health
        return VolumeView(
            copies=len(volume.copies),
            current=self._copies.current,
            needed=quorum.rule(len(volume.established)).write,
            health=health.value,
            reason=reason,
            epoch=volume.epoch.number,
            primary=volume.primary,
        )

    @property
    def copies(self) -> Sequence[CopyView]:
        """The copies as they were seen last, by name."""
        volume = self.record.volume
        return [
            self._primary_view(one) if one.name == volume.primary else self._copies.view(one)
            for one in sorted(volume.copies, key=lambda one: one.name)
        ]

    def _primary_view(self, copy: Copy) -> CopyView:
        rest = self._copies.rest
        position = rest.position if rest is not None else self._copies.flushed or None
        return CopyView(
            name=copy.name,
            zone=copy.zone,
            kind=copy.kind,
            is_primary=True,
            state=CopyState.CURRENT,
            reason="",
            position=position,
            lag_bytes=0,
            lag_s=0.0,
            progress=None,
            verified_at=self._copies.primary_verified_at,
            folder=str(self._runner.folders(self.record, copy).root),
        )

    def reader_entrance(self, max_lag_s: float, turn: int) -> Entrance | None:
        """Answer how to get into one of the copies that serve those who only read; see Copies.reader_entrance."""
        if self._seat.entrance is None or self.record.compute is not Compute.RUNNING:
            return None
        return self._copies.reader_entrance(max_lag_s, turn)

    # What the fleet asks.

    @property
    def pid(self) -> int | None:
        """The engine's first process, if it runs."""
        return self._seat.live.process.pid if self._seat.live is not None else None

    @property
    def handoff(self) -> Handoff:
        """Whether clients can be handed over to the engine, or to the next that is started."""
        return self._seat.entrance.handoff if self._seat.entrance else self._runner.expected_handoff(self.record)

    @property
    def resident_bytes(self) -> int | None:
        """The memory that the engine occupies; None when it does not run."""
        return self._seat.live.group.resident_bytes() if self._seat.live is not None else None

    @property
    def capacity(self) -> float:
        """What it has now, in ACUs; 0 while it does not run or is frozen."""
        return self._standing.capacity_now

    @property
    def load(self) -> LoadView | None:
        """What it used last; None while it does not run."""
        return self._sizing.load

    @property
    def last_scaling(self) -> ScalingView | None:
        """The last change of its capacity since the engine started, or was found."""
        return self._sizing.last

    @property
    def awake_reason(self) -> str:
        """What keeps a running cluster from freezing, as a sentence; empty when nothing does, or it does not run."""
        if self.record.compute is not Compute.RUNNING or self._freeze_after_s is None or self._seat.live is None:
            return ""
        busy = self._seat.live.quiet.busy if self._seat.live.quiet is not None else ""
        return busy or self._seat.live.freeze_problem

    @property
    def operation(self) -> OperationView | None:
        """What is being done now."""
        return self._standing.operation

    @property
    def pauses_in_s(self) -> float | None:
        """Seconds until the pause begins if nobody connects."""
        after = self._pause_after_s
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
        if self.record.is_provisioned:
            raise errors.Conflict(
                f"Cluster {self.name} is provisioned: it always runs.",
                hint=f"`zorya modify {self.name} --serverless` makes one of it that pauses.",
            )
        for _ in range(PAUSE_ATTEMPTS):
            if not force and not await self._becomes_unused():
                raise self._busy()
            arrivals = self._attendance.arrivals
            if await self._has_paused(StopWish.NOW if force else StopWish.WHEN_UNUSED):
                return
            if self.sessions and self._attendance.arrivals != arrivals:
                break
            # The one in whose way it was has left, or was there before and is just leaving.
        raise self._busy()

    async def _has_paused(self, wish: StopWish) -> bool:
        """Have the engine stopped if it may be; answer whether it is."""
        if self._is_down():
            return True
        if self._seat.live is not None:
            self._seat.live.look_soon()
        stops = self._stops
        self._pause.wish = wish
        self._changed.set()
        await self._until(lambda: self._pause.wish is StopWish.NONE)
        return self._stops != stops or self._is_down()

    async def _becomes_unused(self) -> bool:
        """Whether there is no session, or none any more in a moment: one whose client has just left takes its time."""
        began_s = self._clock.monotonic_s()
        while self.sessions or self._attendance.is_unsettled(self._clock.monotonic_s()):
            # Where it is only not known yet whether one is left, the engine is to say so: that none is, is no refusal.
            if self._clock.monotonic_s() - began_s > (LEAVING_S if self.sessions else SETTLING_S):
                return False
            await asyncio.sleep(0.01)
        return True

    def _is_down(self) -> bool:
        return self.record.compute in {Compute.STOPPED, Compute.FAILED}

    def _busy(self) -> errors.ClusterBusy:
        sessions = self.sessions or self._pause.counted_sessions
        if not sessions:
            return errors.ClusterBusy(
                f"Clients of cluster {self.name} come and go.", hint="Try again, or use --force to end their sessions."
            )
        return errors.ClusterBusy(
            f"Cluster {self.name} has {sessions} open session{'' if sessions == 1 else 's'}.",
            hint="Close them, or use --force to end them.",
        )

    async def modify(self, request: ModifyRequest) -> None:
        """Change what a user may choose; see facade.Clusters.modify. The request must be a checked one."""
        required_tls = self.record.access.require_tls
        await self._edit(lambda record: modify.apply(record, request), EventKind.MODIFIED, modify.describe)
        self._changed.set()
        if self.record.access.require_tls != required_tls:
            # An engine that greets its clients before the gateway has heard them is the one to see to it.
            await self._have_engine_know()
        await self._autoscaler.settle()

    async def _have_engine_know(self) -> None:
        """Have the engine given the present rules, and wait for it also where it is thawed for that, or starts."""
        await self._resume.reconfigure()
        if self._resume.is_reload_due:
            await self._until(lambda: not self._resume.is_reload_due or self._ends)
            if self._resume.reload_failure is not None:
                raise self._resume.reload_failure

    async def resize(self, copies: int, folder_of: Callable[[str], Path], reader_port: int | None) -> None:
        """Give the volume another number of copies; those that it lacks are made while it serves.

        Raises InvalidInput, Conflict, DiskFull, HomeUnusable, StartFailed.
        """
        if copies == len(self.record.volume.copies):
            return
        # A visitor: so it neither pauses nor freezes before they are being made.
        self.enter()
        try:
            await self.wake()
            if 1 < copies < len(self.record.volume.copies) and not await self._copies.agree():
                raise errors.Conflict(
                    f"Cluster {self.name} has copies that lack something.",
                    hint=f"`zorya copies {self.name}` shows them; try again when all are current.",
                )
            await self._edit(
                lambda record: _resized(record, copies, folder_of, reader_port), EventKind.MODIFIED, _describe_resize
            )
            self._is_resized = True
            self._changed.set()
            await self._until(lambda: not self._is_resized or self._ends)
        finally:
            self.leave()

    async def verify(self) -> VerifyView:
        """See facade.Clusters.verify. A frozen cluster is thawed for it."""
        if self.record.compute is not Compute.FROZEN:
            return await self._scrub.verify()
        self.enter()
        try:
            await self.wake()
            return await self._scrub.verify()
        finally:
            self.leave()

    @property
    def verification_due_s(self) -> float | None:
        """How long ago the copy was verified that has waited longest; None where a verification would be in the way.

        Of a cluster that sleeps without a session those that follow are looked at; its primary, once it is stopped.
        """
        compute = self.record.compute
        is_idle = compute is Compute.STOPPED or (compute is Compute.FROZEN and not self.sessions)
        if self.record.status is not Status.AVAILABLE or not is_idle:
            return None
        times = [one.verified_at for one in self.copies if compute is Compute.STOPPED or not one.is_primary]
        if self._copies.is_alone or self._scrub.is_under_way:
            return None
        now = self._clock.now()
        return max((now - (at or self.record.created_at)).total_seconds() for at in times)

    async def recover(self, *, accept_data_loss: bool) -> None:
        """See facade.Clusters.recover."""
        await self._check_refused()
        if not accept_data_loss:
            raise errors.InvalidInput(
                f"Cluster {self.name} would go on from what is left, and may lack what was committed last.",
                hint="Bring back the missing copies, or use --accept-data-loss.",
            )
        self._failover.accepts_loss = True
        self._failover.reason = "It was told to go on from what is left."
        self.enter()
        try:
            await self.wake()
        finally:
            self.leave()
        await self._standing.tell(EventKind.DATA_LOSS_ACCEPTED, "Commits may be missing.")

    async def _check_refused(self) -> None:
        """Raise Conflict where the cluster starts, or fails to for another reason than too few copies."""
        if not self._failover.is_refused:
            self.enter()
            try:
                with suppress(errors.StartFailed):
                    await self.wake()
            finally:
                self.leave()
        if not self._failover.is_refused:
            raise errors.Conflict(
                f"Cluster {self.name} has enough copies to know what was committed.",
                hint=f"`zorya show {self.name}` says how it is.",
            )

    async def set_capacity(self, capacity: float) -> None:
        """Give it this capacity now; see facade.Clusters.set_capacity."""
        if self.record.is_provisioned:
            await self.modify(modify.only(fixed_capacity=capacity))
            return
        bounds = self.record.bounds
        if not bounds.least <= capacity <= bounds.most:
            raise errors.InvalidInput(
                f"Cluster {self.name} has between {bounds.least:g} and {bounds.most:g} ACUs.",
                hint=f"`zorya scale {self.name}` changes that.",
            )
        if self.record.compute not in {Compute.RUNNING, Compute.FROZEN}:
            raise errors.NotReady(
                f"Cluster {self.name} does not run, so it has no capacity.",
                hint=f"`zorya resume {self.name}` starts it.",
            )
        # A visitor: so it does not freeze before it has it.
        self.enter()
        try:
            await self.wake()
            self._autoscaler.add(self.record.id, self._sizing)
            self._sizing.choose_by_hand(capacity)
            await self._autoscaler.settle()
            if self._sizing.refusal is not None:
                raise self._sizing.refusal
        finally:
            self.leave()

    async def measure(self) -> None:
        """Have the meter know how large the cluster's files are. What cannot be looked at is left as it was."""
        try:
            size = await self._runner.storage_bytes(self.record)
        except OSError as error:
            _log.warning("the size of the files is not known", cluster=self.name, error=str(error))
            return
        self._around.meters.set_storage(self.record.id, self.name, size)

    async def change_password(self) -> None:
        """Have the engine take a new password, and wait until it has; see facade.Clusters.change_password."""
        await self._edit(passwords.choose, None, lambda _before, _after: "A new password is chosen.")
        await failpoints.reached("password.recorded")
        failures = self._password.failures
        self._password.try_soon()
        self._changed.set()
        # A visitor: so it does not pause or freeze before it has it.
        self.enter()
        try:
            await self.wake()
            await self._until(lambda: self._is_password_settled(failures))
        except (errors.EngineProblem, errors.HostProblem) as error:
            raise passwords.goes_on(error) from error
        finally:
            self.leave()
        if self._ends:
            raise self._refusal()
        if self._password.failures != failures and self._password.problem is not None:
            raise passwords.goes_on(self._password.problem)
        if self._password.is_under_way:
            raise passwords.goes_on(errors.NotReady("The engine was stopped."))

    def _is_password_settled(self, failures: int) -> bool:
        is_out_of_reach = self._ends or self.record.compute is not Compute.RUNNING
        return is_out_of_reach or not self._password.is_under_way or self._password.failures != failures

    async def _edit(
        self,
        change: Callable[[ClusterRecord], ClusterRecord],
        kind: EventKind | None,
        describe: Callable[[ClusterRecord, ClusterRecord], str],
    ) -> None:
        if self._ends:
            raise self._refusal()
        await self._edits.ask(change, kind=kind, describe=describe)

    async def renew_tls(self) -> None:
        """Give the engine the present certificate; see Resume.reconfigure."""
        await self._resume.reconfigure()

    async def bound_log(self) -> None:
        """Have an engine that runs keep no more log than it has to. Raises NotReady, EngineProblem."""
        live = self._seat.live
        if live is None:
            return
        async with live.telling:
            # One that is frozen writes none, and would be thawed by the question.
            if self.record.compute is Compute.RUNNING and live.process.alive:
                await self._runner.keep_engine_log_bounded(self.record)

    async def tell(self, kind: EventKind, reason: str) -> None:
        """Write an event that is not a change of state."""
        await self._standing.tell(kind, reason)

    async def delete(self) -> None:
        """Remove the cluster and wait until it is gone."""
        self._delete_asked = True
        self._seat.entrance = None
        self._waiting.settle(self._refusal())
        self._changed.set()
        await self._until(lambda: self.record.status is Status.DELETED)

    async def put_to_sleep(self) -> None:
        """Stop the engine for good, as the server stops, and wait until it has stopped. Ends sessions."""
        self._server_stops = True
        self._pause.wish = StopWish.NOW
        self._waiting.settle(self._refusal())
        self._changed.set()
        await self._until(
            lambda: self._seat.live is None and (self._is_down() or self.record.status is not Status.AVAILABLE)
        )

    async def let_go(self) -> None:
        """Leave the engine running, as when the server is ended by force. Nobody watches its sessions: it is thawed."""
        await self._pause.release()
        await self._scrub.give_way()
        await self._copies.let_go()
        await self._seat.let_go()
        await self._standing.journal.flush()

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with self._settled:
            await self._settled.wait_for(reached)

    @property
    def _pause_after_s(self) -> int | None:
        return None if self.record.is_provisioned else self.record.pause_after_s

    @property
    def _freeze_after_s(self) -> float | None:
        return None if self.record.is_provisioned else self.record.freeze_after_s


def _resized(
    record: ClusterRecord, copies: int, folder_of: Callable[[str], Path], reader_port: int | None
) -> ClusterRecord:
    """Answer the record with so many copies. Raises Conflict where the primary is not in the first zone."""
    try:
        volume = placement.resize(record.volume, copies, folder_of)
    except ValueError as error:
        raise errors.Conflict(f"{record.name} cannot have {copies} copies now: {error}.") from error
    return replace(record, volume=volume, reader_port=reader_port if copies > 1 else None)


def _describe_resize(before: ClusterRecord, after: ClusterRecord) -> str:
    return f"Its volume has {len(after.volume.copies)} copies, and had {len(before.volume.copies)}."
