"""What one cluster is: its record, and every change of it with the event that tells of it.

Only the cluster's owner and its parts change it. The record in memory is the truth while the server runs; the journal
has it written.
"""

from collections.abc import Callable
from dataclasses import replace

from zorya.control import states
from zorya.control.catalog import NewEvent
from zorya.control.events import EventKind
from zorya.control.journal import Journal
from zorya.control.record import ClusterRecord
from zorya.control.states import Cause
from zorya.control.surroundings import Surroundings
from zorya.control.view import OperationView
from zorya.core import errors, logging
from zorya.core.model import Compute, ProcessIdentity

_log = logging.get("zorya.control")

_COUNTED = frozenset({Compute.RUNNING, Compute.PAUSING})

_AT_ITS_END = frozenset({Compute.STOPPED, Compute.RUNNING, Compute.FROZEN, Compute.FAILED})


class Standing:
    """One cluster's record, as it is now."""

    def __init__(self, record: ClusterRecord, *, revision: int, surroundings: Surroundings) -> None:
        """`revision` is that of the record in the catalog."""
        self.record = record
        self.operation: OperationView | None = None
        """What is being done now."""
        self.journal = Journal(surroundings.catalog, revision=revision, told=surroundings.told)
        self.capacity = record.bounds.least
        """What it has while it runs, in ACUs."""
        self._clock = surroundings.clock
        self._meters = surroundings.meters

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.record.name

    @property
    def capacity_now(self) -> float:
        """What it has, in ACUs; 0 while it is stopped, starts, or is frozen."""
        return self.capacity if self.record.compute in _COUNTED else 0.0

    def set_capacity(self, capacity: float) -> None:
        """Have this capacity while it runs, from now on."""
        self.capacity = capacity
        self.meter()

    def meter(self) -> None:
        """Have what it has now counted from now on."""
        self._meters.set_capacity(self.record.id, self.name, self.capacity_now)

    def note_rest(self, position: int | None) -> None:
        """Have in the record where the volume rests; it is written with the next change."""
        self.record = replace(self.record, volume=replace(self.record.volume, rest=position))

    def note_process(self, process: ProcessIdentity | None) -> None:
        """Have the engine's process in the record; it is written with the next change."""
        self.record = replace(self.record, process=process)

    def apply_compute(self, cause: Cause, reason: str) -> NewEvent | None:
        """Change the compute state in memory. Answer the event that is to be saved with it."""
        target, kind = states.change_of_compute(self.record.compute, cause)
        self.record = replace(self.record, compute=target, reason=reason)
        self.meter()
        if target in _AT_ITS_END:
            self.operation = None
        _log.info("compute", cluster=self.name, state=target.value, reason=reason)
        return self._event(kind, reason)

    async def change_compute(self, cause: Cause, reason: str) -> None:
        """Change the compute state; it is written on return."""
        await self.save(self.apply_compute(cause, reason))

    async def change_status(self, cause: Cause, reason: str) -> None:
        """Change the status; it is written on return. Raises DiskFull and HomeUnusable, and then it is not changed."""
        before = self.record
        target, kind = states.change_of_status(before.status, cause)
        self.record = replace(before, status=target, reason=reason or before.reason)
        self.operation = None
        try:
            await self.save(self._event(kind, reason))
        except errors.ZoryaError:
            # Not written, not so: the step is repeated, and a deleted cluster must not come back at the next start.
            self.record = before
            raise
        _log.info("status", cluster=self.name, state=target.value, reason=reason)

    async def edit(
        self,
        change: Callable[[ClusterRecord], ClusterRecord],
        kind: EventKind | None,
        describe: Callable[[ClusterRecord, ClusterRecord], str],
    ) -> None:
        """Change what a user may choose; it is written on return, with an event that says what `describe` answers.

        Nothing happens where `change` changes nothing. Raises DiskFull and HomeUnusable, and then nothing is changed.
        """
        before, after = self.record, change(self.record)
        if after == before:
            return
        reason = describe(before, after)
        self.record = after
        try:
            await self.journal.save_or_raise(after, self._event(kind, reason))
        except errors.ZoryaError:
            self.record = before
            raise
        _log.info("changed", cluster=self.name, what=reason)

    async def save(self, event: NewEvent | None) -> None:
        """Write the record as it is with an event; see Journal.save."""
        await self.journal.save(self.record, event)

    def save_later(self, event: NewEvent | None) -> None:
        """Have the record as it is written soon; see Journal.save_later."""
        self.journal.save_later(self.record, event)

    async def tell(self, kind: EventKind, reason: str) -> None:
        """Write an event that is not a change of the record."""
        await self.journal.tell(self.event(kind, reason))

    def tell_later(self, kind: EventKind, reason: str) -> None:
        """Have an event written soon that is not a change of the record."""
        self.journal.tell_later(self.event(kind, reason))

    def event(self, kind: EventKind, reason: str) -> NewEvent:
        """Answer an event of now."""
        return NewEvent(at=self._clock.now(), cluster=self.name, kind=kind, reason=reason)

    def _event(self, kind: EventKind | None, reason: str) -> NewEvent | None:
        return self.event(kind, reason) if kind is not None else None
