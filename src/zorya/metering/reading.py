"""What was used in some hours: what the file has, and what memory has beyond it. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from zorya.metering import ledger
from zorya.metering.ledger import HOUR_MS, Amounts, Hours, Meter, Place
from zorya.metering.record import UsageRecord, UsageStretch, record_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What the file need not have yet."""

    sent: Mapping[Place, Amounts]
    """What is on its way to the file in the batch of this number: it may be there or not."""
    sent_number: int
    usage: Mapping[Place, Amounts]
    """What was used since then."""
    meters: Sequence[Meter]
    """Those that run; what they count since they were last accounted for is nowhere else."""
    names: Mapping[str, str]
    """Of the clusters in `sent` and `usage`."""
    now_ms: int
    offset_ms: int


class Usage:
    """Amounts by place, each cluster with its name."""

    def __init__(self, *, now_hour: int) -> None:
        """`now_hour` is not over yet, nor are those after it."""
        self._now_hour = now_hour
        self._amounts: dict[Place, Amounts] = {}
        self._names: dict[str, str] = {}

    def add(self, place: Place, name: str, amounts: Amounts) -> None:
        """Add what was used there to what is known already."""
        known = self._amounts.get(place)
        self._amounts[place] = amounts.plus(known) if known else amounts
        self._names[place.cluster_id] = name

    def stretches(self) -> Sequence[UsageStretch]:
        """Answer all of it, oldest first, then by name."""
        found = [self._stretch(place, amounts) for place, amounts in self._amounts.items()]
        return sorted(found, key=lambda one: (one.first.hour, one.first.cluster, one.first.cluster_id))

    def records(self) -> Sequence[UsageRecord]:
        """Answer all of it by the hour: one for each cluster in each."""
        hourly = Usage(now_hour=self._now_hour)
        for place, amounts in self._amounts.items():
            for hour in range(place.hours.first, place.hours.first + place.hours.length):
                hourly.add(Place(place.cluster_id, Hours(hour, 1)), self._names[place.cluster_id], amounts)
        return [one.first for one in hourly.stretches()]

    def _stretch(self, place: Place, used: Amounts) -> UsageStretch:
        hour = ledger.time_of(place.hours.first)
        first = UsageRecord(
            id=record_id(place.cluster_id, hour),
            cluster_id=place.cluster_id,
            cluster=self._names[place.cluster_id],
            hour=hour,
            seconds=used.metered_ms / 1000,
            awake_s=used.awake_ms / 1000,
            acu_s=used.capacity_ms / 1_000_000,
            peak_acu=used.peak / 1000,
            storage_byte_s=float(used.storage_byte_s),
            is_final=place.hours.first < self._now_hour,
        )
        return UsageStretch(first=first, hours=place.hours.length)


def gather(
    written: Iterable[tuple[Place, str, Amounts]],
    last_batch: int,
    memory: Memory,
    *,
    cluster: str | None,
    hours: range,
) -> Usage:
    """Answer what was used in these hours, by a cluster of this name or all.

    `written` is what the file has, up to the batch of that number.
    """
    now_hour = (memory.now_ms + memory.offset_ms) // HOUR_MS
    usage = Usage(now_hour=now_hour)
    beyond = _beyond(memory, with_sent=last_batch < memory.sent_number)
    for source in (written, beyond):
        for place, name, amounts in source:
            if cluster is None or name == cluster:
                # Whether an hour is over is told for a whole stretch.
                for part in (
                    range(hours.start, min(hours.stop, now_hour)),
                    range(max(hours.start, now_hour), hours.stop),
                ):
                    cut = _cut(place.hours, part)
                    if cut.length > 0:
                        usage.add(Place(place.cluster_id, cut), name, amounts)
    return usage


def _beyond(memory: Memory, *, with_sent: bool) -> Iterator[tuple[Place, str, Amounts]]:
    for part in (memory.sent if with_sent else {}, memory.usage):
        for place, amounts in part.items():
            yield place, memory.names[place.cluster_id], amounts
    for meter in memory.meters:
        _, used = ledger.settle(meter, memory.now_ms, offset_ms=memory.offset_ms)
        for hours, amounts in used:
            yield Place(meter.cluster_id, hours), meter.name, amounts


def _cut(hours: Hours, part: range) -> Hours:
    first = max(hours.first, part.start)
    return Hours(first, min(hours.first + hours.length, part.stop) - first)
