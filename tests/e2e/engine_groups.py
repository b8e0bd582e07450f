"""What the kernel and the engine are told of its capacity: control groups' files, and what a session is shown."""

import os
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from zorya.compute import cgroups, group, limits
from zorya.core.capacity import Acu, Bounds
from zorya.engines.postgres import sizes

GROUPING = group.examine(None)

needs_limits = pytest.mark.skipif(
    GROUPING.cpu is None or GROUPING.memory is None, reason=f"{GROUPING.cpu_reason} {GROUPING.memory_reason}"
)
needs_version_1 = pytest.mark.skipif(
    os.geteuid() != 0 or GROUPING.cpu is None or GROUPING.cpu.version != 1,
    reason="this needs root, and cores that are capped by control groups of version 1",
)

_FOLLOWING = ("work_mem", "maintenance_work_mem", "autovacuum_work_mem", "effective_cache_size", "max_wal_size")


@dataclass(frozen=True, kw_only=True)
class Held:
    """What one engine may use."""

    cores: float
    """The cap; the host's where there is none."""
    weight: int
    soft_bytes: int
    hard_bytes: int


def folder_of(pid: int, controller: str) -> Path:
    """Answer the folder of a process's group for this controller."""
    chosen = {"cpu": GROUPING.cpu, "memory": GROUPING.memory, "freezer": GROUPING.freezer}[controller]
    assert chosen is not None
    found = cgroups.group_of(pid, chosen)
    assert found is not None
    return found


def expected(acu: Acu, capacity: float, most: float, *, burst: bool) -> Held:
    """Answer what an engine may use that has this capacity, and this at the most."""
    assert GROUPING.cpu is not None
    return Held(
        cores=min(acu.cores_of(most if burst else capacity), len(os.sched_getaffinity(0))),
        weight=limits.weight_of(capacity, GROUPING.cpu.version),
        soft_bytes=acu.memory_of(capacity),
        hard_bytes=acu.memory_of(most),
    )


def read_held(pid: int) -> Held:
    """Answer what the kernel holds an engine to."""
    cpu, memory = folder_of(pid, "cpu"), folder_of(pid, "memory")
    if (cpu / "cpu.max").exists():
        quota, period = (cpu / "cpu.max").read_text().split()
        weight = int((cpu / "cpu.weight").read_text())
    else:
        quota = (cpu / "cpu.cfs_quota_us").read_text().strip().replace("-1", "max")
        period = (cpu / "cpu.cfs_period_us").read_text()
        weight = int((cpu / "cpu.shares").read_text())
    version = 2 if (memory / "memory.max").exists() else 1
    hard, soft = limits.FILES["memory", version]
    return Held(
        cores=len(os.sched_getaffinity(0)) if quota == "max" else int(quota) / int(period),
        weight=weight,
        soft_bytes=int((memory / soft).read_text()),
        hard_bytes=int((memory / hard).read_text()),
    )


def count_killed(pid: int) -> int:
    """Answer how many of an engine's processes the kernel has ended for want of memory."""
    memory = folder_of(pid, "memory")
    file = memory / ("memory.events" if (memory / "memory.events").exists() else "memory.oom_control")
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("oom_kill "))


def has_settings(session: psycopg.Connection, acu: Acu, capacity: float) -> bool:
    """Whether a session is shown the settings of this capacity, of 0.5 to 4 ACUs."""
    wanted = sizes.following(capacity, Bounds(least=0.5, most=4), acu)
    same = [f"pg_size_bytes(current_setting('{name}')) = pg_size_bytes('{wanted[name]}')" for name in _FOLLOWING]
    return session.execute(f"SELECT {' AND '.join(same)}").fetchone() == (True,)
