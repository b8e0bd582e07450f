"""What clusters have used, in hours, days or altogether, and what it costs. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from zorya.metering.record import UsageRecord


class Period(StrEnum):
    """What one row of a report stands for."""

    HOUR = "hour"
    DAY = "day"
    """Of UTC."""
    TOTAL = "total"
    """The whole time that was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What is charged."""

    acu_hour: float
    gib_month: float
    """A month has 730 hours, as AWS counts it."""
    currency: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageRow:
    """What one cluster has used in one period."""

    id: str
    """CLUSTER-ID/2026-11-25T08, CLUSTER-ID/2026-11-25 or CLUSTER-ID: a later row of the same id replaces it."""
    cluster: str
    cluster_id: str
    from_at: datetime
    to_at: datetime
    """Where the period ends, or the metering so far."""
    seconds: float
    """That were metered."""
    awake_s: float
    """Of those, with a capacity above 0."""
    acu_s: float
    mean_acu: float
    """Over the seconds that were metered."""
    peak_acu: float
    storage_byte_s: float
    cost: float
    provisioned_cost: float
    """What it would have cost with its peak of the whole report all the time, storage included."""
    is_final: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageReport:
    """Rows by time, then name."""

    since: datetime
    until: datetime
    by: Period
    prices: Prices
    rows: Sequence[UsageRow]


def build(
    records: Iterable[UsageRecord], *, since: datetime, until: datetime, by: Period, prices: Prices
) -> UsageReport:
    """Answer the report of these records, each of which counts whole."""
    raise NotImplementedError
