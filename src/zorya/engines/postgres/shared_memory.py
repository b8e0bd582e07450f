"""What an engine that was killed leaves in the host's shared memory, outside its data folder.

A postmaster that ends in order removes it, and one that is started again on the folder does so too; nobody does when
the folder is removed instead. There are at most `kernel.shmmni` System V segments on a host (4096), and without one to
be had no PostgreSQL starts.

Each postmaster has one such segment, named in `postmaster.pid`. It begins with a PGShmemHeader (PostgreSQL's
src/include/storage/pg_shmem.h), which names a control segment of POSIX shared memory, and that the others
(src/backend/storage/ipc/dsm.c, dsm_control_header and dsm_cleanup_using_control_segment): the same from 14 on.
"""

import ctypes
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from zorya.core import logging
from zorya.engines.postgres import lockfile

POSIX = Path("/dev/shm")  # noqa: S108 - where the C library has it, see shm_overview(7)
_SYSTEM_V = Path("/proc/sysvipc/shm")

_HEADER = struct.Struct("=iiQQI")
"""magic, creator's process number, size, free offset, handle of the control segment."""
_HEADER_MAGIC = 679834894
_CONTROL = struct.Struct("=III")
"""magic, items used, items at the most."""
_CONTROL_MAGIC = 0x9A503D32
_ITEM_BYTES = 40
"""Of a handle, a count, two sizes, a pointer and a flag."""
_ITEMS_AT = 16

_IPC_RMID = 0
_SHM_RDONLY = 0o10000
_FAILED = ctypes.c_void_p(-1).value

_log = logging.get("zorya.engines")


def release(data: Path) -> None:
    """Remove what an engine on this data folder has left. None of its processes may be there. Never raises."""
    try:
        lock = lockfile.parse((data / lockfile.NAME).read_text(errors="replace"))
    except OSError:
        return
    if lock is None or lock.shared_memory is None or not _is_unused(lock.shared_memory):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    at = libc.shmat(lock.shared_memory, None, _SHM_RDONLY)
    if at == _FAILED:
        return
    try:
        magic, creator, _, _, control = _HEADER.unpack(ctypes.string_at(at, _HEADER.size))
    finally:
        libc.shmdt(ctypes.c_void_p(at))
    # The number may have been given to another segment since.
    if (magic, creator) != (_HEADER_MAGIC, lock.pid):
        return
    for name in _dynamic(control):
        with suppress(OSError):
            (POSIX / name).unlink()
    libc.shmctl(lock.shared_memory, _IPC_RMID, None)
    _log.debug("shared memory of a killed engine was removed", folder=str(data), segment=lock.shared_memory)


def _is_unused(number: int) -> bool:
    """Whether there is such a System V segment and no process has it: what PostgreSQL itself goes by, too."""
    try:
        lines = _SYSTEM_V.read_text().splitlines()
    except OSError:
        return False
    where = {name: at for at, name in enumerate(lines[0].split())}
    rows = [line.split() for line in lines[1:]]
    return any((row[where["shmid"]], row[where["nattch"]]) == (str(number), "0") for row in rows)


def _dynamic(control: int) -> Iterator[str]:
    """Answer the names of the POSIX segments that a control segment lists, and its own last."""
    own = _name(control)
    with suppress(OSError):
        content = (POSIX / own).read_bytes()
        if len(content) >= _ITEMS_AT:
            magic, used, _ = _CONTROL.unpack_from(content)
            if magic == _CONTROL_MAGIC:
                for at in range(_ITEMS_AT, min(_ITEMS_AT + used * _ITEM_BYTES, len(content) - 3), _ITEM_BYTES):
                    yield _name(int.from_bytes(content[at : at + 4], "little"))
    yield own


def _name(handle: int) -> str:
    return f"PostgreSQL.{handle}"
