"""One engine that is up: its processes, what it was last seen doing, and its sleep.

`lifecycle` decides when it is looked at, frozen and thawed; `cluster` has the consequences for the cluster.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence, Set

from zorya.compute import procfs
from zorya.compute.group import ProcessGroup
from zorya.compute.processes import EngineProcess
from zorya.compute.vigil import Vigil
from zorya.control import quiet
from zorya.control.quiet import Quiet
from zorya.control.tail import LogTail
from zorya.core import errors, failpoints, logging
from zorya.core.clock import Clock
from zorya.core.identity import FailedLogin
from zorya.engines.base import Activity, Watcher

LOOK_EVERY_S = 0.5
"""How often it is seen whether an engine's processes have come or gone: one small file is read."""

LISTEN_EVERY_S = 5.0
"""How often it is seen whether a signal waits for a frozen process, such as that of a session's own timer."""

FREEZE_AGAIN_S = 5.0
"""How long no freeze is tried, at least, after one that failed."""

ANSWER_WITHIN_S = 5.0
"""How long an engine may take to say what it does."""

ASK_EVERY_S = 2.0
"""How often an engine with sessions is asked at most, but for when its processes change."""

ENDING_S = 2.0
"""How long a session may take to end that was asked to."""

_ENDING_POLL_S = 0.005

_log = logging.get("zorya.control")


class LiveEngine:
    """An engine from its start, or from when it was found, to its end."""

    def __init__(
        self,
        cluster: str,
        process: EngineProcess,
        group: ProcessGroup,
        *,
        workers: Callable[[], Set[int]],
        new_watcher: Callable[[], Watcher],
        tail: LogTail,
        clock: Clock,
    ) -> None:
        """`workers` answers what comes and goes with sessions, see Engine.workers. `new_watcher` raises EngineProblem
        until the engine says where it listens.
        """
        self.process = process
        self.group = group
        self.quiet: Quiet | None = None
        """What the last look showed; None before the first, and while the engine cannot say."""
        self.activity: Activity | None = None
        """What it said last that it does; None before it has."""
        self.look_at_s = 0.0
        """When it is to be looked at next; of a frozen one, whether a signal waits for it."""
        self.is_freezing = False
        self.frozen_at_s = 0.0
        self.stirred = ""
        """Why it is wanted while it is frozen, as a sentence; empty when it is not."""
        self.is_reclaimed = False
        """Whether its memory was given back since it was frozen."""
        self.freeze_blocked_until_s = 0.0
        self.freeze_problem = ""
        """What is in the way of freezing it, as a sentence; empty when nothing is, or it was not tried."""
        self.telling = asyncio.Lock()
        """Held while the engine is told something that it answers, and while it is frozen: never both at once."""
        self._cluster = cluster
        self._list_workers = workers
        self._new_watcher = new_watcher
        self._tail = tail
        self._clock = clock
        self._watcher: Watcher | None = None
        self._vigil: Vigil | None = None
        self._changed: Callable[[], None] = lambda: None
        self._is_to_be_asked = False
        self._workers: Set[int] = frozenset()
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
        workers = self._list_workers()
        unknown = workers - self._helpers - self._clients - {self.process.pid}
        # Negative numbers stand for clients whose worker is not known yet.
        there = sum(client < 0 or client in workers for client in self._clients)
        return there + min(unseen, len(unknown))

    async def look(self, freeze_after_s: float | None) -> None:
        """See whether workers have come or gone; ask the engine what it does where that is needed.

        An engine that does not answer is looked at again later: it recovers from a crash, or its host is overloaded.
        """
        every_s = LOOK_EVERY_S if freeze_after_s is None else min(LOOK_EVERY_S, freeze_after_s)
        workers = self._list_workers()
        try:
            if self.quiet is None or workers != self._workers or self._asks_anyway(freeze_after_s):
                await self._ask(workers)
        except errors.EngineProblem as error:
            _log.debug("the engine does not say what it does", cluster=self._cluster, error=str(error))
            every_s = LOOK_EVERY_S
        self.look_at_s = self._clock.monotonic_s() + every_s

    async def failed_logins(self) -> Sequence[FailedLogin]:
        """Answer the logins that the engine turned down since this was called last; see LogTail."""
        return await self._tail.failed_logins()

    def ask_soon(self) -> None:
        """Have it looked at next, and asked what it does, unless it has just been."""
        if self.quiet is not None and self._clock.monotonic_s() - self.quiet.seen_s >= LOOK_EVERY_S:
            self._is_to_be_asked = True
            self.look_soon()

    def begin_rest_anew(self) -> None:
        """Count its rest anew from the next look on, for a session that may have ended again before that."""
        self.quiet = None

    def look_soon(self) -> None:
        """Have it looked at next."""
        self.look_at_s = 0.0

    async def count_anew(self) -> int:
        """Answer the sessions there are, counting every client that the engine was given before this was called.

        The engine accepts connections and makes their workers one after the other, so a connection of our own that was
        accepted later shows that all those before it have theirs. Raises NotReady while it
        recovers, and EngineProblem when it does not answer.
        """
        await self._let_watcher_go()
        await self._ask(self._list_workers())
        await self._ask(self._list_workers())
        return self.counted

    async def end_sessions(self) -> None:
        """Ask the sessions that the last look showed to end, and wait for it ENDING_S at most.

        Raises NotReady, EngineProblem.
        """
        asked = frozenset(self._clients)
        if self._watcher is not None:
            await self._watcher.end_sessions(asked, self._list_workers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S):
                while asked & self._list_workers():  # noqa: ASYNC110 - the kernel tells of no end of another's child
                    await asyncio.sleep(_ENDING_POLL_S)

    def _asks_anyway(self, freeze_after_s: float | None) -> bool:
        """Whether it is to be asked though its processes are the same: it may have come to rest, or to work.

        What wants capacity is seen in time only if sessions that were idle are asked after, too.
        """
        if self.quiet is None or self._is_to_be_asked:
            return self.quiet is not None
        if self.quiet.since_s is None and freeze_after_s is not None:
            every_s = min(ASK_EVERY_S, freeze_after_s)
        elif self._clients:
            every_s = ASK_EVERY_S
        else:
            return False
        return self._clock.monotonic_s() - self.quiet.seen_s >= every_s

    async def _ask(self, workers: Set[int]) -> Activity:
        try:
            if self._watcher is None:
                self._watcher = self._new_watcher()
            async with asyncio.timeout(ANSWER_WITHIN_S):
                seen = await self._watcher.observe(workers, self.process.pid)
        except BaseException as error:
            self.quiet = None
            await self._let_watcher_go()
            if isinstance(error, TimeoutError):
                raise errors.EngineProblem(
                    f"The engine has not said for {ANSWER_WITHIN_S:g} s what it does."
                ) from error
            raise
        self.quiet = quiet.follow(self.quiet, seen, self._clock.monotonic_s())
        self.activity = seen
        self._is_to_be_asked = False
        # A client that came while the engine was asked has a worker, too, whose end is to be noticed.
        self._workers = workers | {client for client in seen.clients if client > 0}
        self._clients, self._helpers = seen.clients, seen.helpers
        return seen

    async def _let_watcher_go(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await watcher.close()

    # Its sleep.

    @property
    def can_reclaim(self) -> bool:
        """Whether `reclaim` would do anything."""
        return self.group.can_reclaim and not self.is_reclaimed

    async def try_freeze(self, ports: Set[int], changed: Callable[[], None], *, hindrance: str) -> str:
        """Freeze it. Answer why not, as a sentence; empty when it is frozen.

        `ports` are those at which clients' connections end. `changed` is called when a client wants something of the
        frozen engine; `stirred` says what then. `hindrance` is what forbids it, as a sentence, empty if nothing does.
        Unless this answers "", the engine runs and nothing of it is held.
        """

        if self.telling.locked():
            async with self.telling:
                # Much may have come in the meantime: it is decided on anew.
                return "It was told its settings."
        self._changed = changed
        self.stirred = ""
        async with self.telling:
            self.is_freezing = True
            try:
                if hindrance:
                    raise errors.FreezeFailed(hindrance)
                why = await self._freeze(ports, self.stir)
            except errors.EngineProblem as error:
                why = self._note_failure(error)
            finally:
                self.is_freezing = False
        if why:
            self.look_soon()
            _log.debug("not frozen", cluster=self._cluster, reason=why)
            return why
        self.freeze_problem = ""
        self.is_reclaimed = False
        self.frozen_at_s = self._clock.monotonic_s()
        self.look_at_s = self.frozen_at_s + LISTEN_EVERY_S
        return ""

    def stir(self, why: str) -> None:
        """Have it thawed if it is frozen; `why` is a sentence."""
        self.stirred = why
        self._changed()

    def block_freeze(self, why: str) -> None:
        """Have no freeze tried for a while, for what is no doing of this engine's."""
        self.freeze_problem = why
        self.freeze_blocked_until_s = self._clock.monotonic_s() + FREEZE_AGAIN_S

    def _note_failure(self, error: errors.EngineProblem) -> str:
        """Keep what was in the way of a freeze, and try none for a while. What the host cannot do is warned of once."""
        lasts = isinstance(error, errors.FreezeFailed) and not isinstance(error, errors.FreezeSlow)
        if lasts and error.message != self.freeze_problem:
            _log.warning("the engine cannot be frozen", cluster=self._cluster, error=str(error))
        self.freeze_problem = error.message
        self.freeze_blocked_until_s = self._clock.monotonic_s() + FREEZE_AGAIN_S
        return error.message

    async def _freeze(self, ports: Set[int], stirred: Callable[[str], None]) -> str:
        """Take sockets and their counters, have it said that the engine rests, freeze it, compare the counters.

        The order matters: see `Vigil.what_came`.
        """
        before = self.quiet
        pids = self.group.pids()
        vigil = await asyncio.to_thread(Vigil.take, pids, first=self.process.pid, ports=ports)
        try:
            await self._ask(self._list_workers())
            why = self._not_at_rest_since(before)
            if why:
                return why
            if vigil.sessions < self.counted:
                # Those that came by a shared port that is another one now: nobody would thaw the engine for them.
                raise errors.FreezeFailed("There are sessions whose connections cannot be watched.")
            await self.group.freeze()
            await failpoints.reached("freeze.begun")
            why = vigil.what_came(self.group.pids())
            if why:
                self.thaw()
                self.quiet = None
                return why
            vigil.watch(stirred)
            self._vigil, vigil = vigil, Vigil()
        except BaseException:
            self.thaw()
            raise
        finally:
            vigil.close()
        return ""

    def _not_at_rest_since(self, before: Quiet | None) -> str:
        if self.quiet is None or before is None:
            return "It was not looked at."
        if self.quiet.since_s is not None and self.quiet.since_s == before.since_s:
            return ""
        by_itself = self.quiet.own_work != before.own_work
        return self.quiet.busy or ("It has worked by itself." if by_itself else "A session did something.")

    def thaw(self) -> None:
        """Let it go on if it was frozen here, and give its sockets back. Never waits; may be repeated.

        What somebody else has stopped stays so: that is none of Zorya's business.
        """
        if self._vigil is None and not self.is_freezing:
            return
        self.group.thaw()
        vigil, self._vigil = self._vigil, None
        if vigil is not None:
            vigil.close()
            # Its rest is over: it is wanted.
            self.quiet = None
            self.stirred = ""
            self.look_soon()

    def listen(self) -> None:
        """Stir a frozen engine if a timer or an operator has signalled one of its processes, or has thawed it."""
        self.look_at_s = self._clock.monotonic_s() + LISTEN_EVERY_S
        if not self.group.is_frozen:
            self.stirred = "It was thawed by something else."
        if any(procfs.awaits_signal(pid) for pid in self.group.pids()):
            self.stirred = "A signal came for one of its processes."

    async def reclaim(self) -> None:
        """Give its memory back to the host, once in each sleep."""
        self.is_reclaimed = True
        await asyncio.to_thread(self.group.reclaim)

    async def close(self) -> None:
        """Hold nothing of it any more; thawed, it goes on by itself. Idempotent."""
        self.thaw()
        await self._let_watcher_go()
