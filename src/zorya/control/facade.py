"""What the API may ask of control. `fleet.Fleet` is the implementation."""

from collections.abc import Sequence
from typing import Protocol

from zorya.control.view import ClusterView, CreateRequest, Credentials, EventView


class Clusters(Protocol):
    """All clusters of this server. Names are taken in any case.

    Every method that names a cluster raises ClusterNotFound when there is none. Methods that change something return
    when the change is complete and may be repeated; if the caller stops waiting, the change goes on.
    """

    def all(self) -> Sequence[ClusterView]:
        """Answer every cluster, ordered by name."""

    def get(self, name: str) -> ClusterView:
        """Answer one cluster."""

    def credentials(self, name: str) -> Credentials:
        """Answer what a client needs to connect."""

    async def create(self, request: CreateRequest) -> ClusterView:
        """Make a cluster; it is available and stopped when this returns.

        Raises InvalidName, InvalidInput, NameTaken, PortInUse, NoFreePort, EngineMissing, DiskFull, StorageProblem,
        StartFailed. After any of these nothing of the cluster is kept.
        """

    async def resume(self, name: str) -> ClusterView:
        """Start the engine if it does not run. Raises StartFailed, WakeTimeout."""

    async def pause(self, name: str, *, force: bool) -> ClusterView:
        """Stop the engine cleanly. Raises ClusterBusy when sessions are open, unless `force` ends them."""

    async def delete(self, name: str) -> None:
        """End the cluster and remove its data. Open sessions are ended."""

    async def events(self, name: str | None, *, after: int, limit: int, sleep: bool) -> Sequence[EventView]:
        """Answer the newest `limit` events with a higher `seq` than `after`, oldest first; None is every cluster's.

        Those of the category sleep are among them, and count, only with `sleep`. Events of deleted clusters are kept
        under their names.
        """

    async def next_events(self, name: str | None, *, after: int, sleep: bool) -> Sequence[EventView]:
        """Like `events`, but wait until there is at least one."""
