"""What clusters have used: the route and its schemas."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from zorya.api.schemas import Moment
from zorya.control.facade import Clusters
from zorya.core import errors
from zorya.metering.report import Period, UsageReport

USAGE_EXAMPLE: dict[str, Any] = {
    "since": "2026-02-01T00:00:00Z",
    "until": "2026-02-03T09:12:30Z",
    "by": "day",
    "prices": {"acu_hour": 0.12, "gib_month": 0.1, "currency": "USD"},
    "rows": [
        {
            "id": "k3v9x2mq/2026-02-03",
            "cluster": "main",
            "cluster_id": "k3v9x2mq",
            "from_at": "2026-02-03T00:00:00Z",
            "to_at": "2026-02-03T09:12:30Z",
            "seconds": 3450.25,
            "awake_s": 912.5,
            "acu_s": 640.75,
            "mean_acu": 0.18571118,
            "peak_acu": 2.0,
            "storage_byte_s": 149409177600.0,
            "cost": 0.02136363,
            "provisioned_cost": 0.23002196,
            "is_final": False,
        }
    ],
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Response(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Prices(_Response):
    """What is charged."""

    model_config = ConfigDict(json_schema_extra={"examples": [USAGE_EXAMPLE["prices"]]})

    acu_hour: float = Field(description="For an ACU an hour.")
    gib_month: float = Field(description="For a GiB of storage a month of 730 hours.")
    currency: str


class UsageRow(_Response):
    """What one cluster has used in one hour, one day or altogether."""

    model_config = ConfigDict(json_schema_extra={"examples": USAGE_EXAMPLE["rows"]})

    id: str = Field(description="Of the cluster and the period: a later row of the same id replaces this one.")
    cluster: str
    cluster_id: str
    from_at: Moment
    to_at: Moment = Field(description="Where the period ends, or the time that was asked for.")
    seconds: float = Field(description="How many were metered.")
    awake_s: float = Field(description="How many of them had a capacity above 0.")
    acu_s: float = Field(description="Capacity over time, in ACU-seconds.")
    mean_acu: float = Field(description="Over the seconds that were metered.")
    peak_acu: float = Field(description="The highest capacity.")
    storage_byte_s: float = Field(description="Storage over time, in byte-seconds.")
    cost: float = Field(description="Of capacity and storage.")
    provisioned_cost: float = Field(
        description="What it would have cost with the cluster's highest capacity of this report all the time."
    )
    is_final: bool = Field(description="Whether the period is over, and is in the report as a whole.")


class Usage(_Response):
    """What clusters have used, by time and then by name."""

    model_config = ConfigDict(json_schema_extra={"examples": [USAGE_EXAMPLE]})

    since: Moment
    until: Moment
    by: Period
    prices: Prices
    rows: list[UsageRow]


def routes(clusters: Clusters, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> APIRouter:
    """Answer the routes of metering."""
    router = APIRouter(tags=["usage"])

    @router.get("/usage", response_model=Usage)
    async def show_usage(
        cluster: Annotated[str | None, Query(description="Only this cluster's, which may be deleted.")] = None,
        since: Annotated[
            datetime | None, Query(description="From when, in UTC unless it says otherwise; null: this month's first.")
        ] = None,
        until: Annotated[datetime | None, Query(description="Until when; null, and at most: now.")] = None,
        by: Annotated[Period, Query(description="What one row stands for.")] = Period.TOTAL,
    ) -> Response:
        """What clusters have used and what it costs, by whole hours of UTC. Deleted clusters are among them."""
        present = now()
        end = min(present, _in_utc(until) if until else present)
        begin = _in_utc(since) if since else present.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        if begin >= end:
            raise errors.InvalidInput(
                f"There is no time between {begin:%Y-%m-%dT%H:%M:%SZ} and {end:%Y-%m-%dT%H:%M:%SZ}.",
                hint="`since` has to be before `until`, and before now.",
            )
        report = await clusters.usage(cluster, since=begin, until=end, by=by)
        return Response(await asyncio.to_thread(_write, report), media_type="application/json")

    return router


def _write(report: UsageReport) -> str:
    """Answer the body. In a thread, since that of 20,000 rows takes 0.2 s."""
    return Usage.model_validate(report).model_dump_json()


def _in_utc(at: datetime) -> datetime:
    """Answer a time that has no zone as one in UTC, and none before there were clocks to meter by."""
    return max(_EPOCH, at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
