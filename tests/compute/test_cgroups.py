"""Which control groups a process may use, from what the kernel says of them; and real groups where there are any."""

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from waiting import wait_until
from zorya.compute import cgroups, freezer, group, procfs
from zorya.compute.cgroups import Hierarchy
from zorya.compute.freezer import Freezer, Way
from zorya.compute.group import ProcessGroup
from zorya.core import errors

SYSTEMD = """\
25 30 0:23 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
26 30 0:24 / /sys/kernel/security rw - securityfs securityfs rw
"""
HYBRID = """\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
CONTAINER = """\
700 650 0:23 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw
701 650 0:23 /elsewhere /mnt/cg\\040x ro - cgroup2 cgroup rw
"""


def test_service_below_systemd_has_its_own_group_of_version_2() -> None:
    (found,) = cgroups.parse(SYSTEMD, "0::/system.slice/zorya.service\n")
    assert (found.version, found.controller) == (2, "")
    assert found.own == Path("/sys/fs/cgroup/system.slice/zorya.service")


def test_hybrid_host_has_both_versions_and_version_2_comes_first() -> None:
    found = cgroups.parse(HYBRID, "6:freezer:/\n5:cpu,cpuacct:/box\n4:memory:/box/1\n0::/\n")
    assert [(one.version, one.controller, str(one.own)) for one in found] == [
        (2, "", "/sys/fs/cgroup/unified"),
        (1, "memory", "/sys/fs/cgroup/memory/box/1"),
        (1, "freezer", "/sys/fs/cgroup/freezer"),
        (1, "cpu", "/sys/fs/cgroup/cpu/box"),
        (1, "cpuacct", "/sys/fs/cgroup/cpu/box"),
    ]


def test_group_is_found_below_the_part_that_a_container_is_shown() -> None:
    (found,) = cgroups.parse(CONTAINER, "0::/docker/abc/inner\n")
    assert found.own == Path("/sys/fs/cgroup/inner")
    assert found.folder_of("/docker/abc/inner/zorya-x") == Path("/sys/fs/cgroup/inner/zorya-x")


def test_nothing_is_found_when_the_kernel_has_no_control_groups() -> None:
    assert cgroups.parse("26 30 0:24 / /proc rw - proc proc rw\n", "") == []


def test_way_is_signals_when_no_group_can_be_made() -> None:
    (systemd,) = cgroups.parse(SYSTEMD, "0::/no/such/service\n")
    found = group.examine(None, [systemd])
    assert found.freezer is None
    assert found.freezer_reason == "Engines are frozen by SIGSTOP: this user may not make control groups."
    assert group.examine(None, []).freezer_reason == "Engines are frozen by SIGSTOP: this host has no freezer."


def writable(folder: Path, version: int, controller: str) -> Hierarchy:
    """A hierarchy in a folder of ordinary files."""
    folder.mkdir(exist_ok=True)
    (folder / "cgroup.procs").touch()
    return Hierarchy(version=version, controller=controller, mount=folder, mount_root="/", own=folder)


def test_controllers_of_version_2_count_when_groups_below_have_them(tmp_path: Path) -> None:
    unified = writable(tmp_path, 2, "")
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    found = group.examine(None, [unified])
    assert (found.freezer, found.memory, found.cpu, found.accounting) == (unified, unified, None, unified)
    assert found.cpu_reason == (
        "Clusters are kept to whole CPUs, and share them evenly: groups below Zorya's own have no cpu controller."
    )
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    found = group.examine(None, [unified])
    assert (found.memory, found.cpu, found.accounting, found.all) == (unified, unified, unified, [unified])


def test_hybrid_host_counts_time_where_it_is_cheapest(tmp_path: Path) -> None:
    unified = writable(tmp_path / "unified", 2, "")
    (unified.own / "cgroup.subtree_control").touch()
    cpu, time = (writable(tmp_path / "cpu,cpuacct", 1, controller) for controller in ("cpu", "cpuacct"))
    found = group.examine(None, [unified, cpu, time])
    assert (found.freezer, found.cpu, found.accounting, found.memory) == (unified, cpu, time, None)
    assert len(found.all) == 2
    assert group.examine(None, [unified, cpu]).accounting == unified
    missing = replace(cpu, own=tmp_path / "nowhere")
    assert group.examine(None, [missing]).cpu_reason.endswith(": this user may not make control groups.")


PROGRAM = "sleep 1000 & sh -c 'sleep 1000 & exec sleep 1000' & while :; do sleep 0.01; done"


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    """A process with children and a grandchild, one of which is replaced over and over."""
    process = subprocess.Popen(["/bin/sh", "-c", PROGRAM])
    wait_until(lambda: len(procfs.tree(process.pid)) >= 5, "the tree is there")
    yield process
    for pid in reversed(procfs.tree(process.pid)):
        subprocess.run(["kill", "-9", str(pid)], check=False)
        subprocess.run(["kill", "-CONT", str(pid)], check=False, stderr=subprocess.DEVNULL)
    process.wait()


@pytest.fixture
def enclosed(way: Way, tree: subprocess.Popen[bytes]) -> Iterator[ProcessGroup]:
    identity = procfs.read_identity(tree.pid)
    assert identity is not None
    found = ProcessGroup.enclose(group.examine(way), f"zorya-test-{tree.pid}", identity)
    assert found.freezer.way is way
    yield found
    found.thaw()
    for pid in found.pids():
        subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)
    tree.wait()
    asyncio.run(found.remove())
    assert not found.freezer.folder or not Path(found.freezer.folder).exists()


def freeze(group: ProcessGroup) -> None:
    """Freeze it, once more if a busy host has not let all of its processes stop in time."""

    def is_done() -> bool:
        try:
            asyncio.run(group.freeze())
        except errors.FreezeFailed:
            return False
        return True

    wait_until(is_done, "it is frozen")


def is_frozen(group: ProcessGroup) -> bool:
    return group.is_frozen


def test_every_process_of_the_tree_is_frozen_and_goes_on_at_the_thaw(enclosed: ProcessGroup) -> None:
    assert not is_frozen(enclosed)
    freeze(enclosed)
    assert is_frozen(enclosed)
    assert freezer.is_complete(enclosed.freezer)
    frozen = enclosed.pids()
    assert len(frozen) >= 4
    before = {pid: procfs.read_identity(pid) for pid in frozen}
    enclosed.thaw()
    enclosed.thaw()
    assert not is_frozen(enclosed)
    wait_until(lambda: enclosed.pids() != frozen, "it replaces its child again")
    assert before[enclosed.freezer.pid] == procfs.read_identity(enclosed.freezer.pid)


def test_group_is_found_again_by_a_later_server(enclosed: ProcessGroup, way: Way) -> None:
    freeze(enclosed)
    identity = procfs.read_identity(enclosed.freezer.pid)
    assert identity is not None
    again = ProcessGroup.enclose(group.examine(way), enclosed.name, identity)
    assert again.freezer == enclosed.freezer
    assert is_frozen(again)
    assert freezer.from_json(freezer.to_json(again.freezer)) == again.freezer
    freezer.thaw(freezer.from_json(freezer.to_json(again.freezer)))
    assert not is_frozen(enclosed)


def test_thawing_what_is_gone_does_nothing(way: Way) -> None:
    gone = Freezer(way=way, folder="/sys/fs/cgroup/no/such/group", pid=2**22 - 1, start_ticks=1)
    freezer.thaw(gone)
    assert not freezer.is_begun(gone)
    assert not freezer.is_complete(gone)


def test_number_of_another_process_is_not_trusted_by_signals(tree: subprocess.Popen[bytes]) -> None:
    identity = procfs.read_identity(tree.pid)
    assert identity is not None
    other = Freezer(way=Way.SIGNALS, folder="", pid=tree.pid, start_ticks=identity.start_ticks - 1)
    freezer.begin(other)
    assert procfs.read_state(tree.pid) != "T"


def test_waiting_signal_of_a_frozen_process_is_seen(enclosed: ProcessGroup) -> None:
    freeze(enclosed)
    sleeper = max(pid for pid in enclosed.pids() if procfs.read_state(pid) != "Z")
    assert not procfs.awaits_signal(sleeper)
    subprocess.run(["kill", "-ALRM", str(sleeper)], check=True)
    assert procfs.awaits_signal(sleeper)


def test_memory_of_a_group_is_told(enclosed: ProcessGroup) -> None:
    wait_until(lambda: enclosed.resident_bytes() > 0, "its new children are counted")
    enclosed.reclaim()
