"""Follows an engine's log for failed logins, cheaply: one `stat` at each look, and only what is new is read."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from zorya.compute import logfile
from zorya.core.identity import FailedLogin

MOST_AT_ONCE_BYTES = 256 * 1024
"""What is read at one look; of a log that grows faster the rest is passed over."""


class LogTail:
    """Reads one log from its present end on. It may be rotated meanwhile: it is copied away and emptied then."""

    def __init__(self, log: Path, *, find: Callable[[str], Sequence[FailedLogin]]) -> None:
        """`find` answers the failed logins in whole lines of the log."""
        self._log = log
        self._find = find
        self._position = logfile.size(log)
        self._rest = b""
        """The beginning of a line that is not written to its end yet."""
        self._is_within_line = False
        """Whether what comes next, up to the end of its line, belongs to something that was passed over."""

    async def failed_logins(self) -> Sequence[FailedLogin]:
        """Answer those that were logged since the last call. A log that cannot be read has none."""
        size = logfile.size(self._log)
        if size == self._position:
            return ()
        try:
            return await asyncio.to_thread(self._read_to, size)
        except OSError:
            return ()

    def _read_to(self, size: int) -> Sequence[FailedLogin]:
        begin = self._position
        if size < begin:
            begin, self._rest = 0, b""
        if size - begin > MOST_AT_ONCE_BYTES:
            begin, self._rest, self._is_within_line = size - MOST_AT_ONCE_BYTES, b"", True
        with self._log.open("rb") as file:
            file.seek(begin)
            read = file.read(size - begin)
        self._position = begin + len(read)
        if self._is_within_line:
            _, end, read = read.partition(b"\n")
            self._is_within_line = not end
        lines, newline, self._rest = (self._rest + read).rpartition(b"\n")
        if len(self._rest) > MOST_AT_ONCE_BYTES:
            # A part of a line must never be taken for a whole one: what it says could be a stranger's words.
            self._rest, self._is_within_line = b"", True
        return self._find((lines + newline).decode(errors="replace")) if lines else ()
