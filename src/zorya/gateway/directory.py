"""What the gateway needs to know of a cluster. `server.py` hands it control's implementation."""

from typing import Protocol

from zorya.core.identity import Known
from zorya.core.model import Access, EngineKind, Entrance


class Endpoint(Protocol):
    """One cluster, as seen from its port. None of these methods is called from another thread."""

    @property
    def name(self) -> str:
        """The cluster's name."""

    def enter(self) -> None:
        """Count a client in that wants a session. From here on no pause and no freeze begins. Never blocks."""

    def leave(self) -> None:
        """Count the client out: it has its session, or gets none. Exactly once for each `enter`."""

    def attached(self) -> None:
        """Note that the client has its session with the engine. Between its `enter` and its `leave`."""

    def detached(self) -> None:
        """Note that a relayed session is over; of those that were handed over the engine alone knows the end."""

    async def wake(self) -> Entrance:
        """Answer how to get into the engine, once it is up: started or thawed if need be. Never blocks when it runs.

        Must be called between `enter` and `leave`. May be called by any number of clients at once: one start serves
        all. Raises WakeTimeout after the configured deadline (the start goes on), StartFailed when the engine cannot
        start, and ClusterNotFound when the cluster is being deleted.
        """

    async def taken_over(self) -> None:
        """Wait until it is known what the host has of the cluster; only then does what the others answer hold."""

    @property
    def is_up(self) -> bool:
        """Whether there is an engine that serves clients, be it frozen: to wake it costs next to nothing."""

    @property
    def is_starting(self) -> bool:
        """Whether a start of the engine is under way already: one more client that waits for it wakes nothing."""

    @property
    def access(self) -> Access:
        """Who may come, and how."""

    @property
    def identities(self) -> Known | None:
        """Who may log in while the engine is stopped or stopping; None when that is not known and the engine must say.

        They are those of an engine that is up no more: ask only when it neither is up nor starts.
        """

    @property
    def speaks_tls(self) -> bool:
        """Whether the engine itself does TLS for clients that ask for it first, whether or not it runs now."""

    @property
    def speaks_direct_tls(self) -> bool:
        """Whether it does so also for clients that begin with the handshake (PostgreSQL 17 and newer)."""

    def has_process(self, pid: int) -> bool:
        """Whether this is one of the engine's processes. Never wakes, never blocks."""

    @property
    def engine(self) -> EngineKind:
        """What its clients speak."""

    @property
    def engine_major(self) -> str:
        """The major version of the engine, whether or not it runs."""

    @property
    def sessions(self) -> int:
        """Clients that have a session with the engine, and those that wait for theirs. Quick enough for each client."""

    def login_failed(self, address: str, role: str) -> None:
        """Note that the gateway turned down a login; those that the engine turns down it notes by itself."""

    def running(self) -> Entrance | None:
        """Answer how to get into the engine if it runs now and is not frozen, else None. Never wakes, never blocks."""
