"""Engine processes whose first process was killed: they must be gone before the data folder is used again."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from zorya.compute import freezer, procfs
from zorya.core import errors

GRACE_S = 5.0
"""How long leftovers may finish by themselves; they end at their next wait, since their parent's pipe closed."""


async def clear(folder: Path) -> int:
    """Wait until no process works in the data folder any more, ending by force those that stay. Answer how many were.

    Two engines on one data folder would destroy it; PostgreSQL's own guard against that is a lock file that an
    operator is tempted to remove. Raises StopFailed when a process survives SIGKILL (it hangs in the kernel).
    """
    found = await asyncio.to_thread(_pids, folder)
    if not found:
        return 0
    await asyncio.to_thread(_let_stopped_go, folder)
    if not await _gone(folder, GRACE_S):
        for pid in await asyncio.to_thread(_pids, folder):
            _kill(pid, folder)
        if not await _gone(folder, GRACE_S):
            raise errors.StopFailed(
                f"Processes of an earlier engine still use {folder}: {sorted(_pids(folder))}.",
                hint="They hang in the kernel; look at the disk, or restart the host.",
                client_message="Processes of an earlier engine have not ended.",
            )
    return len(found)


async def kill(folder: Path) -> None:
    """End all processes that work in the folder with SIGKILL, stopped ones too, and wait until they are gone.

    Raises StopFailed as `clear`.
    """
    for pid in await asyncio.to_thread(_pids, folder):
        _kill(pid, folder)
    await clear(folder)


async def _gone(folder: Path, within_s: float) -> bool:
    deadline = asyncio.get_running_loop().time() + within_s
    while await asyncio.to_thread(_pids, folder):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def _let_stopped_go(folder: Path) -> None:
    """Let those go on that were frozen by signals, so that they notice that they are alone."""
    for pid in freezer.stopped_orphans(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _kill(pid: int, folder: Path) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if procfs.belongs_to(pid, folder):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _pids(folder: Path) -> set[int]:
    return {identity.pid for identity in procfs.find_processes_in(folder)}
