"""Clients that have not said yet who they are: bounded in number, and whoever dawdles goes when others wait.

However many of them dawdle, a newcomer gets in: at once while there is room, and else as soon as the slowest has had
its time, or one is done. Until then newcomers wait in the kernel's queue. So a crowd that gets on with it is served to
the last.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

PATIENCE_S = 2.0
"""How long a client may take over its handshake while others wait for its place."""


class Handshakes:
    """The clients of all ports that are at their handshake, those that came first in front. Pure: `now_s` is given."""

    def __init__(self, limit: int, *, has_room: Callable[[], None]) -> None:
        """Have no more than `limit` of them at once. `has_room` is called when one has ended of a full house."""
        self._limit = limit
        self._has_room = has_room
        self._began_s: OrderedDict[asyncio.Task[None], float] = OrderedDict()

    def room_in_s(self, now_s: float) -> float:
        """Answer in how many seconds there will be room for one more at the latest; 0 if there is now."""
        if len(self._began_s) < self._limit:
            return 0.0
        return max(0.0, next(iter(self._began_s.values())) + PATIENCE_S - now_s)

    def begin(self, task: asyncio.Task[None], now_s: float) -> None:
        """Count the client of this task in. If there are too many, the task of the one that came first is canceled."""
        if len(self._began_s) >= self._limit:
            slowest, _ = self._began_s.popitem(last=False)
            slowest.cancel()
        self._began_s[task] = now_s

    def end(self, task: asyncio.Task[None] | None) -> None:
        """The client has said who it is, or has gone. May be repeated."""
        was_full = len(self._began_s) >= self._limit
        if task is not None and self._began_s.pop(task, None) is not None and was_full:
            self._has_room()

    def __len__(self) -> int:
        return len(self._began_s)
