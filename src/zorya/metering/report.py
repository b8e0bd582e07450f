"""What clusters have used, in hours, days or altogether, and what it costs. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from zorya.core import errors
from zorya.metering.record import UsageRecord, UsageStretch, record_id

MOST_ROWS = 20_000
"""The most that a report may have: two years of one cluster by the hour. It takes a second, and has 6 MB as JSON."""

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_GIB_MONTH_BYTE_S = 2**30 * 730 * 3600


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
    """Where the period begins, or the hours that were asked for if that is later."""
    to_at: datetime
    """Where the period ends, or the hours that were asked for, or the metering so far, if that is earlier."""
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
    """Whether the period is over, so that nothing is added any more, and was asked for as a whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageReport:
    """Rows by time, then name."""

    since: datetime
    until: datetime
    by: Period
    prices: Prices
    rows: Sequence[UsageRow]


def build(
    records: Iterable[UsageRecord | UsageStretch], *, since: datetime, until: datetime, by: Period, prices: Prices
) -> UsageReport:
    """Answer the report of these records, each of which counts whole, in any order. `until` is not in the future.

    Blocking where records are many: call it in a thread. Raises InvalidInput when it would have more than MOST_ROWS.
    """
    sums: dict[_Key, _Sum] = {}
    peaks: dict[str, float] = {}
    for one in records:
        stretch = one if isinstance(one, UsageStretch) else UsageStretch(first=one, hours=1)
        record = stretch.first
        peaks[record.cluster_id] = max(record.peak_acu, peaks.get(record.cluster_id, 0.0))
        for begin, hours in _periods(stretch, by, _hour_of(since)):
            sums.setdefault(_Key(begin, record.cluster, record.cluster_id), _Sum()).add(record, hours)
            if len(sums) > MOST_ROWS:
                raise errors.InvalidInput(
                    f"The report would have more than {MOST_ROWS} rows.",
                    hint="Ask for a shorter time, for one cluster, by day or for the total.",
                )
    rows = [
        _row(key, sums[key], _Asked(since, until, by), prices=prices, peak_acu=peaks[key.cluster_id])
        for key in sorted(sums)
    ]
    return UsageReport(since=since, until=until, by=by, prices=prices, rows=rows)


class _Key(NamedTuple):
    begin: datetime
    cluster: str
    cluster_id: str


class _Asked(NamedTuple):
    since: datetime
    until: datetime
    by: Period


@dataclass(slots=True)
class _Sum:
    seconds: float = 0.0
    awake_s: float = 0.0
    acu_s: float = 0.0
    peak_acu: float = 0.0
    storage_byte_s: float = 0.0
    is_final: bool = True

    def add(self, record: UsageRecord, times: int) -> None:
        self.seconds += record.seconds * times
        self.awake_s += record.awake_s * times
        self.acu_s += record.acu_s * times
        self.peak_acu = max(self.peak_acu, record.peak_acu)
        self.storage_byte_s += record.storage_byte_s * times
        self.is_final = self.is_final and record.is_final


def _periods(stretch: UsageStretch, by: Period, since: datetime) -> Iterator[tuple[datetime, int]]:
    """Yield when each period begins that the stretch has a share in, and how many of its hours are in it."""
    begin, left = stretch.first.hour, stretch.hours
    if by is Period.TOTAL:
        yield since, left
        return
    while left:
        first = begin if by is Period.HOUR else _day_of(begin)
        hours = 1 if by is Period.HOUR else min(left, (first + _DAY - begin) // _HOUR)
        yield first, hours
        begin += hours * _HOUR
        left -= hours


def _row(key: _Key, used: _Sum, asked: _Asked, *, prices: Prices, peak_acu: float) -> UsageRow:
    first = _hour_of(asked.since)
    # The end of the hour in which the last moment lies that was asked for.
    last = _hour_of(asked.until - timedelta.resolution) + _HOUR
    end = {Period.HOUR: key.begin + _HOUR, Period.DAY: key.begin + _DAY, Period.TOTAL: last}[asked.by]
    is_whole = asked.by is Period.HOUR or (first <= key.begin and end <= asked.until)
    storage_cost = used.storage_byte_s / _GIB_MONTH_BYTE_S * prices.gib_month
    return UsageRow(
        id=_id(key, asked.by),
        cluster=key.cluster,
        cluster_id=key.cluster_id,
        from_at=max(key.begin, first),
        to_at=min(end, last if used.is_final else asked.until),
        seconds=used.seconds,
        awake_s=used.awake_s,
        acu_s=used.acu_s,
        mean_acu=used.acu_s / used.seconds if used.seconds else 0.0,
        peak_acu=used.peak_acu,
        storage_byte_s=used.storage_byte_s,
        cost=used.acu_s / 3600 * prices.acu_hour + storage_cost,
        provisioned_cost=peak_acu * used.seconds / 3600 * prices.acu_hour + storage_cost,
        is_final=used.is_final and is_whole,
    )


def _id(key: _Key, by: Period) -> str:
    if by is Period.HOUR:
        return record_id(key.cluster_id, key.begin)
    return f"{key.cluster_id}/{key.begin:%Y-%m-%d}" if by is Period.DAY else key.cluster_id


def _hour_of(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _day_of(at: datetime) -> datetime:
    return at.replace(hour=0)
