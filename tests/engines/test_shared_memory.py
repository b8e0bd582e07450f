"""What a killed PostgreSQL leaves in the host's shared memory is removed with its data folder, and nothing else."""

import os
import signal
from pathlib import Path

import pytest

from engines.clusters import Cluster
from fix_shared_memory import mapped, posix_segments, system_v_segments
from waiting import wait_until
from zorya.compute import procfs
from zorya.engines.postgres import lockfile, shared_memory


def segment(data: Path) -> int:
    """Answer the number of the System V segment of the engine that was started last on the folder."""
    lock = lockfile.parse((data / lockfile.NAME).read_text())
    assert lock is not None
    assert lock.shared_memory is not None
    return lock.shared_memory


def kill_all(cluster: Cluster) -> None:
    """End all processes of the engine with SIGKILL, as when memory is short or by hand."""
    assert cluster.process is not None
    for pid in procfs.tree(cluster.process.pid):
        os.kill(pid, signal.SIGKILL)
    cluster.process.wait(30)
    wait_until(lambda: not list(procfs.find_processes_in(cluster.folders.data)), "all of it is gone")
    cluster.process = None


def test_all_is_removed_when_the_engine_was_killed(cluster: Cluster) -> None:
    cluster.start()
    assert cluster.process is not None
    data = cluster.folders.data
    own, dynamic = segment(data), mapped(cluster.process.pid)
    assert dynamic
    kill_all(cluster)
    assert own in system_v_segments()
    assert dynamic <= posix_segments()
    cluster.engine.release(data)
    assert own not in system_v_segments()
    assert not dynamic & posix_segments()
    # It was for a folder that is to be removed; one that is not starts all the same.
    cluster.start()


@pytest.mark.parametrize(
    "lines", [[], ["0"], ["x"], ["1", "/", "2", "3", "4", "5", "6"], ["-1", "", "", "", "", "", "a b"]]
)
def test_a_file_that_says_something_else_removes_nothing(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / lockfile.NAME).write_text("\n".join(lines))
    shared_memory.release(tmp_path)


def test_what_a_running_engine_has_is_let_be(running: Cluster) -> None:
    data = running.folders.data
    own = segment(data)
    running.engine.release(data)
    assert own in system_v_segments()
    with running.connect() as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_a_number_that_another_engine_has_now_is_let_be(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start()
    kill_all(cluster)
    own = segment(cluster.folders.data)
    told = (cluster.folders.data / lockfile.NAME).read_text().splitlines()
    (tmp_path / lockfile.NAME).write_text("\n".join(["1", *told[1:]]))
    shared_memory.release(tmp_path)
    assert own in system_v_segments()
    cluster.engine.release(cluster.folders.data)
    assert own not in system_v_segments()
