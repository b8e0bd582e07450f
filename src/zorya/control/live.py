"""One engine that is up: its processes, what it was last seen doing, and its sleep. No decisions."""

import asyncio
from collections.abc import Callable, Set

from zorya.compute import procfs
from zorya.compute.group import ProcessGroup
from zorya.compute.processes import EngineProcess
from zorya.compute.vigil import Vigil
from zorya.control import quiet
from zorya.control.quiet import Quiet
from zorya.core import errors, failpoints
from zorya.core.clock import Clock
from zorya.engines.base import Activity, Watcher

ANSWER_WITHIN_S = 5.0
"""How long an engine may take to say what it does."""

ASK_EVERY_S = 2.0
"""How often a busy engine is asked at most, but for when its processes change."""


class LiveEngine:
    """An engine from its start, or from when it was found, to its end."""

    def __init__(
        self, process: EngineProcess, group: ProcessGroup, *, new_watcher: Callable[[], Watcher], clock: Clock
    ) -> None:
        """`new_watcher` raises EngineProblem until the engine says where it listens."""
        self.process = process
        self.group = group
        self.quiet: Quiet | None = None
        """What the last look showed; None before the first, and while the engine cannot say."""
        self._new_watcher = new_watcher
        self._clock = clock
        self._watcher: Watcher | None = None
        self._vigil: Vigil | None = None
        self._pids: Set[int] = frozenset()
        self._clients: Set[int] = frozenset()
        self._helpers: Set[int] = frozenset()

    # What it does.

    @property
    def counted(self) -> int:
        """The sessions that the last look showed, those that are being let in among them."""
        return len(self._clients)

    def sessions(self, unseen: int) -> int:
        """Answer the sessions there are now. `unseen` are clients that were attached since the last look."""
        if self._vigil is not None:
            return self._vigil.sessions
        pids = self.group.pids()
        unknown = pids - self._helpers - self._clients - {self.process.pid}
        return len(pids & self._clients) + min(unseen, len(unknown))

    async def look(self, freeze_after_s: float | None) -> bool:
        """See whether processes have come or gone; ask the engine where that is needed. Answer whether it was asked.

        Raises NotReady while it recovers, and EngineProblem when it does not answer.
        """
        pids = self.group.pids()
        if self.quiet is not None and pids == self._pids and not self._asks_anyway(freeze_after_s):
            return False
        await self._ask(pids)
        return True

    async def count_anew(self) -> int:
        """Answer the sessions there are, counting every client that the engine was given before this was called.

        The engine's first process accepts connections and makes their processes one after the other, so a connection of
        our own that was accepted later shows that all those before it have theirs. Raises as `look` does.
        """
        await self._let_watcher_go()
        await self._ask(self.group.pids())
        await self._ask(self.group.pids())
        return self.counted

    def _asks_anyway(self, freeze_after_s: float | None) -> bool:
        """Whether it may have come to rest: one that rests is asked again when it is to be frozen."""
        if self.quiet is None or freeze_after_s is None or self.quiet.since_s is not None:
            return False
        return self._clock.monotonic_s() - self.quiet.seen_s >= min(ASK_EVERY_S, freeze_after_s)

    async def _ask(self, pids: Set[int]) -> Activity:
        try:
            if self._watcher is None:
                self._watcher = self._new_watcher()
            async with asyncio.timeout(ANSWER_WITHIN_S):
                seen = await self._watcher.observe(pids, self.process.pid)
        except BaseException as error:
            self.quiet = None
            await self._let_watcher_go()
            if isinstance(error, TimeoutError):
                raise errors.EngineProblem(
                    f"The engine has not said for {ANSWER_WITHIN_S:g} s what it does."
                ) from error
            raise
        self.quiet = quiet.follow(self.quiet, seen, self._clock.monotonic_s())
        self._pids, self._clients, self._helpers = pids, seen.clients, seen.helpers
        return seen

    async def _let_watcher_go(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await watcher.close()

    # Its sleep.

    async def freeze(self, ports: Set[int], stirred: Callable[[str], None]) -> str:
        """Freeze it, and call `stirred` once when a client wants something of it. Answer why not; empty if it is frozen.

        `ports` are those at which clients' connections end. The order matters: sockets and their counters are taken,
        then the engine says that it rests, then it is frozen, then the counters are compared (`Vigil.what_came`).
        Raises FreezeFailed and what `look` raises; unless it answers "", the engine runs and nothing of it is held.
        """
        before = self.quiet
        pids = self.group.pids()
        vigil = await asyncio.to_thread(Vigil.take, pids, first=self.process.pid, ports=ports)
        try:
            await self._ask(pids)
            why = self._not_at_rest_since(before)
            if not why:
                await self.group.freeze()
                await failpoints.reached("freeze.begun")
                why = vigil.what_came(self.group.pids())
            if not why:
                vigil.watch(stirred)
                self._vigil, vigil = vigil, Vigil()
                return ""
            self.group.thaw()
        except BaseException:
            self.group.thaw()
            raise
        finally:
            vigil.close()
        self._begin_anew()
        return why

    def _not_at_rest_since(self, before: Quiet | None) -> str:
        if self.quiet is None or before is None:
            return "It was not looked at."
        if self.quiet.busy:
            return self.quiet.busy
        return "" if self.quiet.since_s == before.since_s else "A session did something."

    def _begin_anew(self) -> None:
        """Count the time of rest from now on, after something came."""
        self.quiet = None

    def thaw(self) -> None:
        """Let it go on, and give its sockets back. Never waits; may be repeated."""
        self.group.thaw()
        vigil, self._vigil = self._vigil, None
        if vigil is not None:
            vigil.close()
            self._begin_anew()

    def awaits_signal(self) -> bool:
        """Whether a timer or an operator has signalled one of its frozen processes."""
        return any(procfs.awaits_signal(pid) for pid in self.group.pids())

    async def close(self) -> None:
        """Hold nothing of it any more; thawed, it goes on by itself. Idempotent."""
        self.thaw()
        await self._let_watcher_go()
