"""What one cluster has used in one hour."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

_HOUR = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageRecord:
    """One cluster in one hour of UTC. Whoever keeps copies replaces the one with the same id."""

    id: str
    """CLUSTER-ID/2026-11-25T08: never of two hours or two clusters."""
    cluster_id: str
    cluster: str
    """Its name."""
    hour: datetime
    """When the hour begins."""
    seconds: float
    """Of it, how many were metered: 3600 unless the cluster or the server was not there all the time."""
    awake_s: float
    """Of those, with a capacity above 0."""
    acu_s: float
    """Capacity over time."""
    peak_acu: float
    """The highest capacity in it."""
    storage_byte_s: float
    """Storage over time."""
    is_final: bool
    """Whether the hour is over, so that nothing is added any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageStretch:
    """Hours on end in which one cluster used the same: a year of sleep is one. Several may be of the same hour."""

    first: UsageRecord
    hours: int
    """How many: at least 1."""

    def records(self) -> Iterator[UsageRecord]:
        """Yield each hour's record."""
        yield self.first
        for number in range(1, self.hours):
            hour = self.first.hour + number * _HOUR
            yield replace(self.first, id=record_id(self.first.cluster_id, hour), hour=hour)


def record_id(cluster_id: str, hour: datetime) -> str:
    """Answer the id of the record of this hour."""
    return f"{cluster_id}/{hour:%Y-%m-%dT%H}"
