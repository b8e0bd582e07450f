"""`postmaster.pid`: what a running postmaster says of itself. Pure.

Format: PostgreSQL's src/include/utils/pidfile.h. One value a line: pid, data folder, start time, port, socket folder,
first listen address, shared memory key, status. The file grows while the postmaster starts, so later lines may be
missing.
"""

from dataclasses import dataclass

NAME = "postmaster.pid"


@dataclass(frozen=True, kw_only=True, slots=True)
class LockFile:
    """The lines that Zorya uses; None where a line is not there yet."""

    pid: int
    port: int | None
    listen_address: str | None
    shared_memory: int | None
    """The number of its System V segment."""
    status: str | None
    """One of "starting", "stopping", "ready", "standby"."""


def parse(text: str) -> LockFile | None:
    """Read the file's content; None when it does not begin with a process number (half-written or damaged)."""
    lines = [line.strip() for line in text.splitlines()]
    pid = _number(lines, 0)
    if pid is None:
        return None
    return LockFile(
        # A single-user backend, which initialises data folders, writes its number negative.
        pid=abs(pid),
        port=_number(lines, 3),
        listen_address=_text(lines, 5),
        # Behind its key.
        shared_memory=_last_number(_text(lines, 6)),
        status=_text(lines, 7),
    )


def _text(lines: list[str], index: int) -> str | None:
    return lines[index] or None if index < len(lines) else None


def _last_number(text: str | None) -> int | None:
    last = text.split()[-1] if text else ""
    return int(last) if last.isdecimal() else None


def _number(lines: list[str], index: int) -> int | None:
    text = _text(lines, index)
    try:
        return int(text) if text else None
    except ValueError:
        return None
