import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from zorya.control import catalog as catalogs
from zorya.control.catalog import Catalog, NewEvent
from zorya.control.events import EventKind
from zorya.control.record import ClusterRecord, from_json, to_json
from zorya.core import errors
from zorya.core.model import Access, Compute, EngineKind, Mode, ProcessIdentity, Secret, Status, WakeOn
from zorya.storage import placement

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RECORD = ClusterRecord(
    id="abcdefgh",
    name="main",
    port=7400,
    engine=EngineKind.POSTGRES,
    engine_major="15",
    mode=Mode.SERVERLESS,
    status=Status.CREATING,
    compute=Compute.STOPPED,
    reason="It is being created.",
    min_capacity=0.5,
    max_capacity=4,
    fixed_capacity=2,
    pause_after_s=None,
    freeze_after_s=0.5,
    username="zorya",
    password=Secret("s3cret"),
    next_password=Secret("n3xt"),
    access=Access(allow=("10.0.0.0/8",), require_tls=True, wake_on=WakeOn.ANY, max_clients=7),
    database="main",
    created_at=NOW,
    process=ProcessIdentity(pid=1, start_ticks=2, boot_id="b"),
    volume=placement.new_volume(6, lambda zone: Path("zones", zone, "abcdefgh")),
    reader_port=7401,
)


def event(kind: EventKind, at: datetime = NOW) -> NewEvent:
    return NewEvent(at=at, cluster="main", kind=kind, reason="Because.")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    with closing(Catalog.open(path)) as opened:
        yield opened


def test_record_survives_its_json_form() -> None:
    assert from_json(to_json(RECORD)) == RECORD
    without = replace(RECORD, next_password=None, process=None, access=Access())
    assert from_json(to_json(without)) == without
    assert "s3cret" not in repr(RECORD)
    assert "n3xt" not in repr(RECORD)


async def test_record_and_event_are_there_when_the_file_is_opened_again(path: Path) -> None:
    with closing(Catalog.open(path)) as first:
        revision = await first.insert(RECORD)
        changed = replace(RECORD, status=Status.AVAILABLE)
        revision = await first.replace(changed, revision=revision, events=[event(EventKind.CREATED)])
    with closing(Catalog.open(path)) as second:
        assert await second.load() == [(changed, revision)]
        (found,) = await second.events("main", after=0, limit=10, sleep=True)
        assert (found.kind, found.at) == ("ZORYA-EVENT-0170", NOW)
        assert found.message.endswith("Because.")
    assert path.stat().st_mode & 0o777 == 0o600


async def test_replace_is_refused_at_another_revision_and_writes_nothing(catalog: Catalog) -> None:
    revision = await catalog.insert(RECORD)
    await catalog.replace(RECORD, revision=revision, events=[])
    with pytest.raises(errors.RevisionConflict):
        await catalog.replace(replace(RECORD, reason="x"), revision=revision, events=[event(EventKind.CREATED)])
    assert await catalog.load() == [(RECORD, revision + 1)]
    assert await catalog.events(None, after=0, limit=10, sleep=True) == []


async def test_name_and_port_belong_to_one_cluster(catalog: Catalog) -> None:
    await catalog.insert(RECORD)
    with pytest.raises(errors.NameTaken):
        await catalog.insert(replace(RECORD, id="b", port=7401))
    with pytest.raises(errors.PortInUse):
        await catalog.insert(replace(RECORD, id="b", name="other"))


async def test_deleted_record_goes_and_its_events_stay(catalog: Catalog) -> None:
    revision = await catalog.insert(RECORD)
    await catalog.replace(replace(RECORD, status=Status.DELETED), revision=revision, events=[event(EventKind.DELETED)])
    assert await catalog.load() == []
    assert len(await catalog.events("main", after=0, limit=10, sleep=True)) == 1


async def test_events_are_in_the_order_in_which_they_were_written_when_the_clock_jumps_back(catalog: Catalog) -> None:
    for hours in (0, -1, 2, -3):
        await catalog.add_event(event(EventKind.PAUSED, NOW + timedelta(hours=hours)))
    found = await catalog.events(None, after=0, limit=10, sleep=True)
    assert [one.at for one in found] == [NOW + timedelta(hours=hours) for hours in (0, -1, 2, -3)]
    assert [one.seq for one in found] == sorted(one.seq for one in found)
    newest = await catalog.events(None, after=found[1].seq, limit=1, sleep=True)
    assert newest == found[-1:]


async def test_old_events_are_pruned_and_their_numbers_not_given_again(catalog: Catalog) -> None:
    await catalog.add_event(event(EventKind.PAUSED, NOW - timedelta(days=15)))
    await catalog.prune_events(before=NOW - timedelta(days=14))
    await catalog.add_event(event(EventKind.RESUMED))
    (found,) = await catalog.events(None, after=0, limit=10, sleep=True)
    assert found.seq == 2


async def test_write_is_finished_when_its_caller_is_cancelled(catalog: Catalog) -> None:
    task = asyncio.create_task(catalog.insert(RECORD))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record for record, _ in await catalog.load()] == [RECORD]


def test_file_of_a_newer_version_is_refused_and_unchanged(path: Path) -> None:
    Catalog.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {catalogs.FORMAT + 1}")
    before = path.read_bytes()
    with pytest.raises(errors.HomeTooNew, match="newer Zorya"):
        Catalog.open(path)
    assert path.read_bytes() == before


def test_file_that_is_no_catalog_is_refused_and_unchanged(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(errors.HomeUnusable, match="backup"):
        Catalog.open(path)
    assert path.read_bytes() == b"not a database at all" * 100


async def test_record_that_cannot_be_read_is_told(path: Path) -> None:
    with closing(Catalog.open(path)) as opened:
        await opened.insert(RECORD)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE clusters SET record = '{\"half\": '")
    with closing(Catalog.open(path)) as opened, pytest.raises(errors.HomeUnusable, match="cannot be read"):
        await opened.load()


async def test_file_of_the_first_format_is_brought_up_to_date(path: Path) -> None:
    with closing(Catalog.open(path)) as opened:
        await opened.insert(RECORD)
        await opened.add_event(event(EventKind.CREATED))
    with closing(sqlite3.connect(path)) as connection, connection:
        removed = "'$.freeze_after_s', '$.next_password', '$.access', '$.fixed_capacity', '$.volume', '$.reader_port'"
        connection.execute(f"UPDATE clusters SET record = json_remove(record, {removed})")
        connection.execute("PRAGMA user_version = 1")
    rules = Access(allow=("0.0.0.0/0", "::/0"))
    upgraded = replace(
        RECORD,
        freeze_after_s=10.0,
        next_password=None,
        access=rules,
        fixed_capacity=None,
        volume=placement.new_volume(1, lambda _zone: Path("clusters", RECORD.id)),
        reader_port=None,
    )
    with closing(Catalog.open(path)) as opened:
        assert await opened.load() == [(upgraded, 1)]
        assert len(await opened.events(None, after=0, limit=10, sleep=True)) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (catalogs.FORMAT,)


async def test_only_the_newest_freezes_thaws_and_changes_of_capacity_are_kept(catalog: Catalog) -> None:
    await catalog.add_event(event(EventKind.RESUMED))
    for _ in range(5):
        await catalog.add_event(event(EventKind.FROZEN))
        await catalog.add_event(event(EventKind.THAWED))
        await catalog.add_event(event(EventKind.SCALED))
    await catalog.add_event(replace(event(EventKind.FROZEN), cluster="other"))
    await catalog.thin_out(keep=20)
    assert len(await catalog.events("main", after=0, limit=100, sleep=True)) == 16
    await catalog.thin_out(keep=3)
    kept = [one.kind for one in await catalog.events("main", after=0, limit=100, sleep=True)]
    assert kept.count("ZORYA-EVENT-0142") == 3
    of_sleep = [one for one in kept if one != "ZORYA-EVENT-0142"]
    assert of_sleep == ["ZORYA-EVENT-0148", "ZORYA-EVENT-1009", "ZORYA-EVENT-1008", "ZORYA-EVENT-1009"]
    assert len(await catalog.events("other", after=0, limit=100, sleep=True)) == 1


async def test_freezes_and_thaws_are_left_out_and_do_not_count_when_they_are_not_asked_for(catalog: Catalog) -> None:
    kinds = [EventKind.RESUMED, EventKind.FROZEN, EventKind.PAUSING, EventKind.THAWED, EventKind.FROZEN]
    for kind in kinds:
        await catalog.add_event(event(kind))
    found = await catalog.events(None, after=0, limit=2, sleep=False)
    assert [one.kind for one in found] == [EventKind.RESUMED.id, EventKind.PAUSING.id]
    assert await catalog.events("main", after=found[-1].seq, limit=2, sleep=False) == []
    every = await catalog.events("main", after=0, limit=10, sleep=True)
    assert [(one.kind, one.category) for one in every] == [(kind.id, kind.category) for kind in kinds]


async def test_freezes_are_left_out_when_they_were_written_before_they_had_a_category(path: Path) -> None:
    with closing(Catalog.open(path)) as opened:
        await opened.add_event(event(EventKind.FROZEN))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE events SET category = 'notification'")
    with closing(Catalog.open(path)) as opened:
        assert await opened.events(None, after=0, limit=10, sleep=False) == []
