"""A server whose clocks can be put ahead, and what it has written of its clusters."""

import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from harness import Server


class Turned:
    """A server whose clocks can be put ahead."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._offset = server.home.parent / "offset"
        self._ahead_s = 0
        self.pass_s(0)
        server.env["CLOCK_OFFSET_FILE"] = str(self._offset)
        server.command = [sys.executable, str(Path(__file__).with_name("hurrying_clock.py"))]

    def pass_s(self, seconds: int) -> None:
        """Let so much time have passed."""
        self._ahead_s += seconds
        new = self._offset.with_suffix(".new")
        new.write_text(str(self._ahead_s))
        new.replace(self._offset)


def told(server: Server, kind: str, words: str = "(?s)(.*)", name: str = "main") -> list[str]:
    """Answer what the cluster's events of this kind say, in so far as it is in brackets."""
    events = server.api.events(name, after=0, limit=1000, wait_s=0, sleep=True)
    found = [re.search(words, event["message"]) for event in events if event["kind"] == f"ZORYA-EVENT-{kind}"]
    return [one[1] for one in found if one]


def is_written(server: Server, capacity: float) -> bool:
    """Whether the file of the meters says that the only cluster has this capacity."""
    with closing(sqlite3.connect(f"file:{server.home / 'usage.db'}?mode=ro", uri=True)) as file:
        return bool(file.execute("SELECT capacity FROM meters").fetchone() == (capacity * 1000,))
