"""How time becomes usage: a cluster's meter, and its time laid on the hours of UTC. Pure.

All amounts are integers, so that nothing is rounded twice: times are milliseconds, capacities thousandths of an ACU,
and capacity over time is their product. Storage over time is in whole byte-seconds, and what is left of one is carried
on. Moments are milliseconds of the monotonic clock; the offset is what makes them milliseconds since 1970.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

HOUR_MS = 3_600_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class Hours(NamedTuple):
    """Hours on end."""

    first: int
    """Hours since 1970."""
    length: int
    """How many."""


class Place(NamedTuple):
    """Where usage is added up: a cluster and hours on end, in each of which it is the same."""

    cluster_id: str
    hours: Hours


class Part(NamedTuple):
    """The share of a stretch of time that falls on these hours: so much on each of them."""

    hours: Hours
    ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Amounts:
    """What one cluster has used in each of some hours."""

    metered_ms: int
    awake_ms: int
    capacity_ms: int
    """Thousandths of an ACU times milliseconds: a millionth of an ACU-second each."""
    peak: int
    storage_byte_s: int

    def plus(self, other: "Amounts") -> "Amounts":
        """Answer both together."""
        return Amounts(
            metered_ms=self.metered_ms + other.metered_ms,
            awake_ms=self.awake_ms + other.awake_ms,
            capacity_ms=self.capacity_ms + other.capacity_ms,
            peak=max(self.peak, other.peak),
            storage_byte_s=self.storage_byte_s + other.storage_byte_s,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Meter:
    """One cluster's: what it has at present, and until when that is accounted for."""

    cluster_id: str
    name: str
    capacity: int
    storage_bytes: int | None
    """None when nobody has said yet."""
    storage_rest: int
    """What is left of a byte-second, in byte-milliseconds."""
    total: int
    """Capacity over time, from the beginning until `until_ms`."""
    until_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """When a server last wrote that it was there."""

    boot_id: str
    """The host's boot; monotonic times of another one mean nothing."""
    seen_ms: int
    offset_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """A meter as an earlier server left it."""

    meter: Meter
    is_watched: bool
    """Whether that server saw to it when it last wrote; it then had these values until the sighting."""


Used = Sequence[tuple[Hours, Amounts]]
_NOTHING: Used = ()


def thousandths(capacity_acu: float) -> int:
    """Answer a capacity in the unit of the ledger."""
    return round(capacity_acu * 1000)


def milliseconds(at: datetime) -> int:
    """Answer a moment of the wall clock in milliseconds since 1970."""
    return (at - _EPOCH) // _MS


def time_of(hour: int) -> datetime:
    """Answer when an hour begins."""
    return _EPOCH + timedelta(hours=hour)


def hours_touching(since: datetime, until: datetime) -> range:
    """Answer the hours of which at least a moment lies from `since` on and before `until`."""
    return range(milliseconds(since) // HOUR_MS, -(-milliseconds(until) // HOUR_MS))


def spread(begin_ms: int, end_ms: int, *, offset_ms: int) -> Sequence[Part]:
    """Lay a stretch of time on the hours of the wall clock, in at most three parts, whose sum is the stretch.

    Whole hours in the middle are one part, however many they are.
    """
    begin, end = begin_ms + offset_ms, end_ms + offset_ms
    if begin >= end:
        return []
    first, last = begin // HOUR_MS, end // HOUR_MS
    if first == last:
        return [Part(Hours(first, 1), end - begin)]
    parts: list[Part] = []
    if begin % HOUR_MS:
        parts.append(Part(Hours(first, 1), HOUR_MS - begin % HOUR_MS))
        first += 1
    if first < last:
        parts.append(Part(Hours(first, last - first), HOUR_MS))
    if end % HOUR_MS:
        parts.append(Part(Hours(last, 1), end % HOUR_MS))
    return parts


def settle(meter: Meter, now_ms: int, *, offset_ms: int) -> tuple[Meter, Used]:
    """Answer the meter accounted for until now, and what it has used since it was last."""
    used: list[tuple[Hours, Amounts]] = []
    rest = meter.storage_rest
    for hours, ms in spread(meter.until_ms, now_ms, offset_ms=offset_ms):
        # A whole hour leaves no rest of its own, so many of them need no more care than one.
        byte_s, rest = divmod(rest + (meter.storage_bytes or 0) * ms, 1000)
        used.append(
            (
                hours,
                Amounts(
                    metered_ms=ms,
                    awake_ms=ms if meter.capacity else 0,
                    capacity_ms=meter.capacity * ms,
                    peak=meter.capacity,
                    storage_byte_s=byte_s,
                ),
            )
        )
    if not used:
        return meter, used
    total = meter.total + meter.capacity * (now_ms - meter.until_ms)
    return replace(meter, storage_rest=rest, total=total, until_ms=now_ms), used


def are_of_one_boot(earlier: Sighting, now: Sighting) -> bool:
    """Whether the moments of an earlier server can be compared with the present ones."""
    return earlier.boot_id == now.boot_id and earlier.seen_ms <= now.seen_ms


def close_books(left: Left, *, seen: Sighting, now: Sighting) -> tuple[Meter, Used]:
    """Answer the meter that an earlier server has left, accounted for until it was `seen` last, and what that adds.

    If the host has been started anew since, the meter begins anew as well: what ran then does not run now.
    """
    meter, used = left.meter, _NOTHING
    if left.is_watched:
        meter, used = settle(meter, seen.seen_ms, offset_ms=seen.offset_ms)
    if not are_of_one_boot(seen, now):
        meter = replace(meter, capacity=0, until_ms=now.seen_ms)
    return meter, used
