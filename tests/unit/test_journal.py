"""What is written when, with a real catalog, and with one whose disk is full."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from unit.test_modifications import RECORD
from zorya.control.catalog import Catalog, NewEvent
from zorya.control.events import EventKind
from zorya.control.journal import Journal
from zorya.control.record import ClusterRecord
from zorya.core import errors


class FullCatalog(Catalog):
    """A catalog whose disk can be full."""

    is_full = False

    async def replace(self, record: ClusterRecord, *, revision: int, events: Sequence[NewEvent]) -> int:
        if self.is_full:
            raise errors.DiskFull("No space.")
        return await super().replace(record, revision=revision, events=events)


def event(kind: EventKind) -> NewEvent:
    return NewEvent(at=datetime(2026, 3, 1, 12, tzinfo=UTC), cluster="main", kind=kind, reason="")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[FullCatalog]:
    with closing(FullCatalog.open(tmp_path / "catalog.db")) as opened:
        yield opened


@pytest.fixture
def told() -> asyncio.Queue[None]:
    """Has one item for each writing of events."""
    return asyncio.Queue()


@pytest.fixture
async def journal(catalog: FullCatalog, told: asyncio.Queue[None]) -> Journal:
    await catalog.insert(RECORD)
    return Journal(catalog, revision=1, told=lambda: told.put_nowait(None))


async def kinds(catalog: Catalog) -> list[str]:
    return [one.kind for one in await catalog.events("main", after=0, limit=100, sleep=True)]


async def written(catalog: Catalog) -> ClusterRecord:
    ((record, _),) = await catalog.load()
    return record


async def test_what_has_to_be_written_is_not_so_when_the_disk_is_full(catalog: FullCatalog, journal: Journal) -> None:
    journal.save_later(replace(RECORD, reason="Frozen."), event(EventKind.FROZEN))
    catalog.is_full = True
    with pytest.raises(errors.DiskFull):
        await journal.save_or_raise(replace(RECORD, reason="Changed."), event(EventKind.MODIFIED))
    catalog.is_full = False
    await journal.flush()
    assert (await written(catalog)).reason == "Frozen."
    assert await kinds(catalog) == [EventKind.FROZEN.id]


async def test_what_was_due_is_written_before_what_has_to_be(catalog: FullCatalog, journal: Journal) -> None:
    journal.save_later(replace(RECORD, reason="Frozen."), event(EventKind.FROZEN))
    await journal.save_or_raise(replace(RECORD, reason="Changed."), event(EventKind.MODIFIED))
    await journal.flush()
    assert (await written(catalog)).reason == "Changed."
    assert await kinds(catalog) == [EventKind.FROZEN.id, EventKind.MODIFIED.id]


async def test_an_event_for_later_is_written_soon_and_once(
    catalog: FullCatalog, journal: Journal, told: asyncio.Queue[None]
) -> None:
    writer = asyncio.create_task(journal.run())
    journal.tell_later(event(EventKind.LOGINS_FAILED))
    await asyncio.wait_for(told.get(), 30)
    assert await kinds(catalog) == [EventKind.LOGINS_FAILED.id]
    journal.save_later(replace(RECORD, reason="Thawed."), event(EventKind.THAWED))
    journal.tell_later(event(EventKind.LOGINS_FAILED))
    for _ in range(2):
        await asyncio.wait_for(told.get(), 30)
    writer.cancel()
    await asyncio.wait({writer})
    await journal.flush()
    assert told.empty()
    assert (await written(catalog)).reason == "Thawed."
    assert sorted(await kinds(catalog)) == [EventKind.THAWED.id, *[EventKind.LOGINS_FAILED.id] * 2]
