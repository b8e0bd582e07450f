"""A server whose clocks can be put ahead, and what its events say."""

import re
import sys
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
