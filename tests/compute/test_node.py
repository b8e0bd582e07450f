"""How much there is for all clusters together."""

import os
from pathlib import Path

import pytest

from zorya.compute import node
from zorya.compute.cgroups import Hierarchy
from zorya.compute.node import Node
from zorya.core.capacity import Acu

GIB = 1 << 30
ACU = Acu(memory_bytes=2 * GIB, cores=0.25)


@pytest.mark.parametrize(
    ("cores", "memory", "expected"),
    [(2, 64 * GIB, 8), (64, 23 * GIB, 11.5), (64, 24 * GIB - 1, 11.5), (0.1, GIB // 2, 0.5), (0.75, 6 * GIB, 3)],
)
def test_capacity_is_what_there_are_both_memory_and_cores_for(cores: float, memory: int, expected: float) -> None:
    assert Node(cores=cores, memory_bytes=memory).capacity(ACU) == expected


def hierarchy(mount: Path, version: int, controller: str, own: str) -> Hierarchy:
    (mount / own).mkdir(parents=True)
    return Hierarchy(version=version, controller=controller, mount=mount, mount_root="/", own=mount / own)


def test_limits_of_every_group_above_count(tmp_path: Path) -> None:
    found = hierarchy(tmp_path / "cgroup", 2, "", "system.slice/zorya.service")
    assert node.measure([found], cpus=8, memory_bytes=16 * GIB) == Node(cores=8, memory_bytes=16 * GIB)
    (found.own / "cpu.max").write_text("max 100000\n")
    (found.own / "memory.max").write_text("max\n")
    (found.own.parent / "cpu.max").write_text("150000 50000\n")
    (found.own.parent / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "cpu.max").write_text("1 100000\n")
    assert node.measure([found], cpus=8, memory_bytes=16 * GIB) == Node(cores=3, memory_bytes=8 * GIB)
    (found.own / "memory.high").write_text(f"{GIB}\n")
    assert node.measure([found], cpus=2, memory_bytes=16 * GIB) == Node(cores=2, memory_bytes=GIB)


def test_limits_of_version_1_count_in_their_own_hierarchies(tmp_path: Path) -> None:
    cpu = hierarchy(tmp_path / "cpu", 1, "cpu", "box")
    memory = hierarchy(tmp_path / "memory", 1, "memory", "box/inner")
    (cpu.own / "cpu.cfs_period_us").write_text("100000\n")
    (cpu.own / "cpu.cfs_quota_us").write_text("-1\n")
    (memory.own / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert node.measure([cpu, memory], cpus=4, memory_bytes=GIB) == Node(cores=4, memory_bytes=GIB)
    (cpu.own / "cpu.cfs_quota_us").write_text("50000\n")
    (memory.own.parent / "memory.limit_in_bytes").write_text("1073741824\n")
    assert node.measure([cpu, memory], cpus=4, memory_bytes=4 * GIB) == Node(cores=0.5, memory_bytes=GIB)


def test_host_is_measured() -> None:
    found = node.examine()
    assert 0 < found.cores <= len(os.sched_getaffinity(0))
    assert 0 < found.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with pytest.raises(ValueError, match="MemTotal"):
        node.parse_meminfo("MemFree: 1 kB\n")
