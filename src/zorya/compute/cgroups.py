"""Where control groups can be made on this host, for which purpose, and in which version.

Groups are made only below the one that this process is in, which a service manager may have delegated to it. Version 2
has one hierarchy for everything, version 1 one for each controller; a host can have both.

Under version 2 a group that has processes can have no controllers for the groups below it, so the server itself may be
in a group beside the engines' (see `delegation`): then the one above that is taken for its own.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

SERVERS_GROUP = "zorya-server"
"""The group beside the engines' in which the server is. systemd makes it for `DelegateSubgroup=zorya-server`."""

_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hierarchy:
    """A mounted hierarchy, seen from one process."""

    version: int
    """1 or 2."""
    controller: str
    """Of version 1: `freezer`, `memory`, `cpu`, ...; empty for version 2."""
    mount: Path
    mount_root: str
    """The group that is shown at `mount`; `/` but in some containers."""
    own: Path
    """The folder of the process's group: those for engines are made in it."""

    def folder_of(self, group: str) -> Path:
        """Answer the folder of a group named as in /proc/PID/cgroup."""
        return _folder(self.mount, self.mount_root, group)


def of_this_process() -> list[Hierarchy]:
    """Answer the hierarchies that this process sees, version 2 first."""
    found = parse((_PROC / "self/mountinfo").read_text(), (_PROC / "self/cgroup").read_text())
    return [_beside_server(one) for one in found]


def _beside_server(hierarchy: Hierarchy) -> Hierarchy:
    if hierarchy.version == 2 and hierarchy.own.name == SERVERS_GROUP:
        above = replace(hierarchy, own=hierarchy.own.parent)
        if may_make_groups(above):
            return above
    return hierarchy


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


def groups_of(pid: int) -> dict[str, str]:
    """Answer the names of the groups that a process is in, by controller; version 2's is empty. Raises OSError."""
    return dict(_named_groups((_PROC / str(pid) / "cgroup").read_text()))


def group_of(pid: int, hierarchy: Hierarchy) -> Path | None:
    """Answer the folder of the group that a process is in; None when it is gone."""
    try:
        group = groups_of(pid).get(hierarchy.controller)
    except OSError:
        return None
    return hierarchy.folder_of(group) if group is not None else None


def read(folder: Path, name: str) -> str:
    """Answer what a file of a group says. Raises OSError."""
    # open and not pathlib, which takes three times as long: some files of each running cluster are read every second.
    descriptor = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536).decode()
    finally:
        os.close(descriptor)


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
