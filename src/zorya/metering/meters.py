"""The meters of all clusters, kept in one SQLite file so that no end of the server loses or repeats a second."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from zorya.core.clock import Clock
from zorya.metering.record import UsageRecord


class Meters:
    """Every cluster's capacity and storage over time. Its methods never block but for `open` and `close`."""

    @classmethod
    def open(cls, path: Path, clock: Clock) -> Self:
        """Open or make the file. Blocking. Raises HomeUnusable, HomeTooNew, DiskFull."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is left and close the file. Blocking; after it no method may be called."""
        raise NotImplementedError

    async def run(self) -> None:
        """Write down, every second, that time goes on; until cancelled."""
        await asyncio.Event().wait()

    def last_capacity(self, cluster_id: str) -> float | None:
        """Answer the capacity that the cluster had last, in this boot of the host, by an earlier server's account."""
        raise NotImplementedError

    def take_over(self, cluster_id: str, name: str, *, capacity: float, went_on: bool) -> None:
        """Begin to meter a cluster that is there as the server starts, once for each.

        With `went_on` its engine has run all the time since the earlier server ended, with the capacity that it had
        then, and that time counts. Else only what that server has seen does.
        """
        raise NotImplementedError

    def set_capacity(self, cluster_id: str, name: str, capacity: float) -> None:
        """The cluster has this capacity from now on, in ACUs; 0 while it is frozen or stopped."""
        raise NotImplementedError

    def set_storage(self, cluster_id: str, name: str, size_bytes: int) -> None:
        """The cluster's files have this size from now on."""
        raise NotImplementedError

    def end(self, cluster_id: str) -> None:
        """The cluster is gone; what it has used is kept."""
        raise NotImplementedError

    def total_acu_s(self, cluster_id: str) -> float:
        """Answer its capacity over all the time that it was metered, up to now. From memory."""
        raise NotImplementedError

    def storage_bytes(self, cluster_id: str) -> int | None:
        """Answer the size of its files as it was set last; None when it never was."""
        raise NotImplementedError

    async def records(self, cluster: str | None, *, since: datetime, until: datetime) -> Sequence[UsageRecord]:
        """Answer the records of the hours that touch this time, oldest first, up to now; None is every cluster.

        Of deleted clusters too, under their names.
        """
        raise NotImplementedError
