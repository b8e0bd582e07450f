"""Clients that have not said yet who they are: bounded in number, the slowest goes when one too many comes.

However many of them dawdle, a newcomer always gets in, and one that gets on with it is through long before it is the
slowest of all.
"""

import asyncio
from collections import OrderedDict


class Handshakes:
    """The clients of all ports that are at their handshake, oldest first."""

    def __init__(self, limit: int) -> None:
        """Have no more than `limit` of them at once."""
        self._limit = limit
        self._tasks: OrderedDict[asyncio.Task[None], None] = OrderedDict()

    def begin(self, task: asyncio.Task[None]) -> None:
        """Count the client of this task in; if there are too many, cancel the task of the one that came first."""
        if len(self._tasks) >= self._limit:
            slowest, _ = self._tasks.popitem(last=False)
            slowest.cancel()
        self._tasks[task] = None

    def end(self, task: asyncio.Task[None] | None) -> None:
        """The client has said who it is, or has gone. May be repeated."""
        if task is not None:
            self._tasks.pop(task, None)

    def __len__(self) -> int:
        return len(self._tasks)
