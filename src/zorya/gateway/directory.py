"""What the gateway needs to know of clusters. `server.py` hands it control's implementation."""

from typing import Protocol

from zorya.core.model import Address, Entrance


class Endpoint(Protocol):
    """One cluster as the gateway sees it."""

    @property
    def name(self) -> str:
        """The cluster's name, for logs and error messages."""

    def enter(self) -> None:
        """Count a client that is there or waiting. From this call to `leave` no pause begins to stop the engine."""

    def leave(self) -> None:
        """Count the client out. Exactly once for each `enter`."""

    def handed_over(self) -> None:
        """Note that the engine itself has the client now. Between its `enter` and its `leave`."""

    async def wake(self) -> Entrance:
        """Answer how to get into the engine, once it is up: started or thawed if need be. Never blocks when it runs.

        Must be called between `enter` and `leave`. May be called by any number of clients at once: one start serves
        all. Raises WakeTimeout after the configured deadline (the start goes on), StartFailed when the engine cannot
        start, and ClusterNotFound when the cluster is being deleted.
        """

    def entrance(self) -> Entrance | None:
        """Answer how to get into the engine if it is up, be it frozen; else None. Never wakes, never blocks."""

    def running_address(self) -> Address | None:
        """Answer where the engine listens if it runs and is not frozen, else None. Never wakes, never blocks."""
