"""The reader endpoint of a cluster: a second port, for those who only read, served by the copies that follow."""

import asyncio

from zorya.control.cluster import ClusterOwner
from zorya.core import errors
from zorya.core.clock import Clock
from zorya.core.identity import Known
from zorya.core.model import Access, EngineKind, Entrance

_POLL_S = 0.02


class ReaderEndpoint:
    """See gateway.directory.Endpoint. Who may come, and what wakes, is the cluster's own."""

    def __init__(self, owner: ClusterOwner, *, max_lag_s: float, wake_timeout_s: float, clock: Clock) -> None:
        """A copy that lacks more than the last `max_lag_s` of the log serves nobody new."""
        self._owner = owner
        self._max_lag_s = max_lag_s
        self._wake_timeout_s = wake_timeout_s
        self._clock = clock
        self._turn = 0

    @property
    def name(self) -> str:
        """See Endpoint.name."""
        return self._owner.name

    def enter(self) -> None:
        """See Endpoint.enter."""
        self._owner.enter()

    def leave(self) -> None:
        """See Endpoint.leave."""
        self._owner.leave()

    def attached(self) -> None:
        """See Endpoint.attached. The next client gets another copy."""
        self._turn += 1
        self._owner.attached()

    def detached(self) -> None:
        """See Endpoint.detached."""
        self._owner.detached()

    async def wake(self) -> Entrance:
        """Answer how to get into one of the copies that serve, each in its turn; see Endpoint.wake.

        Raises NotReady when none serves within the time that a client waits for a wake.
        """
        deadline = self._clock.monotonic_s() + self._wake_timeout_s
        await self._owner.wake()
        while True:
            entrance = self._choose()
            if entrance is not None:
                return entrance
            if self._clock.monotonic_s() >= deadline:
                raise errors.NotReady(
                    f"No copy of {self.name} serves readers now.",
                    hint=f"`zorya copies {self.name}` says why.",
                    client_message=f'no copy of cluster "{self.name}" serves readers now',
                )
            await asyncio.sleep(_POLL_S)
            await self._owner.wake()

    def running(self) -> Entrance | None:
        """See Endpoint.running."""
        return self._choose() if self._owner.running() is not None else None

    def _choose(self) -> Entrance | None:
        return self._owner.reader_entrance(self._max_lag_s, self._turn)

    async def taken_over(self) -> None:
        """See Endpoint.taken_over."""
        await self._owner.taken_over()

    @property
    def is_up(self) -> bool:
        """See Endpoint.is_up."""
        return self._owner.is_up

    @property
    def is_starting(self) -> bool:
        """See Endpoint.is_starting."""
        return self._owner.is_starting

    @property
    def access(self) -> Access:
        """See Endpoint.access."""
        return self._owner.access

    @property
    def identities(self) -> Known | None:
        """See Endpoint.identities."""
        return self._owner.identities

    @property
    def speaks_tls(self) -> bool:
        """See Endpoint.speaks_tls."""
        return self._owner.speaks_tls

    @property
    def speaks_direct_tls(self) -> bool:
        """See Endpoint.speaks_direct_tls."""
        return self._owner.speaks_direct_tls

    def has_process(self, pid: int) -> bool:
        """See Endpoint.has_process."""
        return self._owner.has_process(pid)

    @property
    def engine(self) -> EngineKind:
        """See Endpoint.engine."""
        return self._owner.engine

    @property
    def engine_major(self) -> str:
        """See Endpoint.engine_major."""
        return self._owner.engine_major

    @property
    def sessions(self) -> int:
        """See Endpoint.sessions."""
        return self._owner.sessions

    def login_failed(self, address: str, role: str) -> None:
        """See Endpoint.login_failed."""
        self._owner.login_failed(address, role)
