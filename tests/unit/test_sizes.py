"""What PostgreSQL's settings are worth at a capacity, by value; tests/engines/test_capacity.py asks real engines."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from zorya.core.capacity import LIMIT, STEP, Acu, Bounds
from zorya.engines.postgres import sizes

GIB = 1024**3
MIB = 1024**2
AURORA = Acu(memory_bytes=2 * GIB, cores=0.25)
SMALL = Acu(memory_bytes=64 * MIB, cores=0.01)
LARGE = Acu(memory_bytes=2**50, cores=64)
STEPS = [STEP * count for count in range(1, int(LIMIT / STEP) + 1)]

ACUS = st.sampled_from([AURORA, SMALL, LARGE]) | st.builds(
    Acu, memory_bytes=st.integers(64, 2**24).map(lambda mib: mib * MIB), cores=st.floats(1e-6, 64)
)
BOUNDS = st.lists(st.sampled_from(STEPS), min_size=2, max_size=2).map(
    lambda ends: Bounds(least=min(ends), most=max(ends))
)

RANGES = {
    # Of pg_settings, what PostgreSQL 14 to 17 all take, in bytes where it is memory or log.
    "max_connections": (1, 262143 - 100),
    "max_worker_processes": (0, 1000),
    "shared_buffers": (128 * 1024, (2**30 - 1) * 8192),
    "work_mem": (64 * 1024, (2**31 - 1) * 1024),
    "maintenance_work_mem": (MIB, (2**31 - 1) * 1024),
    "autovacuum_work_mem": (MIB, (2**31 - 1) * 1024),
    "effective_cache_size": (8192, (2**31 - 1) * 8192),
    "max_parallel_workers": (0, 1024),
    "max_parallel_workers_per_gather": (0, 1024),
    "max_parallel_maintenance_workers": (0, 1024),
    "autovacuum_vacuum_cost_limit": (1, 10000),
    "max_wal_size": (2 * 16 * MIB, (2**31 - 1) * MIB),
    "min_wal_size": (2 * 16 * MIB, (2**31 - 1) * MIB),
}


def amount(value: str) -> int:
    found = re.fullmatch(r"(\d+)(kB|MB|)", value)
    assert found, value
    return int(found[1]) * {"": 1, "kB": 1024, "MB": MIB}[found[2]]


def amounts(settings: dict[str, str]) -> dict[str, int]:
    return {name: amount(value) for name, value in settings.items()}


@pytest.mark.parametrize(
    ("capacity", "work_mem", "maintenance", "cache", "workers", "wal"),
    [
        (0.5, "4MB", "64MB", "768MB", "4", "1024MB"),
        (1, "8MB", "128MB", "1536MB", "4", "1024MB"),
        (4, "32MB", "512MB", "6144MB", "4", "4096MB"),
        (16, "128MB", "1024MB", "24576MB", "8", "8192MB"),
        (128, "256MB", "1024MB", "196608MB", "64", "8192MB"),
        (256, "256MB", "1024MB", "393216MB", "64", "8192MB"),
    ],
)
def test_settings_follow_the_capacity(
    capacity: float, work_mem: str, maintenance: str, cache: str, workers: str, wal: str
) -> None:
    found = sizes.following(capacity, Bounds(least=0.5, most=256), AURORA)
    assert found["work_mem"] == work_mem
    assert found["maintenance_work_mem"] == maintenance
    assert found["effective_cache_size"] == cache
    assert found["max_parallel_workers"] == workers
    assert found["max_wal_size"] == wal


@pytest.mark.parametrize(
    ("least", "most", "connections", "buffers", "workers"),
    [
        (0.5, 0.5, "100", "128MB", "8"),
        (0.5, 4, "800", "256MB", "8"),
        (0.5, 256, "5000", "256MB", "72"),
        (4, 256, "5000", "1024MB", "72"),
        (8, 8, "1600", "512MB", "10"),
    ],
)
def test_what_stays_is_chosen_for_the_highest_capacity_and_fits_the_lowest(
    least: float, most: float, connections: str, buffers: str, workers: str
) -> None:
    assert sizes.at_start(Bounds(least=least, most=most), AURORA) == {
        "max_connections": connections,
        "shared_buffers": buffers,
        "max_worker_processes": workers,
    }


def test_queries_use_one_process_when_no_capacity_has_two_cores() -> None:
    found = amounts(sizes.following(4, Bounds(least=0.5, most=4), AURORA))
    assert {value for name, value in found.items() if "parallel" in name} == {0}


def test_query_may_use_more_processes_than_the_present_cores_so_that_it_can_show_its_need() -> None:
    found = amounts(sizes.following(0.5, Bounds(least=0.5, most=32), AURORA))
    assert (found["max_parallel_workers"], found["max_parallel_workers_per_gather"]) == (4, 2)


@given(ACUS, BOUNDS)
def test_no_setting_is_one_that_postgresql_refuses(acu: Acu, bounds: Bounds) -> None:
    for capacity in (bounds.least, bounds.clamp(2.5), bounds.most):
        found = amounts(sizes.at_start(bounds, acu) | sizes.following(capacity, bounds, acu))
        assert found.keys() == RANGES.keys()
        for name, (least, most) in RANGES.items():
            assert least <= found[name] <= most, name
        assert found["max_parallel_workers_per_gather"] <= found["max_parallel_workers"] < found["max_worker_processes"]
        assert found["min_wal_size"] < found["max_wal_size"]


@pytest.mark.parametrize("acu", [AURORA, SMALL, LARGE])
def test_no_setting_falls_from_step_to_step(acu: Acu) -> None:
    bounds = Bounds(least=STEP, most=LIMIT)
    before = amounts(sizes.following(STEP, bounds, acu))
    for capacity in STEPS:
        found = amounts(sizes.following(capacity, bounds, acu))
        assert all(value >= before[name] for name, value in found.items()), capacity
        before = found


@given(ACUS, BOUNDS)
def test_no_setting_falls_when_the_capacity_rises(acu: Acu, bounds: Bounds) -> None:
    lower = amounts(sizes.following(bounds.least, bounds, acu))
    for name, value in amounts(sizes.following(bounds.most, bounds, acu)).items():
        assert value >= lower[name], name


@given(ACUS, BOUNDS, st.sampled_from(STEPS))
def test_nothing_that_stays_falls_when_the_highest_capacity_rises(acu: Acu, bounds: Bounds, most: float) -> None:
    lower, higher = sorted([bounds.most, max(bounds.least, most)])
    before = amounts(sizes.at_start(Bounds(least=bounds.least, most=lower), acu))
    for name, value in amounts(sizes.at_start(Bounds(least=bounds.least, most=higher), acu)).items():
        assert value >= before[name], name


@given(ACUS, BOUNDS, st.sampled_from(STEPS))
def test_sessions_at_work_and_maintenance_fit_into_the_memory(acu: Acu, bounds: Bounds, capacity: float) -> None:
    capacity = bounds.clamp(capacity)
    memory = acu.memory_of(capacity)
    # With less, the least that PostgreSQL can use is more than a share.
    assume(memory >= 256 * MIB)
    found = amounts(sizes.following(capacity, bounds, acu))
    operations = max(128, 16 * acu.cores_of(capacity))
    # Of a byte more or less the rounding of the cores decides.
    assert found["work_mem"] <= max(memory / 2 / operations, MIB) + 1
    maintaining = found["maintenance_work_mem"] + 3 * found["autovacuum_work_mem"]
    assert maintaining <= memory / 5
    assert amounts(sizes.at_start(bounds, acu))["shared_buffers"] <= acu.memory_of(bounds.least) / 4
