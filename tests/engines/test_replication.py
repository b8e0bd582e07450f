"""engines/postgres/replication.py with real engines: who has what, and who gets it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engines.clusters import MAJORS, Cluster, Workshop
from engines.copies import KEEP_BYTES, Copies, come, come_to, flip, newest
from harness import processes_below
from zorya.compute import procfs
from zorya.core import errors
from zorya.core.capacity import Bounds
from zorya.engines.base import Activity, Watcher
from zorya.engines.postgres import log_files
from zorya.engines.postgres.log_files import SEGMENT_BYTES

MakeCopies = Callable[..., Copies]


@pytest.fixture(params=MAJORS)
async def make(request: pytest.FixtureRequest, workshop: Workshop) -> AsyncIterator[MakeCopies]:
    """Make volumes of one major version; what runs of them ends with the test."""
    made: list[Copies] = []
    installation = next(one for one in workshop.engine.find() if one.major == request.param)

    def one(*, needed: int = 1, keep_bytes: int = KEEP_BYTES) -> Copies:
        home, account = workshop.home, workshop.account
        made.append(Copies(home=home, account=account, installation=installation, needed=needed, keep_bytes=keep_bytes))
        return made[-1]

    yield one
    for copies in made:
        await copies.end()


@pytest.fixture
async def copies(make: MakeCopies) -> Copies:
    """A volume at rest, whose engines have never run."""
    found = make()
    await found.build()
    return found


def execute(cluster: Cluster, sql: str) -> None:
    with cluster.connect() as session:
        session.execute(sql.encode())


def ask(cluster: Cluster, sql: str) -> object:
    with cluster.connect_as_admin(application_name="zorya") as session:
        row = session.execute(sql.encode()).fetchone()
    return row[0] if row is not None else None


def count(cluster: Cluster) -> object:
    with cluster.connect() as session:
        row = session.execute("SELECT count(*) FROM t").fetchone()
    return row[0] if row is not None else None


of_one_version = pytest.mark.parametrize("make", MAJORS[-1:], indirect=True)
"""For what the version makes no difference to."""

FILL = "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n"
ADD = "INSERT INTO t SELECT generate_series(1, 1000)"


@asynccontextmanager
async def in_background(sql: str, cluster: Cluster) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(asyncio.to_thread(execute, cluster, sql))
    try:
        yield task
    finally:
        await asyncio.wait({task})


async def test_commit_is_acknowledged_only_with_the_needed_copies(make: MakeCopies) -> None:
    copies = make(needed=2)
    await copies.build()
    await copies.start_all()
    execute(copies.primary, FILL)
    copies.end_receiver()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    async with in_background(ADD, copies.primary) as adding:
        await come(lambda: ask(copies.primary, waits), "the commit waits")
        # What the standby alone has is not enough.
        flushed = (await copies.look()).flushed
        await copies.come_to_follow("b_full")
        assert (await copies.look()).followers["b_full"].flushed >= flushed
        assert not adding.done()
        copies.receive()
    await adding
    seen = (await copies.look()).followers
    assert seen["b_tail"].flushed >= flushed
    assert seen["b_tail"].replayed is None
    assert count(copies.standby) == 2000


async def test_copies_are_at_one_position_when_they_were_stopped_cleanly(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await copies.come_to_rest()
    replication = copies.replication
    end = replication.rest(copies.primary.folders)
    assert end is not None
    assert replication.rests_at(copies.standby.folders, end)
    assert replication.tail_reaches(copies.tail, end)
    found = await replication.tail_end(copies.installation, copies.tail)
    assert found is not None
    assert (found.timeline, found.position) == (end.timeline, end.position)
    # The primary goes on alone: the others are behind.
    copies.place(copies.primary)
    await copies.start(copies.primary)
    execute(copies.primary, "SET synchronous_commit = local; CREATE TABLE more (n int)")
    assert replication.rest(copies.primary.folders) is None
    await asyncio.to_thread(copies.primary.stop)
    later = replication.rest(copies.primary.folders)
    assert later is not None
    assert later.position > end.position
    assert not replication.rests_at(copies.standby.folders, later)
    assert not replication.tail_reaches(copies.tail, later)


@pytest.mark.parametrize("at", ["first byte", "last byte"])
async def test_tail_does_not_reach_the_end_when_the_last_record_is_not_whole(copies: Copies, at: str) -> None:
    await copies.start_all()
    await copies.come_to_rest()
    end = copies.replication.rest(copies.primary.folders)
    assert end is not None
    assert end.last is not None
    path = newest(copies.tail)
    before = await copies.replication.tail_end(copies.installation, copies.tail)
    # What follows the record up to the next multiple of 8 bytes is padding.
    flip(path, (end.last if at == "first byte" else end.position - 8) % SEGMENT_BYTES)
    assert not copies.replication.tail_reaches(copies.tail, end)
    after = await copies.replication.tail_end(copies.installation, copies.tail)
    assert before is not None
    assert after is not None
    assert after.position == end.last < before.position


async def test_running_primary_is_cloned_while_it_is_written_to(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await asyncio.to_thread(copies.standby.kill)
    parts: list[float] = []
    acknowledged = 0
    cloning = asyncio.create_task(
        copies.replication.clone(copies.standby.instance, copies.source, max_kib_s=None, progress=parts.append)
    )
    while not cloning.done():
        await asyncio.to_thread(execute, copies.primary, ADD)
        acknowledged += 1
    await cloning
    assert acknowledged
    assert parts[-1] == 1
    data = copies.standby.folders.data
    assert (data / "standby.signal").exists()
    assert not (data / "postmaster.pid").exists()
    assert [path.name for path in data.parent.glob("data*")] == ["data"]
    await copies.start(copies.standby, source=copies.source)
    await copies.come_to_follow("b_full")
    await copies.come_to_replay((await copies.look()).flushed)
    assert count(copies.standby) == 1000 * (1 + acknowledged)


@of_one_version
async def test_nothing_is_left_when_a_clone_is_given_up(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await asyncio.to_thread(copies.standby.kill)
    data = copies.standby.folders.data
    cloning = asyncio.create_task(
        copies.replication.clone(copies.standby.instance, copies.source, max_kib_s=32, progress=lambda _part: None)
    )
    await come(lambda: list(data.parent.glob("data.partial-*/base/*/*")), "the clone has begun")
    cloning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cloning
    assert list(data.parent.glob("data*")) == []
    assert processes_below(data.with_name("data.partial")) == set()


async def test_promoted_copy_has_what_a_tail_had_more_than_it(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await copies.turn(copies.standby)
    await come(lambda: ask(copies.standby, "SELECT count(*) FROM pg_stat_wal_receiver") == 0, "it follows nobody")
    execute(copies.primary, ADD)
    await asyncio.to_thread(copies.primary.kill)
    copies.end_receiver()
    replication = copies.replication
    of_tail = await replication.tail_end(copies.installation, copies.tail)
    of_standby = await replication.received(copies.standby.folders)
    assert of_tail is not None
    assert of_standby.position < of_tail.position
    await replication.offer(copies.tail, copies.collected)
    await copies.turn(copies.standby, collected=copies.collected)
    await copies.come_to_replay(of_tail.position)
    await replication.promote(copies.standby.folders)
    assert replication.timeline(copies.standby.folders) == (2, of_tail.position)
    copies.place(copies.standby, leads=True)
    await copies.turn(copies.standby)
    assert count(copies.standby) == 2000
    await replication.promote(copies.standby.folders)
    assert replication.timeline(copies.standby.folders) == (2, of_tail.position)


async def test_old_primary_follows_again_when_what_it_had_alone_was_taken_back(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await copies.come_to_follow("b_full", "b_tail")
    await copies.come_to_replay((await copies.look()).flushed)
    await copies.turn(copies.standby)
    copies.end_receiver()
    await come(lambda: ask(copies.standby, "SELECT count(*) FROM pg_stat_wal_receiver") == 0, "it follows nobody")
    execute(copies.primary, f"SET synchronous_commit = local; {ADD}")
    await asyncio.to_thread(copies.primary.kill)
    replication = copies.replication
    await replication.promote(copies.standby.folders)
    old, new = copies.primary, copies.standby
    copies.place(new, leads=True)
    copies.place(old, leads=False, source=copies.source_of(new))
    await replication.ensure_kept(new.folders, {"a_full", "b_tail"})
    execute(new, "SET synchronous_commit = local; INSERT INTO t VALUES (1)")
    await replication.rejoin(old.instance, copies.source_of(new))
    await copies.start(old, source=copies.source_of(new))
    copies.primary, copies.standby = new, old
    await copies.come_to_follow("a_full")
    await copies.come_to_replay((await copies.look()).flushed)
    assert count(old) == 1001
    # Slots that it had as the primary would keep log and dead rows for copies that follow another one.
    assert ask(old, "SELECT count(*) FROM pg_replication_slots") == 0
    # The tail goes on in the new timeline.
    copies.receive()
    await copies.come_to_follow("b_tail")
    await copies.come_to_rest()
    end = replication.rest(new.folders)
    assert end is not None
    assert end.timeline == 2
    assert replication.rests_at(old.folders, end)
    assert replication.tail_reaches(copies.tail, end)


async def test_new_copy_of_a_stopped_primary_keeps_no_log_for_others(copies: Copies) -> None:
    await copies.start_all()
    await copies.come_to_rest()
    await asyncio.to_thread(shutil.rmtree, copies.standby.folders.data)
    await copies.replication.seed(copies.standby.instance, copies.primary.folders.data)
    end = copies.replication.rest(copies.primary.folders)
    assert end is not None
    assert copies.replication.rests_at(copies.standby.folders, end)
    await copies.start_all()
    assert ask(copies.standby, "SELECT count(*) FROM pg_replication_slots") == 0


async def test_nothing_seems_to_work_when_copies_only_follow(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    for cluster in (copies.primary, copies.standby):
        watcher = copies.engine.watcher(cluster.folders)

        async def rests(watcher: Watcher = watcher, cluster: Cluster = cluster) -> Activity | None:
            assert cluster.process is not None
            seen = await watcher.observe(frozenset(procfs.tree(cluster.process.pid)), cluster.process.pid)
            return seen if not seen.busy and seen.log_flushed else None

        seen = await come_to(rests, "it rests")
        assert seen.clients == frozenset()
        with cluster.connect() as session:
            session.execute("SELECT 1")
            seen = await come_to(rests, "it rests with a session")
            assert len(seen.clients) == 1
        await watcher.close()


async def test_copy_is_given_up_when_it_needs_more_log_than_is_kept_and_can_be_cloned_then(make: MakeCopies) -> None:
    copies = make(keep_bytes=32 * 1024**2, needed=1)
    await copies.build()
    await copies.start_all()
    await asyncio.to_thread(copies.standby.kill)
    execute(copies.primary, FILL)
    for _ in range(12):
        execute(copies.primary, ADD)
        ask(copies.primary, "SELECT pg_switch_wal()")
    await copies.engine.checkpoint(copies.primary.folders)
    assert (await copies.look()).given_up == {"b_full"}
    # Nobody takes that back but a new copy.
    await copies.replication.ensure_kept(copies.primary.folders, {"b_full", "b_tail"})
    assert (await copies.look()).given_up == {"b_full"}
    await copies.replication.clone(copies.standby.instance, copies.source, max_kib_s=None, progress=lambda _part: None)
    assert (await copies.look()).given_up == frozenset()
    await copies.start(copies.standby, source=copies.source)
    await copies.come_to_follow("b_full", "b_tail")


async def test_received_is_what_is_on_the_disk_when_it_is_not_replayed_yet(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await copies.come_to_follow("b_full")
    ask(copies.standby, "SELECT pg_wal_replay_pause()")
    await come(lambda: ask(copies.standby, "SELECT pg_get_wal_replay_pause_state()") == "paused", "replay is paused")
    execute(copies.primary, ADD)
    await copies.come_to_follow("b_full", "b_tail")
    await copies.replication.let_go(copies.standby.folders)
    await asyncio.to_thread(copies.standby.kill)
    await asyncio.to_thread(copies.primary.kill)
    copies.end_receiver()
    of_tail = await copies.replication.tail_end(copies.installation, copies.tail)
    assert of_tail is not None
    copies.standby.options = ("-c", "recovery_min_apply_delay=1h")
    await copies.start(copies.standby)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'RecoveryApplyDelay'"
    await come(lambda: ask(copies.standby, waits), "it waits before it replays a commit")
    assert await copies.replication.replayed(copies.standby.folders) < of_tail.position
    assert (await copies.replication.received(copies.standby.folders)).position == of_tail.position


async def test_received_ends_with_the_last_whole_record(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await copies.come_to_rest()
    end = copies.replication.rest(copies.primary.folders)
    assert end is not None
    assert end.last is not None
    needs_from = copies.replication.needs_from(copies.standby.folders)
    await copies.start(copies.standby)
    assert (await copies.replication.received(copies.standby.folders)).position == end.position
    log = copies.replication.log_folder(copies.standby.folders)
    assert log_files.end_from(log, needs_from, within_bytes=2**30) == end.position
    flip(log_files.segments(log)[0].path, (end.last + 30) % SEGMENT_BYTES)
    assert log_files.end_from(log, needs_from, within_bytes=2**30) == end.last


@of_one_version
async def test_old_data_stays_when_the_primary_does_not_answer(copies: Copies) -> None:
    await copies.start_all()
    source = copies.source
    await asyncio.to_thread(copies.standby.stop)
    await asyncio.to_thread(copies.primary.kill)
    with pytest.raises(errors.EngineProblem):
        await copies.replication.clone(copies.standby.instance, source, max_kib_s=None, progress=lambda _part: None)
    copies.engine.check_data(copies.standby.instance)


@of_one_version
async def test_copy_that_follows_is_not_started_as_the_primary(copies: Copies) -> None:
    copies.engine.check_data(copies.standby.instance)
    copies.place(copies.standby, leads=True)
    with pytest.raises(errors.DataDamaged, match=r"standby\.signal"):
        copies.engine.check_data(copies.standby.instance)


@of_one_version
async def test_copy_that_has_led_is_not_started_to_follow(copies: Copies) -> None:
    copies.engine.check_data(copies.primary.instance)
    copies.place(copies.primary, leads=False)
    with pytest.raises(errors.DataDamaged, match=r"standby\.signal"):
        copies.engine.check_data(copies.primary.instance)


async def fill_segments(copies: Copies, number: int) -> None:
    """Have the log go on for some segments."""
    for _ in range(number):
        execute(copies.primary, ADD)
        ask(copies.primary, "SELECT pg_switch_wal()")
    execute(copies.primary, ADD)
    await copies.come_to_follow("b_full", "b_tail")


@of_one_version
@pytest.mark.parametrize("where", ["in a record", "in a page's header"])
async def test_flipped_bit_in_a_tail_is_found_and_mended_from_a_peer(copies: Copies, where: str) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await fill_segments(copies, 2)
    await copies.come_to_rest()
    replication, tail = copies.replication, copies.tail
    peers = [replication.log_folder(copies.standby.folders), replication.log_folder(copies.primary.folders)]
    for folder in (tail, *peers):
        assert await replication.verify_log(copies.installation, folder, begin=0, end=None) == []
    whole = log_files.segments(tail)[1]
    before = whole.path.read_bytes()
    # The segment holds some hundred pages.
    flip(whole.path, 5 * log_files.PAGE_BYTES + (100 if where == "in a record" else 8))
    (found,) = await replication.verify_log(copies.installation, tail, begin=0, end=None)
    assert str(tail) in found
    end = replication.rest(copies.primary.folders)
    assert end is not None
    await replication.mend_tail(tail, peers, upto=end.position)
    assert whole.path.read_bytes() == before
    assert await replication.verify_log(copies.installation, tail, begin=0, end=end.position) == []
    # A peer that is damaged itself damages nothing.
    flip(peers[0] / whole.name, 7 * log_files.PAGE_BYTES + 100)
    await replication.mend_tail(tail, peers, upto=end.position)
    assert whole.path.read_bytes() == before
    # A segment that is missing comes back.
    whole.path.unlink()
    assert await replication.verify_log(copies.installation, tail, begin=0, end=None)
    await replication.mend_tail(tail, peers[1:], upto=end.position)
    assert whole.path.read_bytes() == before


@of_one_version
async def test_damage_before_the_end_of_the_last_segment_is_told_from_the_end(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await copies.come_to_follow("b_full", "b_tail")
    await copies.come_to_rest()
    replication, tail = copies.replication, copies.tail
    end = replication.rest(copies.primary.folders)
    assert end is not None
    assert end.last is not None
    path = newest(tail)
    good = path.read_bytes()
    assert await replication.verify_log(copies.installation, tail, begin=0, end=None) == []
    # Pages, and then a record, after the damage.
    for at in (
        end.position % SEGMENT_BYTES - 3 * log_files.PAGE_BYTES,
        previous_of(path, end.last) % SEGMENT_BYTES + 30,
    ):
        flip(path, at)
        assert await replication.verify_log(copies.installation, tail, begin=0, end=None)
        path.write_bytes(good)
    flip(path, 0)
    assert await replication.verify_log(copies.installation, tail, begin=0, end=None)
    path.write_bytes(good)
    # The end of a log that was cut off.
    path.write_bytes(good[: end.last % SEGMENT_BYTES].ljust(SEGMENT_BYTES, b"\0"))
    assert await replication.verify_log(copies.installation, tail, begin=0, end=None) == []
    assert await replication.verify_log(copies.installation, tail, begin=0, end=end.position)


def previous_of(path: Path, position: int) -> int:
    record = log_files.read_record(path, position)
    assert record is not None
    return record.previous


async def test_flipped_bit_in_the_data_is_found(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    path = copies.primary.folders.data / str(ask_shop(copies.primary, "SELECT pg_relation_filepath('t')"))
    await copies.come_to_rest()
    assert await copies.replication.verify_data(copies.standby.instance, max_kib_s=None) == []
    damaged = copies.standby.folders.data / path.relative_to(copies.primary.folders.data)
    flip(damaged, 8192 + 500)
    for max_kib_s in (None, 128 * 1024):
        (found,) = await copies.replication.verify_data(copies.standby.instance, max_kib_s=max_kib_s)
        assert "block 1" in found
        assert damaged.name in found


def ask_shop(cluster: Cluster, sql: str) -> object:
    with cluster.connect() as session:
        row = session.execute(sql.encode()).fetchone()
    return row[0] if row is not None else None


async def test_copy_follows_when_the_primary_has_less_connections_than_before(copies: Copies) -> None:
    await copies.start_all()
    execute(copies.primary, FILL)
    await copies.come_to_rest()
    for cluster in (copies.primary, copies.standby):
        cluster.instance = replace(cluster.instance, bounds=Bounds(least=0.5, most=1))
    await copies.start_all()
    assert int(str(ask(copies.primary, "SHOW max_connections"))) < int(str(ask(copies.standby, "SHOW max_connections")))
    await copies.turn(copies.standby, source=copies.source)
    await copies.come_to_rest()
    await copies.start_all()
    assert ask(copies.primary, "SHOW max_connections") == ask(copies.standby, "SHOW max_connections")
