"""An engine's log file: appended to by the engine itself, kept bounded by Zorya."""

import os
import shutil
from pathlib import Path


def rotate(path: Path, *, max_bytes: int) -> bool:
    """Copy a log that has grown past `max_bytes` to `<name>.1` and empty it; answer whether it was. Blocking.

    The engine holds the file open for appending and outlives Zorya, so the file itself has to stay: lines written in
    the instant between the copy and the emptying are lost, as with logrotate's copytruncate. On a disk that has no room
    for the copy there is none: a log must not keep a disk full.
    """
    if size(path) <= max_bytes:
        return False
    older = path.with_name(path.name + ".1")
    try:
        older.touch(mode=0o600)
        shutil.copyfile(path, older)
    except OSError:
        older.unlink(missing_ok=True)
    os.truncate(path, 0)
    return True


def size(path: Path) -> int:
    """Answer the log's length in bytes, 0 when there is none: a mark to give to `read_from`."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def read_from(path: Path, mark: int, *, limit: int = 65536) -> str:
    """Answer what was written after `mark`, its last `limit` bytes at most, in whole lines."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = max(min(mark, end), end - limit)
            file.seek(begin)
            text = file.read()
            # A part of a line must never be taken for a whole one: what it says could be a stranger's words.
            return (text if begin <= mark else text.partition(b"\n")[2]).decode(errors="replace")
    except FileNotFoundError:
        return ""
