"""Shared memory that killed engines leave: gone at the end of the tests, since the next ones need room for theirs."""

import contextlib
import ctypes
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zorya.engines.postgres.shared_memory import POSIX

_HEADER_BYTES = 56
_IPC_RMID = 0
_SETTLED_S = 1.0


def posix_segments() -> set[Path]:
    """Answer the segments of all PostgreSQLs of this host."""
    return set(POSIX.glob("PostgreSQL.*"))


def system_v_segments() -> dict[int, dict[str, int]]:
    """Answer the host's segments by their numbers, with what /proc/sysvipc/shm says of each (proc(5))."""
    names, *rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()]
    return {int(row[1]): {name: int(value) for name, value in zip(names, row, strict=True)} for row in rows}


def mapped(pid: int) -> set[Path]:
    """Answer the POSIX segments that a process has."""
    with contextlib.suppress(OSError):
        names = re.findall(r"/dev/shm/(PostgreSQL\.\d+)", Path(f"/proc/{pid}/maps").read_text())
        return {POSIX / name for name in names}
    return set()


def _unused_posix(since_s: float) -> set[Path]:
    # First what there is, then who has it: others' tests may be running, whose engines make new ones all the time.
    found = set()
    for segment in posix_segments():
        with contextlib.suppress(OSError):
            if segment.stat().st_mtime >= since_s:
                found.add(segment)
    return found - {segment for process in Path("/proc").glob("[0-9]*") for segment in mapped(int(process.name))}


def _unused_system_v(since_s: float) -> set[int]:
    return {
        number
        for number, one in system_v_segments().items()
        if (one["size"], one["nattch"]) == (_HEADER_BYTES, 0) and one["ctime"] >= since_s
    }


def remove_unused(since_s: float) -> None:
    """Remove what no process has of what was made from then on, seconds since the epoch."""
    posix, system_v = _unused_posix(since_s), _unused_system_v(since_s)
    if not posix and not system_v:
        return
    # What an engine has made a moment ago is not mapped yet.
    time.sleep(_SETTLED_S)
    for segment in posix & _unused_posix(since_s):
        segment.unlink(missing_ok=True)
    libc = ctypes.CDLL(None)
    for number in system_v & _unused_system_v(since_s):
        libc.shmctl(number, _IPC_RMID, None)


@pytest.fixture(scope="session", autouse=True)
def _no_shared_memory_is_left() -> Iterator[None]:
    began_s = time.time() - 1
    yield
    remove_unused(began_s)
