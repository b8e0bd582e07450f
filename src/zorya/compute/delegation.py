"""Having the controllers of version 2 for the engines' groups, which the kernel gives only below an empty group.

A group that has processes itself can have no controllers for the groups below it ("no internal process constraint",
admin-guide/cgroup-v2.rst of the kernel's Documentation). So the server has to be in a group beside the engines',
`cgroups.SERVERS_GROUP`. Where a service manager has not seen to that, the server moves there, unless it would be in
somebody's way.
"""

import contextlib
import os
from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from zorya.compute import cgroups, placement, procfs
from zorya.core import logging

_log = logging.get("zorya.compute")

WANTED = frozenset({"cpu", "memory"})

ADVICE = (
    "Run it as a systemd service (254 or newer) with Delegate=yes and DelegateSubgroup=zorya-server, or in a scope: "
    "systemd-run --scope -p Delegate=yes."
)


class Step(StrEnum):
    """What is to be done to have the controllers."""

    NONE = "none"
    ENABLE = "enable"
    """The group is empty, or it is the root, which may have processes."""
    MOVE = "move"
    """Move the server out of the group first, then enable them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """The group below which engines get theirs, as the server finds it."""

    group: str
    is_root: bool
    """Of the whole hierarchy: the kernel's own processes are there."""
    is_empty: bool
    """No process is in it: that of the server is in the group for it, below."""
    is_alone: bool
    """Every process in it is this one or comes from it."""
    may_write: bool
    is_service: bool
    """A service manager has started this process, and starts the next one in the same group."""
    offered: Set[str]
    enabled: Set[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do, and why it is no more, as a sentence."""

    step: Step
    controllers: Set[str]
    """Those to enable."""
    reason: str


def decide(found: Situation, wanted: Set[str]) -> Decision:
    """Answer what to do to have the `wanted` controllers, in so far as they are offered. Pure.

    A service is not moved: after a crash the engines are still there, and the manager could not start the next server
    in a group that has controllers (EBUSY). It has to be started in a group of its own (systemd's DelegateSubgroup).
    """
    missing = (wanted & found.offered) - found.enabled
    names = " and ".join(sorted(missing))
    if not missing:
        given = " and ".join(sorted(wanted & found.enabled))
        return _nothing(f"Groups in {found.group} have {given or 'none of these controllers, nor are any offered'}.")
    if not found.may_write:
        return _nothing(f"This user may not enable {names} in {found.group}.")
    if found.is_root or found.is_empty:
        return Decision(step=Step.ENABLE, controllers=missing, reason=f"Groups in {found.group} get {names}.")
    if found.is_service:
        return _nothing(f"{names} cannot be enabled in {found.group}: the service's own processes are in it.")
    if not found.is_alone:
        return _nothing(f"{names} cannot be enabled in {found.group}: others' processes are in it.")
    return Decision(
        step=Step.MOVE,
        controllers=missing,
        reason=f"Groups in {found.group} get {names}; the server moves to {cgroups.SERVERS_GROUP} in it.",
    )


def _nothing(reason: str) -> Decision:
    return Decision(step=Step.NONE, controllers=frozenset(), reason=reason)


def foresee(wanted: Set[str] = WANTED) -> Decision:
    """Answer what `prepare` would do. Changes nothing."""
    found = _observe()
    return decide(found, wanted) if found is not None else _nothing("This host has no control groups of version 2.")


def prepare(wanted: Set[str] = WANTED) -> str:
    """Have the controllers for groups that are made from now on, where that can be had. Answer how it went.

    To be called once, at the server's start, before `group.examine`. What was moved is moved back when the kernel
    refuses. Nothing is undone at the server's end: the engines' groups may stay, and an empty one is in nobody's way.
    """
    decision = foresee(wanted)
    if decision.step is Step.NONE:
        return decision.reason
    base = _own()
    assert base is not None
    try:
        if decision.step is Step.MOVE:
            _move(base, base / cgroups.SERVERS_GROUP)
        (base / "cgroup.subtree_control").write_text(" ".join(f"+{one}" for one in sorted(decision.controllers)))
    except OSError as error:
        if decision.step is Step.MOVE:
            _move_back(base)
        return f"{' and '.join(sorted(decision.controllers))} cannot be enabled in {base}: {error.strerror}."
    _log.info("control groups of version 2 are prepared", group=str(base), reason=decision.reason)
    return decision.reason


def _observe() -> Situation | None:
    base = _own()
    if base is None:
        return None
    try:
        pids = _pids(base)
        offered, enabled = (_words(base, f"cgroup.{one}") for one in ("controllers", "subtree_control"))
    except OSError:
        return None
    return Situation(
        group=str(base),
        # A group that is not the root has a type; that a container is shown as the root has one too.
        is_root=not (base / "cgroup.type").exists(),
        is_empty=not pids,
        is_alone=pids <= set(procfs.tree(os.getpid())),
        may_write=os.access(base / "cgroup.subtree_control", os.W_OK) and os.access(base, os.W_OK | os.X_OK),
        is_service="INVOCATION_ID" in os.environ and not base.name.endswith(".scope"),
        offered=offered,
        enabled=enabled,
    )


def _own() -> Path | None:
    return next((one.own for one in cgroups.of_this_process() if one.version == 2), None)


def _pids(folder: Path) -> set[int]:
    """Answer the processes of a group itself; 0 stands for those that this process cannot see."""
    return set(map(int, _words(folder, "cgroup.procs")))


def _words(folder: Path, name: str) -> frozenset[str]:
    return frozenset((folder / name).read_text().split())


def _move(source: Path, target: Path) -> None:
    """Move all processes, those too that are forked meanwhile. Raises OSError."""
    target.mkdir(mode=0o755, exist_ok=True)
    while pids := _pids(source):
        _move_each(pids, target)


def _move_back(base: Path) -> None:
    left = base / cgroups.SERVERS_GROUP
    with contextlib.suppress(OSError):
        _move_each(_pids(left), base)
    placement.try_remove(left)


def _move_each(pids: Iterable[int], target: Path) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            (target / "cgroup.procs").write_text(str(pid))
