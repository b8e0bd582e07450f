"""The processes of one engine as a group: who is in it, freezing and thawing it, what it may use and what it uses.

Where the host has control groups that this process may use, the engine is put into one of its own, named after the
cluster; else its group is its tree of processes, which is stopped by signals and kept to some of the CPUs.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zorya.compute import affinity, cgroups, freezer, limiting, placement, procfs
from zorya.compute.cgroups import Hierarchy
from zorya.compute.counters import Counters
from zorya.compute.freezer import Freezer, Way
from zorya.compute.limits import Limited, Limits
from zorya.compute.placement import Places
from zorya.compute.usage import Usage
from zorya.core import errors
from zorya.core.model import ProcessIdentity

_POLL_S = 0.0005


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """What this host offers for the groups of engines, and why not more, as sentences for the operator."""

    freezer: Hierarchy | None
    """Where groups are frozen; None is by signals."""
    freezer_reason: str
    memory: Hierarchy | None
    """Where groups' memory is limited, counted and reclaimed; None is nowhere."""
    memory_reason: str
    cpu: Hierarchy | None
    """Where groups' cores are capped and shared; None is by affinity."""
    cpu_reason: str
    accounting: Hierarchy | None
    """Where groups' processor time is counted, often the same; None is in /proc."""

    def only_freezer(self) -> "Grouping":
        """Answer the same for processes that are to be frozen, and neither limited nor counted."""
        return replace(self, memory=None, cpu=None, accounting=None)

    @property
    def all(self) -> list[Hierarchy]:
        """The hierarchies in which engines get groups; controllers that are mounted together are one."""
        found = (self.freezer, self.memory, self.cpu, self.accounting)
        return list({one.own: one for one in found if one is not None}.values())


def examine(way: Way | None, hierarchies: Sequence[Hierarchy] | None = None) -> Grouping:
    """Answer what this host offers; `way` is the operator's choice of a freezer, if any. Makes nothing."""
    seen = cgroups.of_this_process() if hierarchies is None else hierarchies
    usable = [one for one in seen if cgroups.may_make_groups(one)]
    chosen = next((one for one in usable if _way(one) is not None and way in {None, _way(one)}), None)
    memory = next((one for one in usable if _controls(one, "memory")), None)
    cpu = next((one for one in usable if _controls(one, "cpu")), None)
    return Grouping(
        freezer=chosen,
        freezer_reason=_freezer_reason(chosen, way, [one for one in seen if way in {None, _way(one)} and _way(one)]),
        memory=memory,
        memory_reason=f"Memory is limited, counted and given back by {_named(memory)}."
        if memory
        else f"Memory is estimated, and neither limited nor given back: {_why_not('memory', seen)}.",
        cpu=cpu,
        cpu_reason=f"Cores are capped, and shared by capacity, by {_named(cpu)}."
        if cpu
        else f"Clusters are kept to whole CPUs, and share them evenly: {_why_not('cpu', seen)}.",
        accounting=_counts_time(usable, cpu),
    )


def _controls(hierarchy: Hierarchy, controller: str) -> bool:
    """Whether groups below Zorya's own have the controller."""
    if hierarchy.version == 1:
        return hierarchy.controller == controller
    try:
        return controller in (hierarchy.own / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def _counts_time(usable: Sequence[Hierarchy], cpu: Hierarchy | None) -> Hierarchy | None:
    """Version 2 counts the time of every group, whatever controllers it has; to read that of version 1 is cheaper."""
    if cpu is not None and cpu.version == 2:
        return cpu
    counting = [one for one in usable if one.controller == "cpuacct"] + [one for one in usable if one.version == 2]
    return counting[0] if counting else None


def _named(hierarchy: Hierarchy) -> str:
    return f"control groups of version {hierarchy.version} in {hierarchy.own}"


def _why_not(controller: str, seen: Sequence[Hierarchy]) -> str:
    if any(one.controller == controller for one in seen):
        return "this user may not make control groups"
    if any(one.version == 2 for one in seen):
        return f"groups below Zorya's own have no {controller} controller"
    return f"this host has no {controller} controller that Zorya may use"


def _way(hierarchy: Hierarchy) -> Way | None:
    if hierarchy.version == 2:
        return Way.CGROUP2
    return Way.CGROUP1 if hierarchy.controller == "freezer" else None


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
    for hierarchy in grouping.all:
        placement.try_remove(hierarchy.own / name)


class ProcessGroup:
    """The group of one engine that is up."""

    def __init__(self, name: str, freezer: Freezer, places: Places) -> None:
        """Use `enclose`."""
        self.name = name
        self.freezer = freezer
        self._places = places
        self._counters = Counters(places, first=freezer.pid, pids=self.pids)
        self._cpus: frozenset[int] | None = None
        """Those to which all processes were kept last; None is not yet."""

    @classmethod
    def enclose(cls, grouping: Grouping, name: str, first: ProcessIdentity) -> "ProcessGroup":
        """Put the engine into groups of its own, or find those that it is in. Idempotent.

        Where the kernel refuses, the engine is grouped by its tree of processes instead.
        """
        made = {hierarchy.own: placement.try_place(hierarchy, name, first.pid) for hierarchy in grouping.all}
        places = Places(
            **{
                purpose: made[hierarchy.own] if hierarchy is not None else None
                for purpose, hierarchy in (
                    ("freezer", grouping.freezer),
                    ("memory", grouping.memory),
                    ("cpu", grouping.cpu),
                    ("accounting", grouping.accounting),
                )
            }
        )
        way = _way(places.freezer.hierarchy) if places.freezer else None
        return cls(
            name,
            Freezer(
                way=way or Way.SIGNALS,
                folder=str(places.freezer.folder if places.freezer else ""),
                pid=first.pid,
                start_ticks=first.start_ticks,
            ),
            places,
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
        """Freeze all processes. Raises FreezeFailed or FreezeSlow, and then they all run."""
        loop = asyncio.get_running_loop()
        # Frozen it uses nothing, and descriptors are short where many are.
        self.close()
        freezer.begin(self.freezer)
        deadline = loop.time() + freezer.SETTLE_S
        try:
            while not freezer.is_complete(self.freezer):
                if loop.time() > deadline:
                    raise errors.FreezeSlow(
                        f"A process of the engine did not stop within {freezer.SETTLE_S:g} s: "
                        "it waits for a disk, or the host is overloaded."
                    )
                await asyncio.sleep(_POLL_S)
        except BaseException:
            freezer.thaw(self.freezer)
            raise

    def thaw(self) -> None:
        """Let all processes go on. May be repeated; never waits."""
        freezer.thaw(self.freezer)

    def limit(self, limits: Limits) -> Limited:
        """Let the engine use so much from now on, and say what has to wait until it uses less: repeat it then.

        Nothing is taken away that is in use, so nothing is ended for it; see `limits.plan_memory`. Growing takes well
        below a millisecond. Under version 2 shrinking takes back some memory first and can take 0.1 s: call it in a
        thread then. A group that has vanished, or that the engine was moved out of, is made again. Nothing happens
        when the engine is gone.

        Raises LimitFailed, and then the earlier limits hold, as far as the kernel lets them.
        """
        try:
            for place in placement.strayed(self._places.all, self.freezer.pid):
                if not self._is_there():
                    return Limited(shortfall="")
                placement.put(place.folder, self.freezer.pid)
            limited = limiting.apply(self._places, limits)
            if self._places.cpu is None:
                self._keep_to_cpus(limits.cap_cores)
        except OSError as error:
            if not self._is_there():
                return Limited(shortfall="")
            raise errors.LimitFailed(
                f"The kernel did not take the limits of {self.name}: {error}.",
                hint="`zorya doctor` says whether Zorya may use the control groups it is in.",
                client_message="What the cluster may use could not be changed.",
            ) from error
        return limited

    @property
    def is_accounted(self) -> bool:
        """Whether a control group counts its processor time, so that reading it is cheap."""
        return self._places.accounting is not None

    def cpu_s(self) -> float:
        """Answer the processor time so far; never falls. One pread, where a control group counts it.

        Raises OSError when it cannot be read now: the group has vanished, which `limit` mends, or the engine is gone.
        """
        return self._counters.cpu_s()

    def usage(self) -> Usage:
        """Answer all that the group uses. Some files; without control groups, one or two for each process.

        Raises OSError when it cannot be read now, as `cpu_s`.
        """
        return self._counters.read()

    def close(self) -> None:
        """Give back the descriptor that `cpu_s` keeps open. The group stays as it is. Idempotent."""
        self._counters.close()

    def _is_there(self) -> bool:
        """Whether the first process has this number still, and no other has got it."""
        identity = procfs.read_identity(self.freezer.pid)
        return identity is not None and identity.start_ticks == self.freezer.start_ticks

    def _keep_to_cpus(self, cap_cores: float) -> None:
        """Raises OSError."""
        cpus = affinity.choose(os.sched_getaffinity(0), cap_cores, self.name)
        if self._cpus in {None, cpus} and affinity.is_bound(self.freezer.pid, cpus):
            return
        if self._is_there():
            affinity.bind(self.pids, cpus)
            self._cpus = cpus

    def resident_bytes(self) -> int:
        """Answer the memory that the group occupies: what is charged to it, page cache included, or an estimate."""
        for name in ("memory.current", "memory.usage_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                if self._places.memory is not None:
                    return int((self._places.memory.folder / name).read_text())
        return procfs.resident_bytes(self.pids())

    @property
    def can_reclaim(self) -> bool:
        """Whether `reclaim` can do anything on this host."""
        return self._places.memory is not None

    def reclaim(self) -> None:
        """Have the kernel take back the page cache and what else of the group's memory it can. Blocking; may be long.

        A file that the kernel could not reclaim from completely refuses the write with EAGAIN or EBUSY, having done
        what could be done (cgroup-v2.rst, memory.reclaim; cgroup-v1/memory.rst, 5.1 force_empty).
        """
        if self._places.memory is None:
            return
        for name, text in (("memory.reclaim", str(self.resident_bytes())), ("memory.force_empty", "0")):
            path = self._places.memory.folder / name
            if path.exists():
                with contextlib.suppress(OSError):
                    path.write_text(text)
                return

    async def remove(self) -> None:
        """Remove the group's folders once the kernel has cleared them, or leave them after some seconds. Idempotent."""
        self.close()
        await placement.remove(self._places.all)
