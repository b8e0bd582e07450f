"""The processes of one engine as a group: who is in it, freezing and thawing it, its memory.

Where the host has control groups that this process may use, the engine is put into one of its own, named after the
cluster; else its group is its tree of processes, which is stopped by signals.
"""

import asyncio
import contextlib
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zorya.compute import cgroups, freezer, procfs
from zorya.compute.cgroups import Hierarchy
from zorya.compute.freezer import Freezer, Way
from zorya.core import errors, logging
from zorya.core.model import ProcessIdentity

_log = logging.get("zorya.compute")

_POLL_S = 0.0005
_REMOVE_WITHIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """What this host offers for the groups of engines, and why not more, as sentences for the operator."""

    freezer: Hierarchy | None
    """Where groups are frozen; None is by signals."""
    freezer_reason: str
    memory: Hierarchy | None
    """Where groups' memory is counted and reclaimed; None is nowhere."""
    memory_reason: str


def examine(way: Way | None, hierarchies: Sequence[Hierarchy] | None = None) -> Grouping:
    """Answer what this host offers; `way` is the operator's choice of a freezer, if any. Makes nothing."""
    seen = cgroups.of_this_process() if hierarchies is None else hierarchies
    usable = [one for one in seen if cgroups.may_make_groups(one)]
    chosen = next((one for one in usable if _way(one) is not None and way in {None, _way(one)}), None)
    memory = next((one for one in usable if _counts_memory(one)), None)
    return Grouping(
        freezer=chosen,
        freezer_reason=_freezer_reason(chosen, way, [one for one in seen if way in {None, _way(one)} and _way(one)]),
        memory=memory,
        memory_reason=f"It is counted and reclaimed in {memory.own}." if memory else _no_memory_reason(seen),
    )


def _way(hierarchy: Hierarchy) -> Way | None:
    if hierarchy.version == 2:
        return Way.CGROUP2
    return Way.CGROUP1 if hierarchy.controller == "freezer" else None


def _counts_memory(hierarchy: Hierarchy) -> bool:
    if hierarchy.version == 1:
        return hierarchy.controller == "memory"
    try:
        return "memory" in (hierarchy.own / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def _freezer_reason(chosen: Hierarchy | None, way: Way | None, seen: Sequence[Hierarchy]) -> str:
    if chosen is not None:
        return f"Engines are frozen by control groups of version {chosen.version} in {chosen.own}."
    if way is Way.SIGNALS:
        return "Engines are frozen by SIGSTOP, as the setting freezer says."
    if seen:
        return "Engines are frozen by SIGSTOP: this user may not make control groups."
    if way is not None:
        return "Engines are frozen by SIGSTOP: this host has no freezer of the kind that the setting freezer names."
    return "Engines are frozen by SIGSTOP: this host has no freezer."


def _no_memory_reason(seen: Sequence[Hierarchy]) -> str:
    if any(one.version == 2 for one in seen):
        return "No memory controller is delegated to groups below Zorya's own."
    return "There is no memory controller that Zorya may use."


def thaw_found(name: str, pid: int) -> None:
    """Let an engine go on that an earlier server froze, in whichever of the ways that one used. Idempotent."""
    identity = procfs.read_identity(pid)
    if identity is None:
        return
    ways = [(Way.SIGNALS, "")]
    for hierarchy in cgroups.of_this_process():
        way, folder = _way(hierarchy), cgroups.group_of(pid, hierarchy)
        if way is not None and folder is not None and folder.name == name:
            ways.append((way, str(folder)))
    for way, path in ways:
        found = Freezer(way=way, folder=path, pid=pid, start_ticks=identity.start_ticks)
        if freezer.is_begun(found):
            freezer.thaw(found)


def remove_left(grouping: Grouping, name: str) -> None:
    """Remove the folders of a group whose processes have all ended; those of a group that has some stay."""
    for hierarchy in (grouping.freezer, grouping.memory):
        if hierarchy is not None:
            _try_remove(hierarchy.own / name)


class ProcessGroup:
    """The group of one engine that is up."""

    def __init__(self, name: str, freezer: Freezer, memory: Path | None) -> None:
        """Use `enclose`."""
        self.name = name
        self.freezer = freezer
        self._memory = memory

    @classmethod
    def enclose(cls, grouping: Grouping, name: str, first: ProcessIdentity) -> "ProcessGroup":
        """Put the engine into groups of its own, or find those that it is in. Idempotent.

        Where the kernel refuses, the engine is grouped by its tree of processes instead.
        """
        folder = _place(grouping.freezer, name, first.pid)
        way = _way(grouping.freezer) if grouping.freezer and folder else None
        return cls(
            name,
            Freezer(
                way=way or Way.SIGNALS,
                folder=str(folder or ""),
                pid=first.pid,
                start_ticks=first.start_ticks,
            ),
            _place(grouping.memory, name, first.pid),
        )

    def pids(self) -> set[int]:
        """Answer the processes of the group. One file is read, or one a process where there is no control group."""
        if self.freezer.way is Way.SIGNALS:
            return set(procfs.tree(self.freezer.pid))
        try:
            return {int(pid) for pid in (Path(self.freezer.folder) / "cgroup.procs").read_text().split()}
        except OSError:
            return set()

    @property
    def is_frozen(self) -> bool:
        """Whether the group was told to freeze and not thawed since."""
        return freezer.is_begun(self.freezer)

    async def freeze(self) -> None:
        """Freeze all processes. Raises FreezeFailed, and then they all run."""
        loop = asyncio.get_running_loop()
        freezer.begin(self.freezer)
        deadline = loop.time() + freezer.SETTLE_S
        try:
            while not freezer.is_complete(self.freezer):
                if loop.time() > deadline:
                    raise errors.FreezeFailed("A process of the engine did not stop: it waits for a disk.")
                await asyncio.sleep(_POLL_S)
        except BaseException:
            freezer.thaw(self.freezer)
            raise

    def thaw(self) -> None:
        """Let all processes go on. May be repeated; never waits."""
        freezer.thaw(self.freezer)

    def resident_bytes(self) -> int:
        """Answer the memory that the group occupies: what is charged to it, page cache included, or an estimate."""
        for name in ("memory.current", "memory.usage_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                if self._memory is not None:
                    return int((self._memory / name).read_text())
        return procfs.resident_bytes(self.pids())

    @property
    def can_reclaim(self) -> bool:
        """Whether `reclaim` can do anything on this host."""
        return self._memory is not None

    def reclaim(self) -> None:
        """Have the kernel take back the page cache and what else of the group's memory it can. Blocking; may be long.

        A file that the kernel could not reclaim from completely refuses the write with EAGAIN or EBUSY, having done
        what could be done (cgroup-v2.rst, memory.reclaim; cgroup-v1/memory.rst, 5.1 force_empty).
        """
        if self._memory is None:
            return
        for name, text in (("memory.reclaim", str(self.resident_bytes())), ("memory.force_empty", "0")):
            path = self._memory / name
            if path.exists():
                with contextlib.suppress(OSError):
                    path.write_text(text)
                return

    async def remove(self) -> None:
        """Remove the group's folders once the kernel has cleared them, or leave them after some seconds. Idempotent."""
        folders = [Path(self.freezer.folder)] if self.freezer.folder else []
        folders += [self._memory] if self._memory else []
        deadline = asyncio.get_running_loop().time() + _REMOVE_WITHIN_S
        for folder in dict.fromkeys(folders):
            await _remove(folder, deadline)


def _place(hierarchy: Hierarchy | None, name: str, pid: int) -> Path | None:
    """Answer the group's folder with the whole tree of `pid` in it; None where the kernel refuses."""
    if hierarchy is None:
        return None
    present = cgroups.group_of(pid, hierarchy)
    folder = present if present is not None and present.name == name else hierarchy.own / name
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
        _adopt(folder, pid)
    except OSError as error:
        _log.warning("the engine cannot be put into a control group", group=str(folder), error=str(error))
        _try_remove(folder)
        return None
    return folder


def _adopt(folder: Path, pid: int) -> None:
    """Move the tree in; a child that was forked meanwhile is found by looking again. Raises OSError.

    The remains of a process that has ended stay in the tree until its parent takes notice, and cannot be moved.
    """
    procs = folder / "cgroup.procs"
    moved = set(procs.read_text().split())
    while outside := [one for one in map(str, procfs.tree(pid)) if one not in moved]:
        for one in outside:
            with contextlib.suppress(ProcessLookupError):
                procs.write_text(one)
        moved.update(outside)


async def _remove(folder: Path, deadline: float) -> None:
    loop = asyncio.get_running_loop()
    while not _try_remove(folder):
        if loop.time() > deadline:
            _log.info("a control group is not removed, something is still in it", group=str(folder))
            return
        await asyncio.sleep(0.01)


def _try_remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        return error.errno not in {errno.EBUSY, errno.ENOTEMPTY}
    return True
