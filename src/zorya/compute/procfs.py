"""What /proc says of processes."""

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from zorya.core.model import ProcessIdentity

_PROC = Path("/proc")

_MEANINGFUL = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM, signal.SIGTERM)
"""Signals for which a frozen process is let go: others are the kernel's own news, or wake what would sleep again."""


def read_boot_id() -> str:
    """Answer the kernel's id of this boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def read_identity(pid: int) -> ProcessIdentity | None:
    """Answer which process has this number now; None when there is none, or only its remains (a zombie)."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The command's name, field 2, is in parentheses and may hold any byte: count fields from the last parenthesis.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in {b"Z", b"X"}:
        return None
    return ProcessIdentity(pid=pid, start_ticks=int(fields[19]), boot_id=read_boot_id())


def read_state(pid: int) -> str | None:
    """Answer the process's state as `ps` shows it ("R", "S", "T", ...); None when it is gone."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    return chr(stat[stat.rindex(b")") + 2])


def has_memory(pid: int) -> bool:
    """Whether the process has not given up its memory yet, as it does early while it ends."""
    try:
        return bool((_PROC / str(pid) / "cmdline").read_bytes())
    except OSError:
        return False


def tree(pid: int) -> list[int]:
    """Answer the process and all its descendants, parents before their children.

    Needs the kernel's CONFIG_PROC_CHILDREN, which distributions have. A process that forks meanwhile may be missing.
    """
    found = [pid]
    for parent in found:
        try:
            children = (_PROC / str(parent) / "task" / str(parent) / "children").read_text()
        except OSError:
            continue
        found += map(int, children.split())
    return found


def resident_bytes(pids: Iterable[int]) -> int:
    """Estimate the memory of a group: private pages of each process, and shared ones of the one that has most."""
    private, shared = 0, 0
    for pid in pids:
        values = _read_status(pid)
        private += _kib(values, "RssAnon")
        shared = max(shared, _kib(values, "RssShmem") + _kib(values, "RssFile"))
    return (private + shared) * 1024


def awaits_signal(pid: int) -> bool:
    """Whether a signal waits for the process that will make it do something: a timer's, an operator's."""
    values = _read_status(pid)
    pending = int(values.get("SigPnd", "0"), 16) | int(values.get("ShdPnd", "0"), 16)
    return any(pending & 1 << number - 1 for number in _MEANINGFUL)


def effective_capabilities() -> int:
    """Answer this process's effective capabilities as a set of bits (capabilities(7))."""
    return int(_read_status(os.getpid()).get("CapEff", "0"), 16)


def _read_status(pid: int) -> dict[str, str]:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _kib(values: dict[str, str], name: str) -> int:
    return int(values.get(name, "0").split()[0])


def works_in(pid: int, folder: Path) -> bool:
    """Whether the process's working folder is `folder`: true of every process of a PostgreSQL on that data folder."""
    try:
        return os.path.samestat((_PROC / str(pid) / "cwd").stat(), folder.stat())
    except OSError:
        return False


def find_processes_in(folder: Path) -> Iterator[ProcessIdentity]:
    """Answer every process whose working folder is `folder`. Reads all of /proc, so only for rare cases."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and works_in(int(entry.name), folder):
            identity = read_identity(int(entry.name))
            if identity is not None:
                yield identity
