"""The meters with a clock that the test turns: what counts, in which hour, and what no end of a server changes."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from metering.clocks import TurnedClock
from waiting import wait_until
from zorya.core import errors
from zorya.metering.meters import Meters
from zorya.metering.record import UsageRecord

START = datetime(2026, 11, 25, 8, 50, tzinfo=UTC)
GIB = 2**30
EVER = {"since": START - timedelta(days=9999), "until": START + timedelta(days=9999)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock(wall=START)


def opened(path: Path, clock: TurnedClock, boot_id: str = "a") -> closing[Meters]:
    return closing(Meters.open(path, clock, boot_id=boot_id))


@asynccontextmanager
async def running(meters: Meters) -> AsyncIterator[None]:
    task = asyncio.create_task(meters.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition, "the meters have written")


def seen_ms(path: Path) -> int:
    with closing(sqlite3.connect(path)) as file:
        return int(file.execute("SELECT seen_ms FROM server").fetchone()[0])


async def killed(meters: Meters, path: Path, clock: TurnedClock) -> Path:
    """Answer what would be left of the file if the server were killed now, just after a batch was written."""
    async with running(meters):
        await until(lambda: seen_ms(path) == round(clock.monotonic * 1000))
    copy = path.with_name("left.db")
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{copy}{end}")
    return copy


async def total(meters: Meters) -> tuple[float, float, float, float]:
    found = await meters.records(None, **EVER)
    sums = [sum(getattr(one, name) for one in found) for name in ("seconds", "awake_s", "acu_s", "storage_byte_s")]
    return sums[0], sums[1], sums[2], sums[3]


def by_hour(records: Sequence[UsageRecord]) -> dict[str, tuple[float, float]]:
    return {one.id.partition("/")[2]: (one.seconds, one.acu_s) for one in records}


async def test_capacity_is_integrated_from_change_to_change(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        meters.set_storage("abc", "main", GIB)
        for capacity, seconds in ((0.5, 10), (4, 2.5), (0, 100), (1.5, 0.004)):
            meters.set_capacity("abc", "main", capacity)
            clock.pass_time(seconds)
        (record,) = await meters.records("main", since=START, until=clock.wall)
        assert record == UsageRecord(
            id="abc/2026-11-25T08",
            cluster_id="abc",
            cluster="main",
            hour=START.replace(minute=0),
            seconds=112.504,
            awake_s=12.504,
            acu_s=15.006,
            peak_acu=4.0,
            storage_byte_s=float(GIB * 112504 // 1000),
            is_final=False,
        )
        assert meters.total_acu_s("abc") == 15.006
        assert meters.storage_bytes("abc") == GIB
    assert path.stat().st_mode & 0o777 == 0o600


async def test_what_nobody_has_told_of_is_nothing(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        assert meters.total_acu_s("abc") == 0
        assert meters.storage_bytes("abc") is None
        assert meters.last_capacity("abc") is None
        assert list(await meters.records(None, **EVER)) == []
        assert not await meters.knows("main")
        meters.end("abc")


async def test_hours_are_those_of_the_wall_clock(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        meters.set_capacity("abc", "main", 2)
        clock.pass_time(3 * 3600)
        found = await meters.records("main", **EVER)
        assert by_hour(found) == {
            "2026-11-25T08": (600, 1200),
            "2026-11-25T09": (3600, 7200),
            "2026-11-25T10": (3600, 7200),
            "2026-11-25T11": (3000, 6000),
        }
        assert [one.is_final for one in found] == [True, True, True, False]
        nine = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
        assert list(by_hour(await meters.records("main", since=nine, until=nine + timedelta(hours=1)))) == [
            "2026-11-25T09",
            "2026-11-25T10",
        ]
        meters.set_capacity("abc", "main", 0)
        assert await meters.records("main", **EVER) == found


async def test_a_long_sleep_is_one_stretch_and_one_row(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        meters.set_storage("abc", "main", GIB)
        meters.set_capacity("abc", "main", 0)
        clock.pass_time(600 + 365 * 24 * 3600)
        (begin, year) = await meters.stretches("main", **EVER)
        assert (begin.hours, year.hours) == (1, 8760)
        assert len(list(year.records())) == 8760
        assert len(await meters.records("main", **EVER)) == 8761
        two_hours = await meters.stretches("main", since=clock.wall - timedelta(hours=2), until=clock.wall)
        assert [(one.hours, one.first.is_final) for one in two_hours] == [(2, True)]
        meters.set_capacity("abc", "main", 1)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT length, storage_byte_s FROM usage ORDER BY hour").fetchall() == [
            (1, 600 * GIB),
            (8760, 3600 * GIB),
        ]


async def test_clusters_are_told_apart_and_deleted_ones_are_kept(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        meters.set_capacity("abc", "main", 1)
        meters.set_capacity("xyz", "shop", 2)
        clock.pass_time(10)
        meters.end("abc")
        clock.pass_time(10)
        # Another cluster of the same name.
        meters.set_capacity("new", "main", 3)
        clock.pass_time(1)
        acu_s = {one.cluster_id: one.acu_s for one in await meters.records(None, **EVER)}
        assert acu_s == {"abc": 10, "xyz": 42, "new": 3}
        assert {one.cluster_id for one in await meters.records("main", **EVER)} == {"abc", "new"}
        assert (meters.total_acu_s("abc"), meters.storage_bytes("abc")) == (0, None)
        meters.end("new")
    with opened(path, clock) as meters:
        assert await meters.knows("main")
        assert not await meters.knows("mail")
        assert {one.cluster_id: one.acu_s for one in await meters.records("main", **EVER)} == {"abc": 10, "new": 3}
        assert meters.last_capacity("abc") is None


async def test_many_freezes_write_no_row_each(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        async with running(meters):
            for _ in range(2000):
                meters.set_capacity("abc", "main", 0.5)
                clock.pass_time(0.01)
                meters.set_capacity("abc", "main", 0)
                clock.pass_time(0.02)
                await asyncio.sleep(0)
        assert await total(meters) == (60.0, 20.0, 10.0, 0.0)
    with closing(sqlite3.connect(path)) as file:
        # The last sleep goes on: it is the meter's, and in no hour yet.
        assert file.execute("SELECT metered_ms, awake_ms FROM usage").fetchall() == [(59_980, 20_000)]
        assert file.execute("SELECT count(*) FROM meters").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("went_on", "boot_id", "expected"),
    [
        (True, "a", (165.0, 165.0, 330.0 + 5 * 0.5 - 5 * 2, 165.0 * GIB)),
        (False, "a", (165.0, 105.0, 200.0 + 5 * 0.5, 165.0 * GIB)),
        # The host was started anew: nothing of the time between is known.
        (False, "b", (105.0, 105.0, 200.0 + 5 * 0.5, 105.0 * GIB)),
        (True, "b", (105.0, 105.0, 200.0 + 5 * 0.5, 105.0 * GIB)),
    ],
)
async def test_the_time_without_a_server_counts_if_the_engine_went_on(
    path: Path, clock: TurnedClock, went_on: bool, boot_id: str, expected: tuple[float, float, float, float]
) -> None:
    with opened(path, clock) as meters:
        meters.set_storage("abc", "main", GIB)
        meters.set_capacity("abc", "main", 2)
        clock.pass_time(100)
        left = await killed(meters, path, clock)
    clock.pass_time(60)
    if boot_id == "b":
        clock.monotonic = 7.0
    with opened(left, clock, boot_id) as meters:
        assert meters.last_capacity("abc") == (2.0 if boot_id == "a" else None)
        assert meters.total_acu_s("abc") == 200.0
        assert meters.storage_bytes("abc") == GIB
        meters.take_over("abc", "main", capacity=0.5, went_on=went_on)
        clock.pass_time(5)
        assert await total(meters) == expected
        assert meters.total_acu_s("abc") == expected[2]


async def test_a_server_that_ends_before_it_takes_over_changes_nothing(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        meters.set_capacity("abc", "main", 2)
        clock.pass_time(100)
        left = await killed(meters, path, clock)
    for _ in range(3):
        clock.pass_time(20)
        with opened(left, clock):
            clock.pass_time(20)
    with opened(left, clock) as meters:
        assert meters.last_capacity("abc") == 2
        meters.take_over("abc", "main", capacity=0, went_on=True)
        assert await total(meters) == (220.0, 220.0, 440.0, 0.0)


async def test_a_cluster_that_is_not_taken_over_is_accounted_for_until_it_was_seen(
    path: Path, clock: TurnedClock
) -> None:
    with opened(path, clock) as meters:
        meters.set_capacity("abc", "main", 2)
        clock.pass_time(100)
        left = await killed(meters, path, clock)
    for boot_id in ("a", "b", "c"):
        clock.pass_time(20)
        with opened(left, clock, boot_id) as meters:
            clock.pass_time(20)
            assert await total(meters) == (100.0, 100.0, 200.0, 0.0)
            assert meters.total_acu_s("abc") == 200.0


async def test_a_clean_end_and_a_new_start_leave_no_gap(path: Path, clock: TurnedClock) -> None:
    for _ in range(5):
        with opened(path, clock) as meters:
            meters.take_over("abc", "main", capacity=0, went_on=False)
            clock.pass_time(3.001)
            meters.set_capacity("abc", "main", 0.5)
            clock.pass_time(2)
            meters.set_capacity("abc", "main", 0)
        clock.pass_time(1)
    with opened(path, clock) as meters:
        meters.take_over("abc", "main", capacity=0, went_on=False)
        assert await total(meters) == (30.005, 10.0, 5.0, 0.0)


@pytest.mark.parametrize("jump_s", [7200, -7200, 86400 * 400, -86400 * 400, 0.4, -0.4])
async def test_totals_are_exact_and_labels_follow_when_the_clock_jumps(
    path: Path, clock: TurnedClock, jump_s: float
) -> None:
    with opened(path, clock) as meters:
        meters.set_storage("abc", "main", 1000)
        meters.set_capacity("abc", "main", 1)
        clock.pass_time(599)
        # As the heartbeat sees it, and then not.
        await meters.records("main", **EVER)
        clock.jump(jump_s)
        clock.pass_time(3600)
        found = await meters.records("main", **EVER)
        meters.set_capacity("abc", "main", 0)
        assert await meters.records("main", **EVER) == found
        assert await total(meters) == (4199.0, 4199.0, 4199.0, 4_199_000.0)
        hours = {one.hour: one.seconds for one in found}
        if abs(jump_s) < 1:
            # So little is no jump, and hours stay whole.
            assert list(hours.values()) == [600, 3599]
        else:
            assert hours[START.replace(minute=0)] == 599
            assert set(hours) >= {
                (START + timedelta(seconds=599 + jump_s + s)).replace(minute=0, second=0) for s in (0, 3599)
            }


async def test_an_hour_that_was_over_is_open_again_when_the_clock_goes_back(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        meters.set_capacity("abc", "main", 1)
        clock.pass_time(1200)
        first, _ = await meters.records("main", **EVER)
        assert (first.seconds, first.is_final) == (600, True)
        clock.jump(-1200)
        clock.pass_time(300)
        again, later = await meters.records("main", **EVER)
        assert (again.id, again.seconds, again.is_final) == (first.id, 900, False)
        assert (later.seconds, later.is_final) == (600, False)


async def test_suspended_time_does_not_count(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        meters.set_capacity("abc", "main", 1)
        clock.pass_time(300)
        await meters.records("main", **EVER)
        clock.jump(8 * 3600)
        clock.pass_time(300)
        assert by_hour(await meters.records("main", **EVER)) == {
            "2026-11-25T08": (300, 300),
            "2026-11-25T16": (300, 300),
        }


async def test_nothing_is_lost_when_the_file_cannot_be_written_for_a_while(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters, structlog.testing.capture_logs() as logs:
        async with running(meters):
            with closing(sqlite3.connect(path)) as file:
                # What a full disk, a damaged page and a file system that is read only have in common.
                file.execute("CREATE TRIGGER full BEFORE INSERT ON server BEGIN SELECT raise(ABORT, 'full'); END")
            meters.set_capacity("abc", "main", 2)
            await until(lambda: bool(logs))
            clock.pass_time(10)
            meters.set_capacity("abc", "main", 1)
            clock.pass_time(10)
            meters.set_capacity("xyz", "shop", 1)
            assert await total(meters) == (20.0, 20.0, 30.0, 0.0)
            assert meters.total_acu_s("abc") == 30.0
            with closing(sqlite3.connect(path)) as file:
                file.execute("DROP TRIGGER full")
            await until(lambda: len(logs) == 2)
        assert [line["log_level"] for line in logs] == ["error", "info"]
        assert await total(meters) == (20.0, 20.0, 30.0, 0.0)
    with opened(path, clock) as meters:
        meters.take_over("abc", "main", capacity=1, went_on=True)
        assert await total(meters) == (20.0, 20.0, 30.0, 0.0)


async def test_the_end_is_survived_when_the_file_cannot_be_written(path: Path, clock: TurnedClock) -> None:
    with structlog.testing.capture_logs() as logs, opened(path, clock) as meters:
        with closing(sqlite3.connect(path)) as file:
            file.execute("CREATE TRIGGER full BEFORE INSERT ON server BEGIN SELECT raise(ABORT, 'full'); END")
        meters.set_capacity("abc", "main", 2)
    assert [line["log_level"] for line in logs] == ["error"]


async def test_a_batch_is_added_once_when_it_is_not_known_whether_it_was_written(
    path: Path, clock: TurnedClock
) -> None:
    with opened(path, clock) as meters:
        meters.set_capacity("abc", "main", 1)
        clock.pass_time(10)
        meters.set_capacity("abc", "main", 2)
        task = asyncio.create_task(meters.run())
        await asyncio.sleep(0)
        # It has handed over its batch, and now never hears what became of it.
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await total(meters) == (10.0, 10.0, 10.0, 0.0)
        clock.pass_time(1)
        assert await total(meters) == (11.0, 11.0, 12.0, 0.0)
    with opened(path, clock) as meters:
        meters.take_over("abc", "main", capacity=0, went_on=True)
        assert await total(meters) == (11.0, 11.0, 12.0, 0.0)


def damaged(path: Path) -> None:
    path.write_bytes(b"this is no database " * 500)


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(damaged, errors.HomeUnusable), (newer, errors.HomeTooNew), (a_folder, errors.HomeUnusable)],
)
def test_a_file_that_cannot_be_used_is_refused_and_left_alone(
    path: Path, clock: TurnedClock, spoil: Callable[[Path], None], error: type[errors.ZoryaError]
) -> None:
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(error) as raised:
        Meters.open(path, clock, boot_id="a")
    assert raised.value.hint
    assert (path.read_bytes() if path.is_file() else b"") == before


async def test_reading_a_damaged_file_says_so(path: Path, clock: TurnedClock) -> None:
    with opened(path, clock) as meters:
        with closing(sqlite3.connect(path)) as file:
            file.execute("ALTER TABLE usage RENAME TO gone")
        with pytest.raises(errors.HomeUnusable, match="no such table"):
            await meters.records(None, **EVER)
        with closing(sqlite3.connect(path)) as file:
            file.execute("ALTER TABLE gone RENAME TO usage")


def test_the_hosts_own_boot_is_known(path: Path, clock: TurnedClock) -> None:
    for expected in (None, 2.0):
        with closing(Meters.open(path, clock)) as meters:
            assert meters.last_capacity("abc") == expected
            meters.set_capacity("abc", "main", 2)
