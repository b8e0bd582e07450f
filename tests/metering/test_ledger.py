"""Time laid on hours: exact, whatever the stretch and the clock."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.metering import ledger
from zorya.metering.ledger import HOUR_MS, Amounts, Hours, Left, Meter, Part, Sighting, settle, spread

MOMENTS = st.integers(min_value=0, max_value=400 * 24 * HOUR_MS)
OFFSETS = st.integers(min_value=-50 * 24 * HOUR_MS, max_value=60 * 365 * 24 * HOUR_MS)
METER = Meter(
    cluster_id="abcdefgh", name="main", capacity=1500, storage_bytes=1001, storage_rest=0, total=0, until_ms=0
)


@given(begin=MOMENTS, length=MOMENTS, offset=OFFSETS)
def test_the_parts_are_the_stretch_and_follow_each_other(begin: int, length: int, offset: int) -> None:
    parts = spread(begin, begin + length, offset_ms=offset)
    assert sum(part.hours.length * part.ms for part in parts) == length
    assert len(parts) <= 3
    at = begin + offset
    for part in parts:
        assert part.hours.first == at // HOUR_MS
        assert 0 < part.ms <= HOUR_MS
        assert part.hours.length == 1 or part.ms == HOUR_MS
        at += part.hours.length * part.ms
    assert at == begin + offset + length


@pytest.mark.parametrize(
    ("begin", "end", "parts"),
    [
        (5, 5, []),
        (7, 5, []),
        (0, HOUR_MS, [Part(Hours(0, 1), HOUR_MS)]),
        (1, HOUR_MS - 1, [Part(Hours(0, 1), HOUR_MS - 2)]),
        (1, HOUR_MS + 1, [Part(Hours(0, 1), HOUR_MS - 1), Part(Hours(1, 1), 1)]),
        (1, 3 * HOUR_MS, [Part(Hours(0, 1), HOUR_MS - 1), Part(Hours(1, 2), HOUR_MS)]),
        (0, 9 * HOUR_MS + 9, [Part(Hours(0, 9), HOUR_MS), Part(Hours(9, 1), 9)]),
    ],
)
def test_a_stretch_is_cut_at_the_hours(begin: int, end: int, parts: list[Part]) -> None:
    assert list(spread(begin, end, offset_ms=0)) == parts


def whole(used: ledger.Used) -> Amounts:
    total = Amounts(metered_ms=0, awake_ms=0, capacity_ms=0, peak=0, storage_byte_s=0)
    for hours, each in used:
        for _ in range(hours.length):
            total = total.plus(each)
    return total


@given(
    cuts=st.lists(st.integers(0, 5 * HOUR_MS), max_size=20), capacity=st.integers(0, 8000), size=st.integers(0, 2**42)
)
def test_it_makes_no_difference_how_often_a_meter_is_settled(cuts: list[int], capacity: int, size: int) -> None:
    end = 5 * HOUR_MS + 123
    meter = replace(METER, capacity=capacity, storage_bytes=size)
    at_once, used = settle(meter, end, offset_ms=777)
    expected = whole(used)
    assert expected.metered_ms == end
    assert expected.awake_ms == (end if capacity else 0)
    assert expected.capacity_ms == at_once.total == capacity * end
    assert expected.storage_byte_s == size * end // 1000
    bit_by_bit: list[tuple[Hours, Amounts]] = []
    for cut in [*sorted(cuts), end]:
        meter, used = settle(meter, cut, offset_ms=777)
        bit_by_bit += used
    assert whole(bit_by_bit) == expected
    assert meter == at_once


def test_nothing_is_accounted_for_when_time_has_not_gone_on() -> None:
    meter = replace(METER, until_ms=500)
    assert settle(meter, 500, offset_ms=0) == (meter, [])
    assert settle(meter, 499, offset_ms=0) == (meter, [])


def sighting(boot_id: str, seen_ms: int) -> Sighting:
    return Sighting(boot_id=boot_id, seen_ms=seen_ms, offset_ms=0)


@pytest.mark.parametrize(
    ("is_watched", "now", "until_ms", "metered_ms", "capacity"),
    [
        (True, sighting("a", 900), 700, 600, 1500),
        (True, sighting("b", 900), 900, 600, 0),
        (True, sighting("b", 50), 50, 600, 0),
        # The same boot by its id, but the clock is behind: nothing can be compared.
        (True, sighting("a", 699), 699, 600, 0),
        (False, sighting("a", 900), 100, 0, 1500),
        (False, sighting("b", 900), 900, 0, 0),
    ],
)
def test_what_an_earlier_server_saw_is_accounted_for(
    is_watched: bool, now: Sighting, until_ms: int, metered_ms: int, capacity: int
) -> None:
    left = Left(meter=replace(METER, until_ms=100), is_watched=is_watched)
    meter, used = ledger.close_books(left, seen=sighting("a", 700), now=now)
    assert (meter.until_ms, meter.capacity) == (until_ms, capacity)
    assert whole(used).metered_ms == metered_ms
    assert meter.total == 1500 * metered_ms


def test_the_hours_of_a_time_are_those_that_it_touches() -> None:
    at = datetime(2026, 11, 25, 8, tzinfo=UTC)
    hour = timedelta(hours=1)
    first = (at - datetime(1970, 1, 1, tzinfo=UTC)) // hour
    assert ledger.hours_touching(at, at + hour) == range(first, first + 1)
    assert ledger.hours_touching(at - timedelta.resolution, at + hour + timedelta.resolution * 1000) == range(
        first - 1, first + 2
    )
    assert len(ledger.hours_touching(at, at)) == 0
    assert ledger.time_of(first) == at
