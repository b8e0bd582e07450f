"""What one cluster has used in one hour."""

from dataclasses import dataclass
from datetime import datetime


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
