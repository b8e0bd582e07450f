"""One cluster's writes to the catalog: its record with the events that tell of the changes, in their order.

A change may be written before its step goes on (`save`), or soon, by nobody who is waited for (`save_later`).
"""

import asyncio
from collections.abc import Callable

from zorya.control.catalog import Catalog, NewEvent
from zorya.control.record import ClusterRecord
from zorya.core import errors, logging
from zorya.core.model import Status

_log = logging.get("zorya.control")


class Journal:
    """Writes for one owner."""

    def __init__(self, catalog: Catalog, *, revision: int, told: Callable[[], None]) -> None:
        """`revision` is that of the record as it is in the catalog; `told` is called after events were written."""
        self._catalog = catalog
        self._revision = revision
        self._told = told
        self._writing = asyncio.Lock()
        self._due = asyncio.Event()
        self._record: ClusterRecord | None = None
        self._events: list[NewEvent] = []
        self._loose: list[NewEvent] = []

    async def save(self, record: ClusterRecord, event: NewEvent | None) -> None:
        """Write the record and the event, after those that are still due. Durable on return.

        A database that runs is not stopped because the catalog's disk is full: the failure is logged, and the next
        change writes the whole record again. What is on the host meanwhile is found again by looking at the host. Of a
        cluster that is being made or removed the failure is raised: DiskFull, HomeUnusable. Always: RevisionConflict.
        """
        async with self._writing:
            self._events += [event] if event else []
            await self._write(record)

    async def save_or_raise(self, record: ClusterRecord, event: NewEvent | None) -> None:
        """Write the record and the event, after those that are still due. Durable on return.

        Raises DiskFull, HomeUnusable, RevisionConflict; then neither is written, and what was due still is.
        """
        async with self._writing:
            due, self._record = self._record, None
            events, self._events = self._events, []
            try:
                told = [*events, *([event] if event else [])]
                self._revision = await self._catalog.replace(record, revision=self._revision, events=told)
            except errors.ZoryaError:
                self._put_back(due)
                self._events = [*events, *self._events]
                raise
            self._note_what_is_due()
        self._told()

    def save_later(self, record: ClusterRecord, event: NewEvent | None) -> None:
        """Have the record and the event written soon; a record that is saved meanwhile takes the event with it."""
        self._record = record
        self._events += [event] if event else []
        self._due.set()

    def tell_later(self, event: NewEvent) -> None:
        """Have an event written soon that is not a change of the record."""
        self._loose.append(event)
        self._due.set()

    async def run(self) -> None:
        """Write what is due until cancelled."""
        while True:
            await self._due.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write what is due now, if anything is. A failure is logged."""
        loose, self._loose = self._loose, []
        for event in loose:
            await self.tell(event)
        async with self._writing:
            record = self._record
            if record is None:
                self._note_what_is_due()
                return
            try:
                await self._write(record)
            except errors.ZoryaError as error:
                _log.error("the record could not be written", cluster=record.name, error=str(error))

    async def _write(self, record: ClusterRecord) -> None:
        self._record = None
        self._note_what_is_due()
        events, self._events = self._events, []
        try:
            self._revision = await self._catalog.replace(record, revision=self._revision, events=events)
        except (errors.DiskFull, errors.HomeUnusable) as error:
            if record.status is not Status.AVAILABLE:
                raise
            _log.error("the catalog could not be written", cluster=record.name, error=str(error))
        else:
            self._told()

    def _put_back(self, due: ClusterRecord | None) -> None:
        """Have a record that could not be written due again, unless a newer one is meanwhile."""
        if self._record is None:
            self._record = due

    def _note_what_is_due(self) -> None:
        if self._record is None and not self._loose:
            self._due.clear()

    async def tell(self, event: NewEvent) -> None:
        """Write an event that is not a change of the record; if that fails, it is logged: no work depends on it."""
        try:
            await self._catalog.add_event(event)
        except (errors.DiskFull, errors.HomeUnusable) as error:
            _log.error("the catalog could not be written", cluster=event.cluster, error=str(error))
        else:
            self._told()
