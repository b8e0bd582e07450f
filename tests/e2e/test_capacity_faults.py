"""What is in the way of a cluster's capacity: too little memory, groups that vanish or refuse, deaths, a full node."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest

from e2e.engine_groups import (
    GROUPING,
    count_killed,
    expected,
    folder_of,
    has_settings,
    needs_limits,
    needs_version_1,
    read_held,
)
from e2e.turned import Turned, is_written, told
from fix_home import DISK, running_for_a_file
from harness import Server, end
from waiting import wait_until
from zorya.compute import placement
from zorya.core import errors
from zorya.core.capacity import Acu

MIB = 1024**2
ACU = Acu(memory_bytes=2048 * MIB, cores=0.25)


@pytest.fixture(scope="module")
def tight(templates: Path) -> Iterator[Server]:
    """A server whose clusters have very little memory."""
    with running_for_a_file(templates, DISK, ZORYA_ACU_MEMORY_MIB="64", ZORYA_FREEZE_AFTER="never") as started:
        yield started


@pytest.fixture
def server(stopped_server: Server) -> Server:
    """A server that the test starts; its clusters do not sleep by themselves."""
    stopped_server.env |= {"ZORYA_PAUSE_AFTER": "never", "ZORYA_FREEZE_AFTER": "never"}
    return stopped_server


@needs_limits
def test_event_tells_of_a_kill_for_memory_and_the_cluster_goes_on_with_more(tight: Server) -> None:
    tight.api.create({"name": "killed", "max_capacity": 1})
    tight.query("CREATE TABLE kept AS SELECT g FROM generate_series(1, 1000) AS g", "killed")
    pid = tight.show("killed")["engine_pid"]
    with pytest.raises(psycopg.OperationalError):
        tight.query(
            "SELECT length(string_agg(repeat(md5(n::text), 100), '')) FROM generate_series(1, 200000) AS n", "killed"
        )

    def counts() -> list[tuple[int]]:
        with suppress(psycopg.OperationalError):
            return list(tight.query("SELECT count(*) FROM kept", "killed"))
        return []

    assert wait_until(counts, "it has recovered") == [(1000,)]
    assert count_killed(pid) == 1
    said = wait_until(lambda: told(tight, "1014", name="killed"), "it is told")
    assert len(said) == 1
    assert re.search(r"It ended 1 \((client backend|server process)\)\.", said[0])
    wait_until(lambda: tight.show("killed")["capacity"] == 1, "it has as much as it may have")
    assert tight.show("killed")["engine_pid"] == pid


@needs_limits
def test_bulk_load_of_several_times_the_memory_goes_through(tight: Server) -> None:
    tight.api.create({"name": "bulk", "max_capacity": 1})
    rows, block = 200_000, 1000
    with psycopg.connect(tight.url("bulk"), autocommit=True) as session:
        session.execute("CREATE TABLE lines (n int, line text)")
        pid = tight.show("bulk")["engine_pid"]
        with session.cursor().copy("COPY lines FROM STDIN") as copy:
            for first in range(0, rows, block):
                copy.write("".join(f"{n}\t{'z' * 1000}\n" for n in range(first, first + block)))
        assert read_held(pid).hard_bytes < 128 * MIB
        assert session.execute("SELECT count(*), sum(n), sum(length(line)) FROM lines").fetchone() == (
            rows,
            rows * (rows - 1) // 2,
            rows * 1000,
        )
    assert count_killed(pid) == 0
    assert tight.show("bulk")["engine_pid"] == pid


STEPS = [
    ("scale.begun", 0.5, 4.0),
    ("scale.limited", 0.5, 4.0),
    ("scale.done", 1.5, 3.0),
    ("scale.limited", 4.0, 0.5),
]


@needs_limits
def test_capacity_is_whole_at_the_next_start_when_the_server_is_killed_in_the_middle_of_a_change(
    server: Server,
) -> None:
    go_on = server.home.parent / "go on"
    reached = go_on.with_suffix(".reached")
    server.env |= {"ZORYA_FAILPOINT_RELEASE": str(go_on), "ZORYA_FAILPOINTS": f"{STEPS[0][0]}=pause"}
    go_on.touch()
    server.start()
    with (
        psycopg.connect(server.url(), sslmode="disable") as busy,
        psycopg.connect(server.url(), autocommit=True, sslmode="disable") as other,
        ThreadPoolExecutor(1) as thread,
    ):
        busy.execute("CREATE TEMPORARY TABLE mine (step text)")
        pid = server.show()["engine_pid"]
        for number, (step, before, after) in enumerate(STEPS, 1):
            server.api.set_capacity("main", before)
            wait_until(partial(is_written, server, before), "what it has is written down")
            go_on.unlink()
            reached.unlink(missing_ok=True)
            asked = thread.submit(server.api.set_capacity, "main", after)
            wait_until(reached.exists, f"{step} is reached")
            server.kill()
            with pytest.raises(errors.ServerUnreachable):
                asked.result()
            busy.execute("INSERT INTO mine VALUES (%s)", [step])
            go_on.touch()
            server.start(ZORYA_FAILPOINTS=f"{STEPS[number % len(STEPS)][0]}=pause")
            shown = server.show()
            assert (shown["engine_pid"], shown["sessions"]) == (pid, 2)
            assert shown["capacity"] in {before, after}
            wait_until(partial(is_whole, server, other), "limits and settings are those of the capacity")
            assert busy.execute("SELECT count(*) FROM mine").fetchone() == (number,)
        busy.commit()


def is_whole(server: Server, session: psycopg.Connection) -> bool:
    """Whether limits and settings agree with the capacity that the server shows."""
    shown = server.show()
    is_held = read_held(shown["engine_pid"]) == expected(ACU, shown["capacity"], 4, burst=True)
    return is_held and has_settings(session, ACU, shown["capacity"])


def vanish(folder: Path) -> None:
    """Move everybody out of a group and remove it, as an administrator or another program might."""
    target = folder.parent / "cgroup.procs"

    def try_once() -> bool:
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                target.write_text(pid)
        try:
            folder.rmdir()
        except OSError:
            return False
        return True

    wait_until(try_once, f"{folder} is removed")


@needs_version_1
def test_group_that_vanished_is_made_again_under_sessions_that_notice_nothing(server: Server) -> None:
    server.start()
    with psycopg.connect(server.url()) as session:
        session.execute("CREATE TEMPORARY TABLE mine AS SELECT 1 AS one")
        server.api.set_capacity("main", 2)
        pid = server.show()["engine_pid"]
        name = folder_of(pid, "memory").name

        def is_held(capacity: float) -> bool:
            try:
                folders = [folder_of(one, "memory").name for one in (pid, session.info.backend_pid)]
                return folders == [name, name] and read_held(pid) == expected(ACU, capacity, 4, burst=True)
            except OSError:
                return False

        assert is_held(2)
        vanish(folder_of(pid, "memory"))
        wait_until(lambda: is_held(2), "the next look puts it back")
        vanish(folder_of(pid, "cpu"))
        vanish(folder_of(pid, "memory"))
        shown = server.api.set_capacity("main", 3)
        assert shown["capacity"] == 3
        assert is_held(3)
        assert session.execute("SELECT one FROM mine").fetchone() == (1,)
    assert "0143" not in server.events()


CONTROLLERS = sorted({one.mount for one in GROUPING.all})


def in_own_mounts(server: Server, *, read_only: bool) -> None:
    """Have the server see the control groups through mounts of its own."""
    steps = ["set -e"]
    for mount in CONTROLLERS:
        steps += [f"mount --bind {mount} {mount}"]
        steps += [f"mount -o remount,bind,ro {mount}"] if read_only else []
    script = "; ".join([*steps, 'exec "$0" "$@"'])
    server.command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        sys.executable,
        "-m",
        "zorya",
    ]


def remount(server: Server, flag: str) -> None:
    """Have the server's mounts of the control groups be `ro` or `rw`."""
    assert server.process is not None
    steps = "; ".join(f"mount -o remount,bind,{flag} {mount}" for mount in CONTROLLERS)
    enter = ["nsenter", "--target", str(server.process.pid), "--mount"]
    subprocess.run([*enter, "sh", "-c", f"set -e; {steps}"], check=True)


needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nsenter") is None or not CONTROLLERS,
    reason="this needs root, unshare, nsenter and control groups",
)


@needs_limits
@needs_mounts
def test_limits_that_are_refused_are_told_once_and_set_when_they_can_be(server: Server) -> None:
    server.allow("capacity cannot be applied")
    turned = Turned(server)
    hurrying = server.command
    in_own_mounts(server, read_only=False)
    server.command = [*server.command[:-3], *hurrying]
    server.start()
    with psycopg.connect(server.url(), autocommit=True) as session:
        server.api.set_capacity("main", 2)
        shown = server.show()
        remount(server, "ro")
        for capacity in (4, 0.5, 4, 0.5):
            # It is tried again by itself as well; the last time that is after the mounts are writable, all of them.
            turned.pass_s(6)
            with pytest.raises(errors.ZoryaError, match=r"The kernel did not take the limits of .*: .*Read-only"):
                server.api.set_capacity("main", capacity)
            assert session.execute("SELECT 1").fetchone() == (1,)
        assert (server.show()["capacity"], read_held(shown["engine_pid"])) == (2, expected(ACU, 2, 4, burst=True))
        assert has_settings(session, ACU, 2)
        remount(server, "rw")
        turned.pass_s(6)
        wait_until(lambda: server.show()["capacity"] == 0.5, "it is tried again")
        assert read_held(shown["engine_pid"]) == expected(ACU, 0.5, 4, burst=True)
        wait_until(lambda: has_settings(session, ACU, 0.5), "the settings follow")
    wait_until(lambda: server.events().count("0142") == 2, "it is told")
    assert len(told(server, "0143", "(From 2 to 4 ACUs: The kernel did not take the limits)")) == 1
    assert server.events().count("0143") == 1, told(server, "0143")
    assert server.events().count("0141") == 2


@needs_mounts
def test_engine_is_kept_to_its_cores_by_affinity_where_no_group_can_be_written(server: Server) -> None:
    in_own_mounts(server, read_only=True)
    server.start(ZORYA_BURST="false", ZORYA_ACU_CORES="1")
    with psycopg.connect(server.url(), autocommit=True) as session:
        server.api.set_capacity("main", 1)
        pid = server.show()["engine_pid"]
        assert len(os.sched_getaffinity(pid)) == 1
        server.api.set_capacity("main", 2)
        assert len(os.sched_getaffinity(pid)) == min(2, len(os.sched_getaffinity(0)))
        assert len(os.sched_getaffinity(session.info.backend_pid)) == min(2, len(os.sched_getaffinity(0)))
        acu = Acu(memory_bytes=ACU.memory_bytes, cores=1)
        wait_until(lambda: has_settings(session, acu, 2), "the settings follow")
        found = {one["name"]: one for one in server.api.doctor()}
        assert {found[name]["state"] for name in ("cores", "memory")} == {"warning"}
    assert "0143" not in server.events()


@contextmanager
def own_cpu_group() -> Iterator[Path]:
    """A group below this process's own."""
    assert GROUPING.cpu is not None
    folder = GROUPING.cpu.own / f"zorya-test-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        for left in (*folder.glob("zorya-*"), folder):
            wait_until(partial(placement.try_remove, left), f"{left} is removed")


@needs_version_1
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this needs two cores")
def test_clusters_shrink_to_their_shares_when_the_node_does_under_them(server: Server) -> None:
    turned = Turned(server)
    with own_cpu_group() as folder:
        quota = folder / "cpu.cfs_quota_us"
        quota.write_text("200000")
        server.command = ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$0" "$@"', *server.command]
        try:
            server.env["ZORYA_ACU_MEMORY_MIB"] = "256"
            server.start()
            check_shares(server, turned, quota)
            server.stop()
            server.start(ZORYA_NODE_CAPACITY="2")
            check_least(server)
            server.stop()
        finally:
            end(server)


def check_shares(server: Server, turned: Turned, quota: Path) -> None:
    server.allow("the node's capacity has changed")
    server.api.create({"name": "wide", "min_capacity": 0.5, "max_capacity": 3})
    server.api.create({"name": "narrow", "min_capacity": 1, "max_capacity": 2})
    with psycopg.connect(server.url("wide")) as wide, psycopg.connect(server.url("narrow")) as narrow:
        assert server.api.status()["node"]["capacity"] == 8
        assert server.api.set_capacity("wide", 3)["capacity"] == 3
        assert server.api.set_capacity("narrow", 2)["capacity"] == 2
        assert server.api.status()["node"]["allotted"] == 5
        quota.write_text("75000")
        turned.pass_s(6)
        # Each has its least, and of the three steps that are left two go to the one that may have more.
        wait_until(lambda: capacities(server) == (1.5, 1.5), "they shrink to their shares")
        node = server.api.status()["node"]
        assert (node["capacity"], node["cores"], node["allotted"]) == (3, 0.75, 3)
        assert server.show("wide")["last_scaling"]["part"] == "node"
        (said,) = wait_until(lambda: told(server, "1012", name="wide"), "it is told")
        assert said.endswith("It wants 3 ACUs and gets 1.5 of the 3 that there are for all clusters.")
        quota.write_text("200000")
        turned.pass_s(6)
        wait_until(lambda: capacities(server) == (3, 2), "they have again what they want")
        for name in ("wide", "narrow"):
            wait_until(partial(told, server, "1013", name=name), "it is told")
            assert [server.events(name).count(kind) for kind in ("1012", "1013")] == [1, 1]
        for session in (wide, narrow):
            assert session.execute("SELECT 1").fetchone() == (1,)


def capacities(server: Server) -> tuple[float, float]:
    return server.show("wide")["capacity"], server.show("narrow")["capacity"]


def check_least(server: Server) -> None:
    """Check that two clusters that want more than the node has, by the settings, share it above their least."""
    with psycopg.connect(server.url("wide")), psycopg.connect(server.url("narrow")):
        assert server.api.status()["node"]["capacity"] == 2
        server.api.set_capacity("wide", 3)
        server.api.set_capacity("narrow", 2)
        assert capacities(server) == (1, 1)
        server.api.modify("wide", {"min_capacity": 2})
        # The leasts alone are more than there is.
        assert capacities(server) == (2, 1)
