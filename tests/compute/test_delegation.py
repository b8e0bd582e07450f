"""Having controllers for the groups of engines: decided with values, and done for real with one that there is."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from waiting import wait_until
from zorya.compute import cgroups, delegation
from zorya.compute.delegation import Situation, Step

SCOPE = Situation(
    group="/sys/fs/cgroup/zorya.scope",
    is_root=False,
    is_empty=False,
    is_alone=True,
    may_write=True,
    is_service=False,
    offered=frozenset({"cpu", "memory", "pids"}),
    enabled=frozenset({"pids"}),
)
SERVICE = replace(SCOPE, is_service=True)


@pytest.mark.parametrize(
    ("found", "step", "words"),
    [
        (SCOPE, Step.MOVE, "the server moves to zorya-server"),
        (replace(SCOPE, is_alone=False), Step.NONE, "others' processes are in it"),
        (replace(SCOPE, may_write=False), Step.NONE, "This user may not enable cpu and memory"),
        (replace(SCOPE, is_root=True, is_alone=False), Step.ENABLE, "get cpu and memory"),
        (replace(SCOPE, enabled=SCOPE.offered), Step.NONE, "have cpu and memory"),
        (replace(SCOPE, offered=frozenset({"pids"})), Step.NONE, "nor are any offered"),
        (SERVICE, Step.NONE, "the service's own processes are in it"),
        (replace(SERVICE, is_empty=True), Step.ENABLE, "get cpu and memory"),
    ],
)
def test_server_moves_only_where_it_is_in_nobodys_way(found: Situation, step: Step, words: str) -> None:
    decision = delegation.decide(found, delegation.WANTED)
    assert decision.step is step
    assert words in decision.reason
    assert decision.controllers == (delegation.WANTED if step is not Step.NONE else set())


def test_only_what_is_offered_and_missing_is_enabled() -> None:
    found = replace(SCOPE, offered=frozenset({"cpu", "memory"}), enabled=frozenset({"memory"}))
    assert delegation.decide(found, frozenset({"cpu", "memory", "io"})).controllers == {"cpu"}


CONTROLLER = "hugetlb"

_PROGRAM = """
import json, os, sys
from pathlib import Path
from zorya.compute import cgroups, delegation
from zorya.compute.delegation import Decision, Step
(Path(sys.argv[1]) / "cgroup.procs").write_text(str(os.getpid()))
if sys.argv[2] == "refuse":
    decision = Decision(step=Step.MOVE, controllers=frozenset({"hugetlb", "nonsense"}), reason="")
    delegation.decide = lambda found, wanted: decision
print(json.dumps({
    "reason": delegation.prepare(frozenset({"hugetlb"})),
    "is_in": Path("/proc/self/cgroup").read_text().split("0::")[1].strip(),
    "own": str(next(one.own for one in cgroups.of_this_process() if one.version == 2)),
    "again": delegation.foresee(frozenset({"hugetlb"})).step,
}), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def above() -> Iterator[Path]:
    """A group of version 2 that may give its own groups the controller; one test at a time, all over the host."""
    found = next((one for one in cgroups.of_this_process() if one.version == 2), None)
    if found is None or CONTROLLER not in (found.own / "cgroup.controllers").read_text().split():
        pytest.skip(f"this host has no {CONTROLLER} controller of version 2")
    lock = os.open(found.own, os.O_RDONLY)
    control = found.own / "cgroup.subtree_control"
    made = found.own / f"zorya-test-{os.getpid()}"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        was_enabled = CONTROLLER in control.read_text().split()
        try:
            control.write_text(f"+{CONTROLLER}")
        except OSError as error:
            pytest.skip(f"{CONTROLLER} cannot be enabled in {found.own}: {error.strerror}")
        made.mkdir()
        yield made
        for folder in (made / cgroups.SERVERS_GROUP, made):
            if folder.exists():
                wait_until(lambda folder=folder: is_removed(folder), "the group is empty")  # type: ignore[misc]
        if not was_enabled:
            control.write_text(f"-{CONTROLLER}")
    finally:
        os.close(lock)


def is_removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def prepare(folder: Path, how: str = "", **env: str) -> dict[str, Any]:
    """Have a process in `folder` prepare it; answer what it says. It has ended then."""
    clean = {name: value for name, value in os.environ.items() if name != "INVOCATION_ID"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, folder, how],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean | env,
        check=True,
    )
    # The log goes to standard output too where nobody has set it up.
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def enabled(folder: Path) -> list[str]:
    return (folder / "cgroup.subtree_control").read_text().split()


def test_server_that_is_alone_moves_and_a_later_one_finds_its_group(above: Path) -> None:
    found = prepare(above)
    assert found["is_in"].endswith(f"/{above.name}/{cgroups.SERVERS_GROUP}")
    assert found["own"] == str(above)
    assert enabled(above) == [CONTROLLER]
    assert found["again"] == Step.NONE
    (above / "cgroup.subtree_control").write_text(f"-{CONTROLLER}")
    # As systemd starts it with DelegateSubgroup.
    found = prepare(above / cgroups.SERVERS_GROUP, INVOCATION_ID="1")
    assert found["own"] == str(above)
    assert enabled(above) == [CONTROLLER]


def test_server_stays_where_it_would_be_in_the_way(above: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        try:
            (above / "cgroup.procs").write_text(str(other.pid))
            found = prepare(above)
        finally:
            other.kill()
    assert "others' processes are in it" in found["reason"]
    assert "the service's own processes" in prepare(above, INVOCATION_ID="1")["reason"]
    assert found["is_in"].endswith(f"/{above.name}")
    assert enabled(above) == []
    assert not (above / cgroups.SERVERS_GROUP).exists()


def test_server_moves_back_when_the_kernel_refuses(above: Path) -> None:
    found = prepare(above, "refuse")
    assert "cannot be enabled in" in found["reason"]
    assert found["is_in"].endswith(f"/{above.name}")
    assert enabled(above) == []
    assert not (above / cgroups.SERVERS_GROUP).exists()


def test_root_gives_controllers_though_it_has_processes(above: Path) -> None:
    root = above.parent
    if (root / "cgroup.type").exists():
        pytest.skip("this process is not in the root")
    (root / "cgroup.subtree_control").write_text(f"-{CONTROLLER}")
    assert "get hugetlb" in delegation.prepare(frozenset({CONTROLLER}))
    assert CONTROLLER in enabled(root)
    assert "have hugetlb" in delegation.prepare(frozenset({CONTROLLER}))
