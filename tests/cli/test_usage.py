"""What `zorya usage` prints."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from cli.command import Command
from zorya.api import usage as schemas
from zorya.cli import usage, wire
from zorya.core import errors

NOW = datetime(2026, 11, 25, 8, 30, tzinfo=UTC)
TODAY = NOW.replace(hour=0, minute=0)
ROW: wire.UsageRow = {
    "id": "abc/2026-11-25T08",
    "cluster": "main",
    "cluster_id": "abc",
    "from_at": "2026-11-25T08:00:00Z",
    "to_at": "2026-11-25T08:30:00Z",
    "seconds": 1800.0,
    "awake_s": 12.504,
    "acu_s": 9.5,
    "mean_acu": 9.5 / 1800,
    "peak_acu": 4.0,
    "storage_byte_s": 1800.0 * 50 * 2**20,
    "cost": 0.0321,
    "provisioned_cost": 0.29,
    "is_final": False,
}


def a_report(by: str, *rows: wire.UsageRow) -> wire.Usage:
    return {
        "since": "2026-11-25T00:00:00Z",
        "until": "2026-11-25T08:30:00Z",
        "by": by,
        "prices": {"acu_hour": 0.12, "gib_month": 0.1, "currency": "USD"},
        "rows": list(rows),
    }


@pytest.mark.parametrize("name", ["Prices", "UsageRow", "Usage"])
def test_the_wire_types_have_the_fields_of_the_schemas(name: str) -> None:
    assert set(getattr(wire, name).__annotations__) == set(getattr(schemas, name).model_fields)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("today", TODAY),
        ("Yesterday", TODAY - timedelta(days=1)),
        ("7d", NOW - timedelta(days=7)),
        ("12h", NOW - timedelta(hours=12)),
        ("2026-11-25", TODAY),
        ("2026-11-25T08:30", NOW),
        ("2026-11-25 08:30:00Z", NOW),
        ("2026-11-25T10:30:00+02:00", NOW),
    ],
)
def test_a_time_can_be_told_in_these_ways(text: str, at: datetime) -> None:
    assert usage.parse_when(text, NOW) == at


@pytest.mark.parametrize(
    "text", ["", "soon", "7", "7 d", "7w", "-7d", "999999d", "2026-02-30", "25.11.2026", "\u0667d\u0667"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="is no time") as raised:
        usage.parse_when(text, NOW)
    assert "7d" in raised.value.hint


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0.00"),
        (12.345, "12.35"),
        (1234.5678, "1234.57"),
        (1, "1.00"),
        (0.0312, "0.0312"),
        (0.58, "0.58"),
        (0.99951, "1.00"),
        (3.47e-7, "0.000000347"),
    ],
)
def test_a_small_amount_is_not_rounded_away(number: float, text: str) -> None:
    assert usage.amount(number) == text


def test_the_summary_compares_what_was_paid_with_the_peak() -> None:
    assert usage.summary(a_report("total", ROW, ROW)) == (
        "You paid 0.0642 USD; provisioned at the peak it would have been 0.58 USD (9.0 x)."
    )
    free: wire.UsageRow = {**ROW, "cost": 0.0, "provisioned_cost": 0.0}
    assert usage.summary(a_report("total", free)).endswith("it would have been 0.00 USD.")


def test_the_table_has_the_time_where_it_differs(capsys: pytest.CaptureFixture[str]) -> None:
    usage.print_table(a_report("hour", ROW))
    hourly = capsys.readouterr().out.splitlines()
    assert hourly[0].split("  ")[0] == "FROM (UTC)"
    assert hourly[1].split() == [
        "2026-11-25", "08:00", "main", "12.504", "s", "0.00528", "4", "0.00264", "50", "MiB", "0.0321", "0.29",
    ]  # fmt: skip
    usage.print_table(a_report("total", ROW, {**ROW, "seconds": 0.0}))
    total = capsys.readouterr().out.splitlines()
    assert total[0].split()[:2] == ["CLUSTER", "AWAKE"]
    assert total[2].split()[6] == "-"
    assert total[4].startswith("You paid ")


def test_csv_has_every_number_in_full_and_names_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    usage.print_csv(a_report("hour", ROW))
    text = capsys.readouterr().out
    assert text.splitlines()[0] == (
        "id,cluster_id,cluster,from_at,to_at,seconds,awake_s,acu_s,mean_acu,peak_acu,storage_byte_s,cost,"
        "provisioned_cost,currency,is_final"
    )
    assert text.endswith("\r\n")
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["id"], row["currency"], row["is_final"]) == ("abc/2026-11-25T08", "USD", "false")
    numbers = {name: float(row[name]) for name, value in ROW.items() if isinstance(value, float)}
    assert numbers == {name: value for name, value in ROW.items() if isinstance(value, float)}
    usage.print_csv(a_report("hour"))
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_command_prints_one_row_a_cluster_and_the_sum(zorya: Command) -> None:
    result = zorya("usage")
    assert (result.returncode, result.stderr) == (0, "")
    head, *rows, blank, last = result.stdout.splitlines()
    assert head.split()[0] == "CLUSTER"
    assert [row.split()[0] for row in rows] == ["busy", "cold", "main"]
    assert (blank, last[:9]) == ("", "You paid ")
    one = json.loads(zorya("usage", "main", "--since", "2d", "--until", "1h", "--by", "hour", "--json").stdout)
    assert [row["cluster"] for row in one["rows"]] == ["main"]
    assert one["by"] == "hour"
    assert datetime.fromisoformat(one["until"]) - datetime.fromisoformat(one["since"]) == timedelta(hours=47)
    assert len(list(csv.DictReader(io.StringIO(zorya("usage", "--csv").stdout)))) == 3


def test_the_command_refuses_what_cannot_be(zorya: Command) -> None:
    for words, told in (
        (["--since", "soon"], "'soon' is no time. Give a date"),
        (["--json", "--csv"], "There is one form of output at a time."),
        (["nobody"], "There is no cluster named nobody."),
    ):
        result = zorya("usage", *words)
        assert (result.returncode, result.stdout) == (1, ""), words
        assert told in result.stderr
    assert zorya("usage", "--by", "week").returncode == 2
