"""Clusters on some of the CPUs, where the kernel offers nothing finer."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.workers import Worker, enclosed
from waiting import wait_until
from zorya.compute import affinity, procfs
from zorya.compute.group import Grouping
from zorya.compute.limits import Limits


@given(cpus=st.sets(st.integers(0, 255), min_size=1), cores=st.floats(0.01, 300), name=st.text())
def test_as_many_cpus_are_chosen_as_hold_the_cap(cpus: set[int], cores: float, name: str) -> None:
    chosen = affinity.choose(cpus, cores, name)
    assert chosen <= cpus
    assert len(chosen) >= min(cores, len(cpus))
    assert len(chosen) - 1 < max(cores, 1)
    assert affinity.choose(cpus, 2 * cores, name) >= chosen
    assert affinity.choose(cpus, cores, name) == chosen


def test_clusters_are_spread_over_the_cpus() -> None:
    chosen = [affinity.choose(range(4), 1, f"zorya-{number}") for number in range(400)]
    assert all(chosen.count(frozenset({cpu})) > 50 for cpu in range(4))


def limits(cores: float) -> Limits:
    return Limits(cap_cores=cores, weight_acu=1, soft_bytes=1, hard_bytes=1)


def test_whole_group_is_kept_to_some_cpus_and_let_go_again(worker: Worker, bare: Grouping) -> None:
    own = os.sched_getaffinity(0)
    if len(own) < 2:
        pytest.skip("this needs two CPUs")
    worker.tell("import threading; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()")
    worker.tell("fork()")
    with enclosed(worker, bare) as found:
        assert found.limit(limits(1000)).shortfall == ""
        assert all(os.sched_getaffinity(pid) == own for pid in found.pids())
        found.limit(limits(0.5))
        worker.tell("fork()")
        wait_until(lambda: len(found.pids()) == 3, "the second child is there")
        expected = affinity.choose(own, 0.5, worker.name)
        threads = [int(one.name) for pid in procfs.tree(worker.pid) for one in Path(f"/proc/{pid}/task").iterdir()]
        assert len(threads) == 4
        assert {frozenset(os.sched_getaffinity(one)) for one in threads} == {expected}
        found.limit(limits(len(own)))
        assert {frozenset(os.sched_getaffinity(one)) for one in threads} == {frozenset(own)}
    assert found.limit(limits(0.5)).shortfall == ""
