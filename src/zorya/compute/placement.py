"""The folders of one engine's groups: making them, putting its processes in, finding them again, removing them."""

import asyncio
import contextlib
import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zorya.compute import cgroups, procfs
from zorya.compute.cgroups import Hierarchy
from zorya.core import logging

_log = logging.get("zorya.compute")

_REMOVE_WITHIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """An engine's group in one hierarchy."""

    hierarchy: Hierarchy
    folder: Path

    @property
    def version(self) -> int:
        """1 or 2."""
        return self.hierarchy.version


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """An engine's groups by what they are for; several may be one. None where it has none for that."""

    freezer: Place | None
    memory: Place | None
    cpu: Place | None
    accounting: Place | None

    @property
    def all(self) -> list[Place]:
        """The places, each once."""
        found = (self.freezer, self.memory, self.cpu, self.accounting)
        return list({place.folder: place for place in found if place is not None}.values())


def try_place(hierarchy: Hierarchy, name: str, pid: int) -> Place | None:
    """Answer the group with the whole tree of `pid` in it, made or found; None where the kernel refuses."""
    present = cgroups.group_of(pid, hierarchy)
    folder = present if present is not None and present.name == name else hierarchy.own / name
    try:
        put(folder, pid)
    except OSError as error:
        _log.warning("the engine cannot be put into a control group", group=str(folder), error=str(error))
        try_remove(folder)
        return None
    return Place(hierarchy=hierarchy, folder=folder)


def put(folder: Path, pid: int) -> None:
    """Make the group if it is not there, and move the tree of `pid` in. Idempotent. Raises OSError.

    A child that was forked meanwhile is found by looking again. The remains of a process that has ended stay in the
    tree until its parent takes notice, and cannot be moved.
    """
    folder.mkdir(mode=0o755, exist_ok=True)
    procs = folder / "cgroup.procs"
    moved = set(procs.read_text().split())
    while outside := [one for one in map(str, procfs.tree(pid)) if one not in moved]:
        for one in outside:
            with contextlib.suppress(ProcessLookupError):
                procs.write_text(one)
        moved.update(outside)


def strayed(places: Sequence[Place], pid: int) -> list[Place]:
    """Answer the places in which the process is not: somebody has moved it, or removed the group. Reads one file.

    Raises OSError when the process is gone.
    """
    if not places:
        return []
    groups = cgroups.groups_of(pid)
    return [place for place in places if _folder(place.hierarchy, groups) != place.folder]


def _folder(hierarchy: Hierarchy, groups: dict[str, str]) -> Path | None:
    group = groups.get(hierarchy.controller)
    return None if group is None else hierarchy.folder_of(group)


async def remove(places: Iterable[Place]) -> None:
    """Remove the groups once the kernel has cleared them, or leave them after some seconds. Idempotent."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _REMOVE_WITHIN_S
    for place in places:
        while not try_remove(place.folder):
            if loop.time() > deadline:
                _log.info("a control group is not removed, something is still in it", group=str(place.folder))
                break
            await asyncio.sleep(0.01)


def try_remove(folder: Path) -> bool:
    """Remove a group. False as long as something is in it; one that is gone, or not to be removed, is done with."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        return error.errno not in {errno.EBUSY, errno.ENOTEMPTY}
    return True
