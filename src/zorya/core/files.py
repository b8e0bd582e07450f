"""Files and folders with the right owner, mode and durability."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zorya.core import errors
from zorya.core.account import Account

MAX_SOCKET_PATH = 107
"""Bytes that a Unix socket's path may have on Linux (sockaddr_un.sun_path less its terminator)."""


def ensure_folder(path: Path, *, mode: int, owner: Account | None = None, group: Account | None = None) -> Path:
    """Make the folder if missing and set its mode; `owner` gets it whole, `group` only as its group. Idempotent."""
    path.mkdir(mode=mode, exist_ok=True)
    if owner is not None and owner.is_other:
        os.chown(path, owner.uid, owner.gid)
    elif group is not None and group.is_other:
        os.chown(path, -1, group.gid)
    path.chmod(mode)
    return path


def write_atomically(path: Path, text: str, *, mode: int, group: Account | None = None, durable: bool = True) -> None:
    """Replace a file so that a crash leaves the old content or the new, whole. Durable on return.

    Where it need not be `durable` no disk is waited for; a crash of the host may then leave anything.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if group is not None and group.is_other:
                os.fchown(file.fileno(), -1, group.gid)
            os.fchmod(file.fileno(), mode)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_if_different(path: Path, text: str, *, mode: int, group: Account | None = None, durable: bool = True) -> bool:
    """Write atomically unless the file holds this text already: a start then costs no disk flush.

    Answers whether it was written.
    """
    try:
        if path.read_text() == text:
            return False
    except OSError:
        pass
    write_atomically(path, text, mode=mode, group=group, durable=durable)
    return True


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable, after a rename or removal in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it; no error if it is gone. Does not follow symbolic links.

    Raises StorageProblem when something in it cannot be removed.
    """

    def note(_function: object, name: str, info: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(info[1], FileNotFoundError):
            raise errors.StorageProblem(f"{name} cannot be removed: {info[1]}.") from info[1]

    shutil.rmtree(path, onerror=note)


def tree_bytes(path: Path) -> int:
    """Answer what the files below `path` take on the disk, in bytes; those that go away meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118 - thousands of them
            except FileNotFoundError:
                continue
    return total


@contextmanager
def disk_errors(doing: str, where: Path) -> Iterator[None]:
    """Turn OSError within the block into DiskFull or StorageProblem that say what was done and where."""
    try:
        yield
    except OSError as error:
        raise explain(error, doing, where) from error


def explain(error: OSError, doing: str, where: Path) -> errors.StorageProblem:
    """Answer the error of the tree for a failed file operation."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return disk_full(doing, where)
    return errors.StorageProblem(
        f"{doing} failed in {where}: {error.strerror or error}.", client_message=f"{doing} failed on the server's host."
    )


def disk_full(doing: str, where: Path) -> errors.DiskFull:
    """Answer the error of a full disk."""
    return errors.DiskFull(
        f"{doing} failed: no space left on the disk that holds {where}.",
        hint="Free some space and try again.",
        client_message=f"{doing} failed: the disk is full.",
    )
