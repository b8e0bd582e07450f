"""Where control groups can be made on this host, for which purpose, and in which version.

Groups are made only below the one that this process is in, which a service manager may have delegated to it. Version 2
has one hierarchy for everything, version 1 one for each controller; a host can have both.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hierarchy:
    """A mounted hierarchy, seen from one process."""

    version: int
    """1 or 2."""
    controller: str
    """Of version 1: `freezer`, `memory`; empty for version 2."""
    mount: Path
    mount_root: str
    """The group that is shown at `mount`; `/` but in some containers."""
    own: Path
    """The folder of the process's group."""

    def folder_of(self, group: str) -> Path:
        """Answer the folder of a group named as in /proc/PID/cgroup."""
        return _folder(self.mount, self.mount_root, group)


def of_this_process() -> list[Hierarchy]:
    """Answer the hierarchies that this process sees, version 2 first."""
    return parse((_PROC / "self/mountinfo").read_text(), (_PROC / "self/cgroup").read_text())


def parse(mountinfo: str, groups: str) -> list[Hierarchy]:
    """Answer the hierarchies, version 2 first. Pure.

    The formats are in proc_pid_mountinfo(5) and cgroups(7). A hierarchy that the process is in but that is not mounted,
    or not mounted where its group can be seen, is left out.
    """
    named = dict(_named_groups(groups))
    found = []
    for mount, root, kind, options in _mounts(mountinfo):
        controllers = [""] if kind == "cgroup2" else sorted(options & named.keys())
        for controller in controllers:
            group = named.get(controller)
            if group is None or not f"{group}/".startswith(f"{root.rstrip('/')}/"):
                continue
            found.append(
                Hierarchy(
                    version=2 if kind == "cgroup2" else 1,
                    controller=controller,
                    mount=mount,
                    mount_root=root,
                    own=_folder(mount, root, group),
                )
            )
    return sorted(found, key=lambda one: -one.version)


def group_of(pid: int, hierarchy: Hierarchy) -> Path | None:
    """Answer the folder of the group that a process is in; None when it is gone."""
    try:
        named = dict(_named_groups((_PROC / str(pid) / "cgroup").read_text()))
    except OSError:
        return None
    group = named.get(hierarchy.controller)
    return hierarchy.folder_of(group) if group is not None else None


def may_make_groups(hierarchy: Hierarchy) -> bool:
    """Whether this process may make groups below its own and move processes into them."""
    own = hierarchy.own
    return os.access(own, os.W_OK | os.X_OK) and os.access(own / "cgroup.procs", os.W_OK)


def _named_groups(text: str) -> Iterator[tuple[str, str]]:
    """Answer the group of each controller; the empty name is version 2's."""
    for line in text.splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, group


def _mounts(text: str) -> Iterator[tuple[Path, str, str, set[str]]]:
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, *_, options) = before.split(), after.split()
        if kind in {"cgroup", "cgroup2"}:
            yield Path(_unescape(fields[4])), _unescape(fields[3]), kind, set(options.split(","))


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _folder(mount: Path, root: str, group: str) -> Path:
    inside = group.removeprefix(root) if root != "/" else group
    return mount / inside.lstrip("/")
