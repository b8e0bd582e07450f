"""What clusters have used, and what it costs."""

import csv
import math
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from zorya.cli import output, wire
from zorya.cli.invocation import Invocation
from zorya.cli.options import AsJson
from zorya.core import errors
from zorya.metering.report import Period

WHEN = "WHEN"
_AGO = re.compile(r"(\d{1,6})([dh])")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}
_COLUMNS = (
    "id",
    "cluster_id",
    "cluster",
    "from_at",
    "to_at",
    "seconds",
    "awake_s",
    "acu_s",
    "mean_acu",
    "peak_acu",
    "storage_byte_s",
    "cost",
    "provisioned_cost",
    "currency",
    "is_final",
)
"""Of the CSV. Programs rely on their names and order: new ones go to the end."""


def show_usage(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Only this cluster's, which may be deleted.", show_default=False)
    ] = None,
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar=WHEN,
            help="From then on: a date or time, today, yesterday, 7d or 12h ago; in UTC. "
            "[default: the first of this month]",
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar=WHEN, help="Until then. [default: now]")] = None,
    by: Annotated[Period, typer.Option(help="What one row stands for.")] = Period.TOTAL,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV (RFC 4180), every number in full.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what clusters have used and what it costs, by whole hours of UTC."""
    if as_csv and as_json:
        raise errors.InvalidInput("There is one form of output at a time.", hint="Choose --json or --csv.")
    now = datetime.now(UTC)
    usage = context.ensure_object(Invocation).api.usage(
        name,
        since=None if since is None else parse_when(since, now).isoformat(),
        until=None if until is None else parse_when(until, now).isoformat(),
        by=by.value,
    )
    if as_json:
        output.print_json(usage)
    elif as_csv:
        print_csv(usage)
    elif not usage["rows"]:
        output.say("Nothing was metered in this time.")
    else:
        print_table(usage)


def parse_when(text: str, now: datetime) -> datetime:
    """Read a time: ISO 8601 (in UTC unless it says otherwise), `today`, `yesterday`, or so many days or hours ago.

    Raises InvalidInput.
    """
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    word = text.strip().lower()
    ago = _AGO.fullmatch(word)
    try:
        if word in {"today", "yesterday"}:
            return today - (word == "yesterday") * _UNITS["d"]
        if ago:
            return now - int(ago[1]) * _UNITS[ago[2]]
        at = datetime.fromisoformat(text.strip())
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise errors.InvalidInput(
            f"{text!r} is no time.",
            hint="Give a date or time such as 2026-11-25 or 2026-11-25T08:00, or today, yesterday, 7d or 12h.",
        ) from error


def amount(number: float) -> str:
    """Answer a number with two digits after the point; with more where it needs them to have three of its own."""
    digits = 2 if number <= 0 else max(2, 2 - math.floor(math.log10(number)))
    whole, _, fraction = f"{number:.{digits}f}".partition(".")
    return f"{whole}.{fraction[:2]}{fraction[2:].rstrip('0')}"


def print_table(usage: wire.Usage) -> None:
    """Print a row for each cluster and period, and the sum."""
    with_time = usage["by"] != Period.TOTAL.value
    output.print_table(
        (
            *(("FROM (UTC)",) if with_time else ()),
            "CLUSTER",
            "AWAKE",
            "MEAN ACU",
            "PEAK ACU",
            "ACU-HOURS",
            "STORAGE",
            f"COST {usage['prices']['currency']}",
            "PROVISIONED",
        ),
        [((_time(row["from_at"]),) if with_time else ()) + _cells(row) for row in usage["rows"]],
    )
    output.say()
    output.say(summary(usage))


def _cells(row: wire.UsageRow) -> tuple[str, ...]:
    return (
        row["cluster"],
        output.delay(row["awake_s"]),
        amount(row["mean_acu"]),
        f"{row['peak_acu']:g}",
        amount(row["acu_s"] / 3600),
        output.size(row["storage_byte_s"] / row["seconds"]) if row["seconds"] else "-",
        amount(row["cost"]),
        amount(row["provisioned_cost"]),
    )


def summary(usage: wire.Usage) -> str:
    """Answer the sum of all rows as a sentence."""
    currency = usage["prices"]["currency"]
    paid = sum(row["cost"] for row in usage["rows"])
    provisioned = sum(row["provisioned_cost"] for row in usage["rows"])
    times = f" ({provisioned / paid:.1f} x)" if paid else ""
    return (
        f"You paid {amount(paid)} {currency}; "
        f"provisioned at the peak it would have been {amount(provisioned)} {currency}{times}."
    )


def _time(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def print_csv(usage: wire.Usage) -> None:
    """Print all rows, every number in full."""
    writer = csv.DictWriter(sys.stdout, _COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for row in usage["rows"]:
        final = "true" if row["is_final"] else "false"
        writer.writerow({**row, "currency": usage["prices"]["currency"], "is_final": final})
