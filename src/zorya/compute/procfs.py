"""What /proc says of processes."""

import os
from collections.abc import Iterator
from pathlib import Path

from zorya.core.model import ProcessIdentity

_PROC = Path("/proc")


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
