"""What the gateway needs to know of a cluster. `server.py` hands it control's implementation."""

from typing import Protocol

from zorya.core.model import Entrance


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

    @property
    def is_up(self) -> bool:
        """Whether there is an engine that serves clients, be it frozen: to wake it costs next to nothing."""

    def running(self) -> Entrance | None:
        """Answer how to get into the engine if it runs now and is not frozen, else None. Never wakes, never blocks."""
