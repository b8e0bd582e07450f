"""Reports: what is in which row, and what it costs."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from zorya.core import errors
from zorya.metering import report
from zorya.metering.record import UsageRecord, UsageStretch, record_id
from zorya.metering.report import Period, Prices, UsageReport, UsageRow

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)
PRICES = Prices(acu_hour=0.12, gib_month=0.1, currency="USD")


def record(hour: datetime, cluster: str = "main", *, acu: float = 0.5, is_final: bool = True) -> UsageRecord:
    """A cluster that was awake for half an hour, with 1 GiB of storage."""
    return UsageRecord(
        id=record_id(f"id-{cluster}", hour),
        cluster_id=f"id-{cluster}",
        cluster=cluster,
        hour=hour,
        seconds=3600.0,
        awake_s=1800.0,
        acu_s=1800 * acu,
        peak_acu=acu,
        storage_byte_s=3600.0 * 2**30,
        is_final=is_final,
    )


def rows(
    records: Sequence[UsageRecord | UsageStretch],
    by: Period,
    *,
    since: datetime = MONDAY,
    until: datetime = MONDAY + 24 * HOUR,
) -> Sequence[UsageRow]:
    made = report.build(records, since=since, until=until, by=by, prices=PRICES)
    assert made == UsageReport(since=since, until=until, by=by, prices=PRICES, rows=made.rows)
    return made.rows


def test_hours_are_rows_by_time_then_name() -> None:
    made = rows([record(MONDAY + HOUR), record(MONDAY, "shop"), record(MONDAY)], Period.HOUR)
    assert [row.id for row in made] == [
        "id-main/2026-11-23T00",
        "id-shop/2026-11-23T00",
        "id-main/2026-11-23T01",
    ]
    first = made[0]
    assert (first.from_at, first.to_at, first.is_final) == (MONDAY, MONDAY + HOUR, True)
    assert (first.seconds, first.awake_s, first.acu_s, first.mean_acu, first.peak_acu) == (3600, 1800, 900, 0.25, 0.5)


def test_it_costs_capacity_and_storage_and_is_compared_with_its_peak_of_the_whole_report() -> None:
    low, high = rows([record(MONDAY), record(MONDAY + HOUR, acu=4)], Period.HOUR)
    storage = 0.1 / 730
    assert low.cost == pytest.approx(0.25 * 0.12 + storage)
    assert high.cost == pytest.approx(2 * 0.12 + storage)
    assert low.provisioned_cost == high.provisioned_cost == pytest.approx(4 * 0.12 + storage)
    (total,) = rows([record(MONDAY), record(MONDAY + HOUR, acu=4)], Period.TOTAL)
    assert total.cost == pytest.approx(low.cost + high.cost)
    assert total.provisioned_cost == pytest.approx(low.provisioned_cost + high.provisioned_cost)


def test_a_stretch_counts_as_its_hours_do() -> None:
    stretch = UsageStretch(first=record(MONDAY + 20 * HOUR), hours=100)
    asked = {"since": MONDAY, "until": MONDAY + 240 * HOUR}
    for by in Period:
        together, apart = rows([stretch], by, **asked), rows(list(stretch.records()), by, **asked)
        assert together == apart
        assert sum(row.seconds for row in together) == 360_000
    assert [row.seconds / 3600 for row in rows([stretch], Period.DAY, **asked)] == [4, 24, 24, 24, 24]
    assert len({row.id for row in rows([stretch], Period.HOUR, **asked)}) == 100


def test_a_period_is_final_only_if_it_is_over_and_was_asked_for_as_a_whole() -> None:
    early, late = record(MONDAY), record(MONDAY + 23 * HOUR)
    day = "id-main/2026-11-23"

    def shown(
        until: datetime, since: datetime = MONDAY, by: Period = Period.DAY, last: UsageRecord = late
    ) -> tuple[object, ...]:
        (row,) = rows([early, last], by, since=since, until=until)
        return row.id, row.from_at, row.to_at, row.is_final

    midnight = MONDAY + 24 * HOUR
    assert shown(midnight) == (day, MONDAY, midnight, True)
    assert shown(midnight + HOUR) == (day, MONDAY, midnight, True)
    assert shown(midnight, since=MONDAY + HOUR / 2) == (day, MONDAY, midnight, True)
    assert shown(midnight, since=MONDAY + HOUR) == (day, MONDAY + HOUR, midnight, False)
    # A past hour counts whole; the present one as far as it has come.
    before = midnight - HOUR / 2
    assert shown(before) == (day, MONDAY, midnight, False)
    present = record(MONDAY + 23 * HOUR, is_final=False)
    assert shown(before, last=present) == (day, MONDAY, before, False)
    assert shown(midnight, by=Period.TOTAL) == ("id-main", MONDAY, midnight, True)
    assert shown(before, by=Period.TOTAL, last=present) == ("id-main", MONDAY, before, False)


def test_nothing_used_is_no_row() -> None:
    assert rows([], Period.TOTAL) == []


def test_a_report_with_too_many_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_ROWS", 99)
    stretch = UsageStretch(first=record(MONDAY), hours=100)
    with pytest.raises(errors.InvalidInput, match="more than 99 rows"):
        rows([stretch], Period.HOUR, until=MONDAY + 100 * HOUR)
    assert len(rows([stretch], Period.DAY, until=MONDAY + 100 * HOUR)) == 5
