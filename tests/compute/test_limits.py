"""What is written to have the kernel hold limits: planned with values, in ordinary files, and in real groups."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.workers import Worker, enclosed, place_of, version_2
from waiting import wait_until
from zorya.compute import cgroups, limiting, limits, procfs
from zorya.compute.group import Grouping, ProcessGroup
from zorya.compute.limits import Limits, Write
from zorya.compute.usage import MemoryUse
from zorya.core import errors

MIB = 1 << 20
GIB = 1 << 30
MARGIN = 64 * MIB
LIMITS = Limits(cap_cores=0.5, weight_acu=2, soft_bytes=4 * GIB, hard_bytes=8 * GIB)


def used(total: int, unreclaimable: int = 0) -> MemoryUse:
    return MemoryUse(memory_bytes=total, unreclaimable_bytes=unreclaimable, warm_bytes=0, refaults=None)


@pytest.mark.parametrize(
    ("cores", "quota", "period"),
    [
        (0.01, 1_000, 100_000),
        (0.125, 5_000, 40_000),
        (0.25, 5_000, 20_000),
        (1, 20_000, 20_000),
        (64, 1_280_000, 20_000),
    ],
)
def test_period_is_as_short_as_leaves_the_quota_a_slice(cores: float, quota: int, period: int) -> None:
    assert limits.quota_of(cores) == (quota, period)


def test_weight_is_in_proportion_from_the_lowest_capacity_to_the_highest() -> None:
    assert [limits.weight_of(acu, 2) for acu in (0.5, 1, 4, 256)] == [20, 39, 156, 10000]
    assert [limits.weight_of(acu, 1) for acu in (0.5, 1, 4, 256)] == [512, 1024, 4096, 262144]
    assert [limits.weight_of(acu, version) for acu in (1e-9, 1e9) for version in (1, 2)] == [2, 1, 262144, 10000]


def texts(writes: tuple[Write, ...]) -> list[tuple[str, str]]:
    return [(one.file, one.text) for one in writes]


def test_cap_that_is_not_below_the_host_has_no_quota() -> None:
    calm = {"cpu.max": "max 100000", "cpu.weight": "78"}
    assert texts(limits.plan_cores(2, LIMITS, calm, cpus=2)) == [("cpu.max", "10000 20000")]
    assert limits.plan_cores(2, replace(LIMITS, cap_cores=2), calm, cpus=2) == ()
    capped = {"cpu.cfs_quota_us": "10000", "cpu.cfs_period_us": "20000", "cpu.shares": "1024"}
    assert texts(limits.plan_cores(1, replace(LIMITS, cap_cores=4), capped, cpus=2)) == [
        ("cpu.cfs_quota_us", "-1"),
        ("cpu.shares", "2048"),
    ]


@given(before=st.floats(0.01, 64), after=st.floats(0.01, 64))
def test_part_of_the_time_is_between_the_old_and_the_new_while_version_1_is_told(before: float, after: float) -> None:
    now = dict(zip(("cpu.cfs_quota_us", "cpu.cfs_period_us"), map(str, limits.quota_of(before)), strict=True))
    now["cpu.shares"] = "2048"
    most = max(quota / period for quota, period in (limits.quota_of(before), limits.quota_of(after)))
    for one in limits.plan_cores(1, replace(LIMITS, cap_cores=after), dict(now), cpus=65):
        now[one.file] = one.text
        assert int(now["cpu.cfs_quota_us"]) / int(now["cpu.cfs_period_us"]) <= most * (1 + 1e-9)
        assert int(now["cpu.cfs_quota_us"]) >= 1000
    assert (int(now["cpu.cfs_quota_us"]), int(now["cpu.cfs_period_us"])) == limits.quota_of(after)


def test_hard_limit_grows_before_the_soft_one_and_shrinks_after_it() -> None:
    unlimited = {"memory.max": "max", "memory.high": "max"}
    less = limits.plan_memory(2, LIMITS, used(MIB), unlimited)
    assert texts(less.writes) == [("memory.high", str(4 * GIB)), ("memory.max", str(8 * GIB))]
    assert less.limited.shortfall == ""
    more = limits.plan_memory(2, LIMITS, used(MIB), {"memory.max": str(GIB), "memory.high": str(GIB)})
    assert [file for file, _ in texts(more.writes)] == ["memory.max", "memory.high"]


sizes = st.integers(0, 64 * GIB)
pages = st.integers(1, 64 * GIB // 4096).map(lambda count: count * 4096)


@given(
    version=st.sampled_from([1, 2]), total=sizes, part=st.floats(0, 1), soft=sizes, extra=sizes, high=pages, top=pages
)
def test_no_limit_is_ever_set_below_what_cannot_be_taken_back(
    version: int, total: int, part: float, soft: int, extra: int, high: int, top: int
) -> None:
    hard_file, soft_file = limits.FILES["memory", version]
    use = used(total, int(total * part))
    wanted = replace(LIMITS, soft_bytes=soft, hard_bytes=soft + extra)
    present = {hard_file: str(top), soft_file: str(high)}
    plan = limits.plan_memory(version, wanted, use, present)
    written = {one.file: int(one.text) for one in plan.writes}
    if hard_file in written and written[hard_file] < top:
        # Version 2 ends processes when this is below all that is in use; version 1 refuses.
        floor = use.memory_bytes if version == 2 else use.unreclaimable_bytes
        assert written[hard_file] >= min(floor + MARGIN, top)
    if version == 2 and soft_file in written:
        assert written[soft_file] >= min(use.unreclaimable_bytes + MARGIN, written.get(hard_file, top))
    assert all(value % 4096 == 0 and value > 0 for value in written.values())


@given(version=st.sampled_from([1, 2]), total=sizes, part=st.floats(0, 1))
def test_limits_are_reached_by_repeating_when_enough_can_be_taken_back(version: int, total: int, part: float) -> None:
    hard_file, soft_file = limits.FILES["memory", version]
    unreclaimable = int(min(total, 3 * GIB) * part)
    now = {hard_file: str(1 << 62), soft_file: str(1 << 62)}
    use, calls = used(total, unreclaimable), 0
    while (plan := limits.plan_memory(version, LIMITS, use, now)).writes:
        now |= {one.file: one.text for one in plan.writes}
        limit = min(int(now[hard_file]), int(now[soft_file]) if version == 2 else 1 << 62)
        use = used(max(unreclaimable, min(use.memory_bytes, limit)), unreclaimable)
        calls += 1
        assert calls < 1000
    assert plan.limited.shortfall == ""
    assert (now[hard_file], now[soft_file]) == (str(8 * GIB), str(4 * GIB))


def test_memory_in_use_is_taken_back_by_a_pace_and_what_is_left_is_said() -> None:
    now = {"memory.max": "max", "memory.high": "max"}
    plan = limits.plan_memory(2, LIMITS, used(16 * GIB, 5 * GIB), now)
    assert texts(plan.writes) == [
        ("memory.high", str(16 * GIB - 256 * MIB)),
        ("memory.max", str(18 * GIB)),
    ]
    assert plan.limited.shortfall == (
        "16384 MiB are in use, and 5120 MiB of them cannot be taken back: the limits of 4096 and 8192 MiB are reached "
        "as less is."
    )


def test_files_of_version_2_are_written_once_and_mended_when_others_change_them(tmp_path: Path) -> None:
    places = version_2(tmp_path)
    wanted = replace(LIMITS, soft_bytes=GIB, hard_bytes=2 * GIB)
    cap = "10000 20000" if len(os.sched_getaffinity(0)) > 0.5 else "max 100000"

    def said() -> list[str]:
        return [(tmp_path / name).read_text() for name in ("cpu.max", "cpu.weight", "memory.high", "memory.max")]

    assert limiting.apply(places, wanted).shortfall == ""
    assert said() == [cap, "78", str(GIB), str(2 * GIB)]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    limiting.apply(places, wanted)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    (tmp_path / "cpu.weight").write_text("100\n")
    limiting.apply(places, wanted)
    assert said() == [cap, "78", str(GIB), str(2 * GIB)]


def test_what_was_written_is_taken_back_when_the_rest_fails(tmp_path: Path) -> None:
    places = version_2(tmp_path)
    (tmp_path / "memory.high").unlink()
    with pytest.raises(OSError, match=r"memory\.high"):
        limiting.apply(places, LIMITS)
    assert (tmp_path / "cpu.max").read_text() == "max 100000"
    assert (tmp_path / "cpu.weight").read_text() == "100"


def said(worker: Worker) -> dict[str, int]:
    """What the kernel says of the limits of a real group of version 1."""
    found: dict[str, int] = {}
    for (controller, version), names in limits.FILES.items():
        if version == 1:
            folder = place_of(worker, controller, 1)
            found |= {name: int((folder / name).read_text()) for name in names}
    return found


@pytest.fixture
def of_version_1(grouping: Grouping) -> None:
    if grouping.cpu is None or grouping.memory is None or {grouping.cpu.version, grouping.memory.version} != {1}:
        pytest.skip("this host limits by version 2")


CAP = replace(LIMITS, cap_cores=0.5, soft_bytes=512 * MIB, hard_bytes=GIB)
CAPPED = {
    "cpu.cfs_period_us": 20000,
    "cpu.cfs_quota_us": 10000,
    "cpu.shares": 2048,
    "memory.limit_in_bytes": GIB,
    "memory.soft_limit_in_bytes": 512 * MIB,
}


def test_kernel_holds_limits_and_lets_them_go(worker: Worker, limited: ProcessGroup, of_version_1: None) -> None:
    assert limited.limit(CAP).shortfall == ""
    assert said(worker) == CAPPED
    limited.limit(replace(CAP, cap_cores=0.02))

    def is_throttled() -> bool:
        worker.tell("spin(0.005)")
        return (limited.usage().throttled_s or 0) > 0

    wait_until(is_throttled, "it has used its quota")
    limited.limit(replace(LIMITS, cap_cores=1000))
    assert said(worker)["cpu.cfs_quota_us"] == -1


def test_memory_in_use_is_left_alone_until_it_is_given_back(
    worker: Worker, limited: ProcessGroup, of_version_1: None
) -> None:
    worker.tell("hold(200)")
    less = replace(CAP, soft_bytes=64 * MIB, hard_bytes=128 * MIB)
    assert "of them cannot be taken back: the limits of 64 and 128 MiB" in limited.limit(less).shortfall
    assert said(worker)["memory.limit_in_bytes"] >= 264 * MIB
    worker.tell("hold(32)")
    worker.tell("kept.clear()")
    wait_until(lambda: limited.limit(less).shortfall == "", "the limits are reached")
    assert said(worker)["memory.limit_in_bytes"] == 128 * MIB
    usage = limited.usage()
    assert usage.oom_kills == 0


def test_process_that_the_kernel_ends_for_want_of_memory_is_counted(
    worker: Worker, limited: ProcessGroup, of_version_1: None
) -> None:
    limited.limit(replace(CAP, soft_bytes=96 * MIB, hard_bytes=96 * MIB))
    worker.tell("pid = os.fork() or (hold(300), os._exit(0))")
    worker.tell("os.waitpid(pid, 0)")
    assert limited.usage().oom_kills == 1
    assert procfs.read_identity(worker.pid) == worker.identity


def test_group_that_vanished_is_made_again(worker: Worker, limited: ProcessGroup, of_version_1: None) -> None:
    limited.limit(CAP)
    worker.tell("fork()")
    worker.tell("spin(0.05)")
    before_s = limited.cpu_s()
    assert before_s >= 0.05
    folders = [one.own / worker.name for one in cgroups.of_this_process() if (one.own / worker.name).exists()]
    for folder in folders:
        for pid in procfs.tree(worker.pid):
            (folder.parent / "cgroup.procs").write_text(str(pid))
        wait_until(lambda folder=folder: remove(folder), "the group is gone")  # type: ignore[misc]
    for read in (limited.cpu_s, limited.usage):
        with pytest.raises(OSError, match="No such file"):
            read()
    limited.limit(CAP)
    assert said(worker) == CAPPED
    assert limited.pids() == set(procfs.tree(worker.pid))
    assert len(limited.pids()) == 2
    assert limited.cpu_s() >= before_s


def remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


@contextmanager
def ordinary_user() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_user_who_may_not_write_is_told_so_and_nothing_changes(
    worker: Worker, limited: ProcessGroup, of_version_1: None
) -> None:
    if os.geteuid() != 0:
        pytest.skip("this needs root, to be somebody else for a moment")
    limited.limit(CAP)
    with ordinary_user(), pytest.raises(errors.LimitFailed, match="Permission denied") as failed:
        limited.limit(LIMITS)
    assert failed.value.hint
    assert "/" not in failed.value.client_message
    assert said(worker) == CAPPED


def test_cap_of_the_group_above_is_the_cap_when_it_is_lower(
    worker: Worker, grouping: Grouping, of_version_1: None
) -> None:
    assert grouping.cpu is not None
    above = grouping.cpu.own / f"zorya-test-above-{worker.pid}"
    above.mkdir()
    try:
        (above / "cpu.cfs_quota_us").write_text("20000")
        with enclosed(worker, replace(grouping, cpu=replace(grouping.cpu, own=above))) as found:
            found.limit(replace(CAP, cap_cores=0.9))
            assert (above / worker.name / "cpu.cfs_quota_us").read_text() == "-1\n"
            found.limit(replace(CAP, cap_cores=0.1))
            assert (above / worker.name / "cpu.cfs_quota_us").read_text() == "5000\n"
    finally:
        worker.end()
        above.rmdir()


def test_nothing_happens_when_the_engine_is_gone(worker: Worker, grouping: Grouping) -> None:
    with enclosed(worker, grouping) as found:
        found.cpu_s()
        worker.end()
        asyncio.run(found.remove())
        assert found.limit(CAP).shortfall == ""
        with pytest.raises(OSError, match="No such file"):
            found.cpu_s()


def test_open_descriptor_is_given_back(worker: Worker, limited: ProcessGroup) -> None:
    def open_ones() -> list[str]:
        # `realpath` and not `readlink`: the descriptor with which the folder is read is gone by then.
        return [os.path.realpath(one) for one in Path("/proc/self/fd").iterdir()]

    limited.cpu_s()
    assert any(worker.name in path for path in open_ones())
    limited.close()
    limited.close()
    assert not any(worker.name in path for path in open_ones())
    assert limited.cpu_s() >= 0
    asyncio.run(limited.freeze())
    assert not any(worker.name in path for path in open_ones())
    limited.thaw()
