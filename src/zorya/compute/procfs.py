"""What /proc says of processes."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from zorya.core.model import ProcessIdentity

_PROC = Path("/proc")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

PROTECTED = -900
"""For oom_score_adj: -1000 would be never, and the kernel must still be able to end an engine that is all there is."""

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


def private_and_shared_bytes(pids: Iterable[int]) -> tuple[int, int]:
    """Estimate the same from one short file a process, as two numbers, private memory and shared.

    The proportional share (PSS) would be exact, but has the kernel walk each process's page tables.
    """
    private, shared = 0, 0
    for pid in pids:
        fields = _read_fields(pid, "statm")
        if len(fields) > 2:
            resident, common = int(fields[1]), int(fields[2])
            private += resident - common
            shared = max(shared, common)
    return private * _PAGE_BYTES, shared * _PAGE_BYTES


def cpu_s(pids: Iterable[int], first: int) -> float | None:
    """Answer the processor time of the processes, and of the children of `first` that have ended; None if all have.

    In steps of 10 ms. It may fall when a process ends whose parent is not `first`.
    """
    ticks, is_any = 0, False
    for pid in pids:
        stat = b" ".join(_read_fields(pid, "stat"))
        if not stat:
            continue
        fields = stat[stat.rindex(b")") + 2 :].split()
        # utime and stime, and for children cutime and cstime, of proc_pid_stat(5).
        ticks += sum(map(int, fields[11 : 15 if pid == first else 13]))
        is_any = True
    return ticks / _TICKS_A_SECOND if is_any else None


def run_delay_s(pids: Iterable[int]) -> float | None:
    """Answer how long the processes were ready and did not run; None where the kernel does not count it.

    The second number of /proc/PID/schedstat (the kernel's Documentation/scheduler/sched-stats.rst).
    """
    found = [int(fields[1]) for pid in pids if len(fields := _read_fields(pid, "schedstat")) > 1]
    return sum(found) / 1e9 if found else None


def protect(pid: int) -> bool:
    """Have the kernel end almost anything else before this process when memory runs out. Answer whether it may be so.

    Root may (CAP_SYS_RESOURCE), others may not. Children that are forked from then on have it too, until they write
    another number: PostgreSQL's do when its environment has PG_OOM_ADJUST_FILE and PG_OOM_ADJUST_VALUE (its manual,
    "Linux Memory Overcommit").
    """
    with contextlib.suppress(OSError):
        (_PROC / str(pid) / "oom_score_adj").write_text(str(PROTECTED))
        return True
    return False


def _read_fields(pid: int, name: str) -> list[bytes]:
    """Answer the words of a file of one line; none when the process is gone, or the kernel has no such file."""
    # open and not pathlib: this is done for each process of a group, every second.
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
            return file.read(4096).split()
    except OSError:
        return []


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


def belongs_to(pid: int, folder: Path) -> bool:
    """Whether the process's working folder is `folder`, or was until that was removed under it."""
    if works_in(pid, folder):
        return True
    try:
        return str((_PROC / str(pid) / "cwd").readlink()) == f"{os.path.realpath(folder)} (deleted)"
    except OSError:
        return False


def find_processes_in(folder: Path) -> Iterator[ProcessIdentity]:
    """Answer every process that belongs to `folder`. Reads all of /proc, so only for rare cases."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and belongs_to(int(entry.name), folder):
            identity = read_identity(int(entry.name))
            if identity is not None:
                yield identity
