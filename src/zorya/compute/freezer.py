"""Stopping and letting go all processes of one engine at once: the kernel's freezers, or signals where there is none.

`Freezer` says how one engine is frozen. It is a plain value, so that the keeper can have it too and thaw an engine
whose server has ended. Nothing here needs an event loop, and nothing waits.
"""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from zorya.compute import procfs
from zorya.core import errors

SETTLE_S = 0.25
"""How long processes may take until all of them have stopped. One that waits for a disk stops only after that."""


class Way(StrEnum):
    """The ways to freeze."""

    CGROUP2 = "cgroup2"
    """`cgroup.freeze` (Documentation/admin-guide/cgroup-v2.rst)."""
    CGROUP1 = "cgroup1"
    """`freezer.state` (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst)."""
    SIGNALS = "signals"
    """SIGSTOP to each process of the tree, which the shell's job control uses as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Freezer:
    """How the engine whose first process is `pid` is frozen."""

    way: Way
    folder: str
    """The engine's control group in the freezer's hierarchy; empty for signals."""
    pid: int
    start_ticks: int
    """Of the first process, so that its number is not taken for another's; see core.model.ProcessIdentity."""


def to_json(freezer: Freezer) -> dict[str, str | int]:
    """Answer the freezer as JSON's values."""
    return asdict(freezer)


def from_json(values: dict[str, str | int]) -> Freezer:
    """Read what `to_json` answered. Raises ValueError, KeyError or TypeError for anything else."""
    return Freezer(
        way=Way(str(values["way"])),
        folder=str(values["folder"]),
        pid=int(values["pid"]),
        start_ticks=int(values["start_ticks"]),
    )


def begin(freezer: Freezer) -> None:
    """Tell all processes to stop. `is_complete` tells when they have. Raises FreezeFailed, after thawing."""
    try:
        match freezer.way:
            case Way.CGROUP2:
                _write(freezer, "cgroup.freeze", "1")
            case Way.CGROUP1:
                _write(freezer, "freezer.state", "FROZEN")
            case Way.SIGNALS:
                _stop_tree(freezer)
    except OSError as error:
        thaw(freezer)
        raise errors.FreezeFailed(f"The engine's processes cannot be frozen: {error}.") from error


def is_complete(freezer: Freezer) -> bool:
    """Whether every process has stopped. False as well when they are not being frozen, or are gone."""
    try:
        match freezer.way:
            case Way.CGROUP2:
                return "frozen 1" in (Path(freezer.folder) / "cgroup.events").read_text()
            case Way.CGROUP1:
                # Reading makes the kernel look again whether all have stopped.
                return (Path(freezer.folder) / "freezer.state").read_text().strip() == "FROZEN"
            case Way.SIGNALS:
                states = [procfs.read_state(pid) for pid in _tree(freezer)]
                return bool(states) and all(state in {"T", "t", "Z", "X", None} for state in states)
    except OSError:
        return False


def is_begun(freezer: Freezer) -> bool:
    """Whether the processes were told to stop and not let go since."""
    try:
        match freezer.way:
            case Way.CGROUP2:
                return (Path(freezer.folder) / "cgroup.freeze").read_text().strip() == "1"
            case Way.CGROUP1:
                return (Path(freezer.folder) / "freezer.state").read_text().strip() != "THAWED"
            case Way.SIGNALS:
                return any(procfs.read_state(pid) == "T" for pid in _tree(freezer))
    except OSError:
        return False


def thaw(freezer: Freezer) -> None:
    """Let all processes go on, frozen or not. May be repeated; nothing happens when they are gone."""
    # A group that is gone has no process left that could be frozen.
    with contextlib.suppress(OSError):
        match freezer.way:
            case Way.CGROUP2:
                _write(freezer, "cgroup.freeze", "0")
            case Way.CGROUP1:
                _write(freezer, "freezer.state", "THAWED")
            case Way.SIGNALS:
                _continue_tree(freezer)


def _write(freezer: Freezer, name: str, text: str) -> None:
    (Path(freezer.folder) / name).write_text(text)


def _tree(freezer: Freezer) -> Iterable[int]:
    identity = procfs.read_identity(freezer.pid)
    if identity is None or identity.start_ticks != freezer.start_ticks:
        return []
    return procfs.tree(freezer.pid)


def _stop_tree(freezer: Freezer) -> None:
    """Stop parents before children, and look again until no new child has appeared: a stopped parent makes none."""
    stopped: set[int] = set()
    while new := [pid for pid in _tree(freezer) if pid not in stopped]:
        for pid in new:
            _signal(pid, signal.SIGSTOP)
            stopped.add(pid)


def _continue_tree(freezer: Freezer) -> None:
    """Let children go before parents."""
    pids = list(_tree(freezer))
    for pid in reversed(pids):
        _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def stopped_orphans(folder: Path) -> Iterator[int]:
    """Answer the stopped processes that work in `folder`: what is left of a tree whose first process is gone."""
    for identity in procfs.find_processes_in(folder):
        if procfs.read_state(identity.pid) == "T":
            yield identity.pid
