"""The route of usage."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, cast

import httpx
import pytest
from fastapi import FastAPI

from zorya.api import failures, schemas, usage
from zorya.control.facade import Clusters
from zorya.core import errors
from zorya.metering.report import Period, Prices, UsageReport, UsageRow

NOW = datetime(2026, 2, 3, 9, 12, 30, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
ROW = UsageRow(
    id="k3v9x2mq",
    cluster="main",
    cluster_id="k3v9x2mq",
    from_at=FEBRUARY,
    to_at=NOW,
    seconds=7200.125,
    awake_s=0.004,
    acu_s=0.002,
    mean_acu=2.7e-7,
    peak_acu=0.5,
    storage_byte_s=1e15,
    cost=6.6e-8,
    provisioned_cost=0.12,
    is_final=False,
)


class Asked(NamedTuple):
    """What was asked of control."""

    name: str | None
    since: datetime
    until: datetime
    by: Period


class Metered:
    """As much of control as the route asks."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.rows: Sequence[UsageRow] = [ROW]

    async def usage(self, name: str | None, *, since: datetime, until: datetime, by: Period) -> UsageReport:
        self.asked.append(Asked(name, since, until, by))
        if name == "nobody":
            raise errors.ClusterNotFound("There is and was no cluster named nobody.")
        prices = Prices(acu_hour=0.12, gib_month=0.1, currency="EUR")
        return UsageReport(since=since, until=until, by=by, prices=prices, rows=self.rows)


@pytest.fixture
def metered() -> Metered:
    return Metered()


@pytest.fixture
async def api(metered: Metered) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(usage.routes(cast(Clusters, metered), now=lambda: NOW), prefix="/v1")
    failures.install(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def test_every_field_is_told_in_full_with_the_prices(api: httpx.AsyncClient, metered: Metered) -> None:
    response = await api.get("/v1/usage")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert metered.asked == [Asked(None, FEBRUARY, NOW, Period.TOTAL)]
    assert response.json() == {
        "since": "2026-02-01T00:00:00Z",
        "until": "2026-02-03T09:12:30Z",
        "by": "total",
        "prices": {"acu_hour": 0.12, "gib_month": 0.1, "currency": "EUR"},
        "rows": [
            {
                "id": "k3v9x2mq",
                "cluster": "main",
                "cluster_id": "k3v9x2mq",
                "from_at": "2026-02-01T00:00:00Z",
                "to_at": "2026-02-03T09:12:30Z",
                "seconds": 7200.125,
                "awake_s": 0.004,
                "acu_s": 0.002,
                "mean_acu": 2.7e-7,
                "peak_acu": 0.5,
                "storage_byte_s": 1e15,
                "cost": 6.6e-8,
                "provisioned_cost": 0.12,
                "is_final": False,
            }
        ],
    }
    assert response.json().keys() == usage.USAGE_EXAMPLE.keys()
    assert response.json()["rows"][0].keys() == usage.USAGE_EXAMPLE["rows"][0].keys()


@pytest.mark.parametrize(
    ("query", "since", "until"),
    [
        ({"since": "2026-01-01"}, NEW_YEAR, NOW),
        ({"since": "2026-01-01T02:00:00+02:00"}, NEW_YEAR, NOW),
        ({"since": "2026-01-01T00:00:00", "until": "2026-02-01T00:00:00Z"}, NEW_YEAR, FEBRUARY),
        # What is to come is not known, and nothing was metered before there were clocks to meter by.
        ({"until": "2999-01-01"}, FEBRUARY, NOW),
        ({"since": "0001-01-01T00:00:00+14:00"}, datetime(1970, 1, 1, tzinfo=UTC), NOW),
    ],
)
async def test_times_are_in_utc_unless_they_say_otherwise(
    api: httpx.AsyncClient, metered: Metered, query: dict[str, str], since: datetime, until: datetime
) -> None:
    assert (await api.get("/v1/usage", params={**query, "cluster": "main", "by": "day"})).status_code == 200
    assert metered.asked == [Asked("main", since, until, Period.DAY)]


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ({"since": "soon"}, 400, "since: "),
        ({"until": "2026-13-01"}, 400, "until: "),
        ({"by": "week"}, 400, "by: "),
        ({"since": "2026-02-03", "until": "2026-02-02"}, 400, "no time between 2026-02-03T00:00:00Z and 2026-02-02"),
        ({"since": "2026-02-04"}, 400, "no time between"),
        ({"until": "1969-01-01", "since": "1968-01-01"}, 400, "no time between"),
        ({"cluster": "nobody"}, 404, "no cluster named nobody"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_reason(
    api: httpx.AsyncClient, query: dict[str, str], status: int, told: str
) -> None:
    response = await api.get("/v1/usage", params=query)
    assert response.status_code == status
    assert told in schemas.Failure.model_validate_json(response.content).error.message
