"""Requests that wait for news, and how all of them are let go when the server stops."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class LongPolls:
    """Waits with a deadline that can be ended together. Belongs to one event loop."""

    def __init__(self) -> None:
        self._deadlines: set[asyncio.Timeout] = set()
        self._ended = False

    async def wait(self, news: Awaitable[T], *, seconds: float, otherwise: T) -> T:
        """Answer the news, or `otherwise` when there is none within `seconds` or `end` is called first."""
        try:
            async with asyncio.timeout(0 if self._ended else seconds) as deadline:
                self._deadlines.add(deadline)
                try:
                    return await news
                finally:
                    self._deadlines.discard(deadline)
        except TimeoutError:
            return otherwise

    def end(self) -> None:
        """Let every wait go now, and every later one at once. May be repeated."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            deadline.reschedule(now)
