"""What the binary log's files say of the server's last run, read from outside.

Each start begins a new file and adds it to the index; nobody but the administrator may make the server forget files.
A file says in its first event, from its beginning until it is closed in order, that it is in use: so the server itself
knows after a crash that it has to recover (LOG_EVENT_BINLOG_IN_USE_F, sql/log_event.h).
"""

from pathlib import Path

from zorya.engines.mariadb import configuration

_MAGIC = b"\xfebin"
_FLAGS_AT = len(_MAGIC) + 17
"""In an event's header: 4 bytes time, 1 type, 4 server, 4 length, 4 next position, 2 flags."""
_IN_USE = 0x1


def last(data: Path) -> Path | None:
    """Answer the newest file of the data folder's binary log; None where there is none."""
    try:
        names = (data / configuration.BINLOG_INDEX).read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    named = [name for name in names if name]
    # The index has the path of when it was written.
    return data / Path(named[-1]).name if named else None


def oldest_within(data: Path, keep_bytes: int) -> str | None:
    """Answer the name of the oldest file to keep so that all together have no more bytes; None if all may stay.

    The newest is in use, and stays in any case.
    """
    files = sorted(data.glob(f"{configuration.BINLOG}.[0-9]*"), reverse=True)
    total = 0
    for newer, path in zip([None, *files], files, strict=False):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
        if total > keep_bytes and newer is not None:
            return newer.name
    return None


def is_closed(path: Path) -> bool:
    """Whether the file was closed in order."""
    try:
        with path.open("rb") as file:
            head = file.read(_FLAGS_AT + 2)
    except OSError:
        return False
    return len(head) == _FLAGS_AT + 2 and head.startswith(_MAGIC) and not head[_FLAGS_AT] & _IN_USE


def stamp(data: Path) -> str:
    """Answer which index it is and when it was written last, as every start does. Empty if there is none."""
    try:
        found = (data / configuration.BINLOG_INDEX).stat()
    except OSError:
        return ""
    # Not the device: its number may be another one after a reboot.
    return f"{found.st_ino}-{found.st_mtime_ns}"
