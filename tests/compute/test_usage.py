"""What a group uses, out of what the kernel says of it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from compute.workers import Worker, enclosed, version_2
from waiting import wait_until
from zorya.compute import procfs, usage
from zorya.compute.counters import Counters
from zorya.compute.group import Grouping, ProcessGroup
from zorya.compute.usage import Usage

MIB = 1 << 20
CAP_SYS_RESOURCE = 24

STAT_1 = f"""\
cache {300 * MIB}
rss {50 * MIB}
shmem {30 * MIB}
workingset_refault_anon 2
workingset_refault_file 3
active_file {90 * MIB}
unevictable 4096
total_rss {900 * MIB}
"""


def test_shared_memory_is_counted_once_in_version_1() -> None:
    found = usage.parse_memory_1(f"{400 * MIB}\n", STAT_1, f"{5 * MIB}\n")
    assert found.unreclaimable_bytes == 85 * MIB
    assert (found.memory_bytes, found.warm_bytes, found.refaults) == (400 * MIB, 90 * MIB, 5)


def test_kernel_that_counts_less_is_read_as_well() -> None:
    found = usage.parse_memory_1("4096", "rss 8192\n", "")
    assert (found.unreclaimable_bytes, found.refaults) == (4096, None)
    assert usage.parse_memory_2("4096", "workingset_refault 7\n").refaults == 7
    assert usage.parse_throttled(2, "usage_usec 1\n") is None
    assert usage.parse_throttled(1, "nr_throttled 1\nthrottled_time 1500000000\n") == 1.5
    assert usage.parse_oom_kills("oom_kill_disable 0\nunder_oom 0\n") is None


def test_group_of_version_2_is_read(tmp_path: Path) -> None:
    counters = Counters(version_2(tmp_path), first=os.getpid(), pids=lambda: {os.getpid()})
    assert counters.read() == Usage(
        cpu_s=2.5,
        throttled_s=0.75,
        waited_s=1.25,
        memory_bytes=512 * MIB,
        unreclaimable_bytes=(64 + 32 + 4 + 2 + 1) * MIB,
        warm_bytes=100 * MIB,
        refaults=12,
        oom_kills=1,
    )
    (tmp_path / "cpu.pressure").unlink()
    (tmp_path / "cpu.stat").write_text("usage_usec 3000000\n")
    found = counters.read()
    assert (found.cpu_s, found.throttled_s) == (3.0, None)
    assert found.waited_s is None or found.waited_s >= 0
    counters.close()


def test_processor_time_goes_on_from_where_it_was_when_the_counter_begins_anew(tmp_path: Path) -> None:
    counters = Counters(version_2(tmp_path), first=os.getpid(), pids=set)
    assert counters.cpu_s() == 2.5
    for usec, expected_s in ((1000000, 2.5), (1500000, 3.0), (4000000, 5.5)):
        (tmp_path / "cpu.stat").write_text(f"usage_usec {usec}\n")
        assert counters.cpu_s() == expected_s
    counters.close()


def test_usage_rises_with_what_is_done(worker: Worker, limited: ProcessGroup) -> None:
    before = limited.usage()
    worker.tell("hold(64)")
    worker.tell("spin(0.05)")
    after = limited.usage()
    assert after.cpu_s >= before.cpu_s + 0.05
    assert after.unreclaimable_bytes >= before.unreclaimable_bytes + 60 * MIB
    assert after.memory_bytes >= after.unreclaimable_bytes
    assert after.oom_kills == 0
    assert after.refaults is not None
    assert limited.cpu_s() >= after.cpu_s


def test_usage_rises_without_control_groups(worker: Worker, bare: Grouping) -> None:
    with enclosed(worker, bare) as found:
        before = found.usage()
        worker.tell("hold(64)")
        worker.tell("pid = os.fork() or (spin(0.1), os._exit(0))")
        worker.tell("os.waitpid(pid, 0)")
        after = found.usage()
        assert after.cpu_s >= before.cpu_s + 0.08
        assert after.unreclaimable_bytes >= before.unreclaimable_bytes + 60 * MIB
        assert (after.throttled_s, after.refaults, after.oom_kills) == (None, None, None)
        worker.end()
        with pytest.raises(ProcessLookupError):
            found.usage()


def test_waiting_is_summed_over_processes_where_the_kernel_has_no_pressure(worker: Worker, grouping: Grouping) -> None:
    delay = procfs.run_delay_s([worker.pid])
    if delay is None:
        pytest.skip("this kernel has no schedstat")
    with enclosed(worker, replace(grouping, freezer=None, accounting=None)) as found:
        assert found.usage().waited_s is not None

        def has_waited() -> bool:
            worker.tell("spin(0.01)")
            return (found.usage().waited_s or 0) > delay

        wait_until(has_waited, "it had to wait for a CPU")


def test_first_process_is_protected_where_that_is_allowed(worker: Worker) -> None:
    path = Path(f"/proc/{worker.pid}/oom_score_adj")
    before = path.read_text()
    is_protected = procfs.protect(worker.pid)
    assert path.read_text() == (f"{procfs.PROTECTED}\n" if is_protected else before)
    assert is_protected == bool(procfs.effective_capabilities() & 1 << CAP_SYS_RESOURCE)
    worker.end()
    assert not procfs.protect(worker.pid)
