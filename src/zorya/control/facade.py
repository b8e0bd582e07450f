"""What the API may ask of control. `fleet.Fleet` is the implementation."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from zorya.control.view import (
    ClusterView,
    CopyView,
    CreateRequest,
    Credentials,
    EventView,
    ModifyRequest,
    NodeView,
    VerifyView,
)
from zorya.metering.report import Period, UsageReport


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
        """Answer what a client needs to connect.

        The password is the one that the engine is known to take. While a change of it is under way that is the old
        one: the new one is not told before the engine has confirmed that it took it. If the server dies between the
        two, the old one is told until the next server has had it confirmed, though the new one is in force.
        """

    async def create(self, request: CreateRequest) -> ClusterView:
        """Make a cluster; it is available and stopped when this returns.

        Raises InvalidName, InvalidInput, NameTaken, PortInUse, NoFreePort, EngineMissing, DiskFull, StorageProblem,
        StartFailed. After any of these nothing of the cluster is kept.
        """

    async def modify(self, name: str, request: ModifyRequest) -> ClusterView:
        """Change who may come and when it sleeps, from the next client on and without a restart; sessions stay.

        Raises InvalidInput, DiskFull, HomeUnusable. After any of these nothing is changed.
        """

    async def set_capacity(self, name: str, capacity: float) -> ClusterView:
        """Give a running cluster this capacity now; after the setting capacity_hold_s the load decides again.

        That of a provisioned cluster becomes its fixed one, whether it runs or not. Raises InvalidInput for what is no
        capacity or not within its bounds, NotReady when a serverless cluster is stopped, LimitFailed.
        """

    async def usage(self, name: str | None, *, since: datetime, until: datetime, by: Period) -> UsageReport:
        """Answer what clusters have used, with what it costs; None is every cluster, deleted ones among them.

        Raises ClusterNotFound when there is and was none of this name, InvalidInput for more rows than a report may
        have, HomeUnusable.
        """

    def node(self) -> NodeView:
        """Answer what this host has for clusters."""

    async def change_password(self, name: str) -> Credentials:
        """Have the cluster's user log in with a new password from now on; sessions stay. Answers it.

        Wakes the engine. Raises DiskFull and HomeUnusable before anything is changed. Raises an EngineProblem or
        HostProblem that says so when the engine did not start, or did not confirm it: the change then goes on by
        itself, now or at the engine's next start, and until then `credentials` answers the old password.
        """

    async def resume(self, name: str) -> ClusterView:
        """Start the engine if it does not run. Raises StartFailed, WakeTimeout."""

    async def pause(self, name: str, *, force: bool) -> ClusterView:
        """Stop the engine cleanly. Raises ClusterBusy when sessions are open, unless `force` ends them."""

    def copies(self, name: str) -> Sequence[CopyView]:
        """Answer the copies of a cluster's volume as they were seen last, by zone and kind."""

    async def verify(self, name: str) -> VerifyView:
        """Check the checksums of a cluster's data and log, and whether its copies agree; repair what is damaged.

        Full copies that serve are checked as far as that goes while they do. Raises NotReady when copies are out of
        reach that would have to be looked at, StorageProblem.
        """

    async def recover(self, name: str, *, accept_data_loss: bool) -> ClusterView:
        """Have a cluster go on from what is left, of which nobody can tell whether it is all that was committed.

        Only where too few copies are left; raises Conflict otherwise, and InvalidInput without `accept_data_loss`. The
        missing copies are made anew. Raises StartFailed, StorageProblem.
        """

    async def delete(self, name: str) -> None:
        """End the cluster and remove its data. Open sessions are ended."""

    async def events(self, name: str | None, *, after: int, limit: int, sleep: bool) -> Sequence[EventView]:
        """Answer the newest `limit` events with a higher `seq` than `after`, oldest first; None is every cluster's.

        Those of the category sleep are among them, and count, only with `sleep`. Events of deleted clusters are kept
        under their names.
        """

    async def next_events(self, name: str | None, *, after: int, sleep: bool) -> Sequence[EventView]:
        """Like `events`, but wait until there is at least one."""
