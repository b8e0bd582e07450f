"""The place of one cluster's engine: the engine that is in it, and what is seen of its process."""

from collections.abc import Callable

from zorya.control.lifecycle import Process
from zorya.control.live import LiveEngine
from zorya.control.surroundings import Guard
from zorya.core.model import Entrance


class Seat:
    """Empty until `take`, and again after `clear`."""

    def __init__(self, cluster_id: str, *, guard: Guard, changed: Callable[[], None]) -> None:
        """`changed` is called when the engine has ended."""
        self.live: LiveEngine | None = None
        self.phase = Process.ABSENT
        self.entrance: Entrance | None = None
        """The way in; None while nobody new is to come in."""
        self.ending = ""
        """How the engine's process ended, in words."""
        self.log_mark = 0
        """Where the engine's log was when it was started, or found."""
        self._cluster_id = cluster_id
        self._guard = guard
        self._changed = changed

    def held(self) -> LiveEngine:
        """Answer the engine; there must be one."""
        assert self.live is not None
        return self.live

    def take(self, live: LiveEngine, phase: Process) -> None:
        """Have this engine."""

        def ended(ending: str) -> None:
            # Processes that are left of it notice its end only if they run.
            live.thaw()
            self.entrance = None
            self.ending = ending
            self.phase = Process.ENDED
            self._changed()

        self.live = live
        self.phase = phase
        self.ending = ""
        self._guard.guard(self._cluster_id, live.group.freezer)
        live.process.on_exit(ended)

    async def clear(self) -> None:
        """Hold nothing any more of an engine that has ended. May be repeated."""
        live, self.live = self.live, None
        self.phase = Process.ABSENT
        self.entrance = None
        if live is not None:
            await live.close()
            await live.group.remove()
            self._guard.forget(self._cluster_id)

    async def let_go(self) -> None:
        """Leave the engine running without anybody that watches its sessions: it is thawed."""
        if self.live is not None:
            await self.live.close()
            self.live.process.release()
