"""The screen of `zorya top`, from values."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from api.fakes import LOAD, FakeClusters, FakeServer, a_busy_cluster, a_frozen_cluster, a_request, make_cluster
from zorya.api import schemas
from zorya.cli import top_view, wire
from zorya.control.view import ClusterView
from zorya.core.model import Mode

WIDTHS = range(60, 201, 10)
LONG = "a-name-of-" + "x" * 53
TITLES = ("NAME", "STATE", "CAPACITY", "CPU", "MEMORY", "SESSIONS", "HIT %", "COST TODAY")


def moment(views: Sequence[ClusterView]) -> top_view.Snapshot:
    """Answer what the API would say of these clusters, each with an id of its own."""
    clusters = FakeClusters()
    for number, view in enumerate(views):
        clusters.put(replace(view, id=f"cluster{number}"))
    status = schemas.ServerStatus.model_validate(FakeServer(Path("/home/of/the/test"), clusters).status())
    shown = [schemas.Cluster.model_validate(view) for view in clusters.all()]
    return top_view.Snapshot(
        server=cast(wire.ServerStatus, status.model_dump(mode="json")),
        clusters=[cast(wire.Cluster, cluster.model_dump(mode="json")) for cluster in shown],
        costs=top_view.Costs(currency="EUR", total=1.5, by_id={"cluster0": 0.12}),
    )


def lines_of(now: top_view.Snapshot | None, width: int, **more: Any) -> list[str]:
    # Wider than what is rendered, so that a line which is too long is seen.
    console = Console(width=width + 50, color_system=None)
    with console.capture() as shown:
        console.print(top_view.render(now, width=width, **more))
    return [line.rstrip() for line in shown.get().splitlines()]


def some() -> list[ClusterView]:
    fixed = replace(a_request("fixed"), mode=Mode.PROVISIONED, fixed_capacity=2)
    return [
        a_busy_cluster("busy"),
        a_frozen_cluster("cold"),
        make_cluster("asleep", a_request("asleep")),
        replace(a_busy_cluster("fixed"), mode=Mode.PROVISIONED, capacity=2, fixed_capacity=2),
        replace(a_busy_cluster("hot"), load=replace(LOAD, cores=1.5, hit_ratio=None)),
        replace(make_cluster("paused", fixed), fixed_capacity=2),
        a_busy_cluster(LONG),
    ]


@pytest.mark.parametrize("with_long", [True, False])
def test_no_line_is_wider_than_the_screen_and_no_cluster_is_left_out(with_long: bool) -> None:
    now = moment([view for view in some() if with_long or view.name != LONG])
    for width in WIDTHS:
        lines = lines_of(now, width, problem="It does not answer. " * 5, hint="q quits")
        assert max(map(len, lines)) <= width, width
        begun = [line.split()[0][:8] for line in lines[-len(now.clusters) :]]
        assert sorted(begun) == sorted(cluster["name"][:8] for cluster in now.clusters), width


def test_more_columns_are_shown_the_wider_the_screen_is() -> None:
    now = moment(some())
    shown = {
        width: [title for title in TITLES if any(title in line for line in lines_of(now, width))] for width in WIDTHS
    }
    for narrow, wide in pairwise(WIDTHS):
        assert set(shown[narrow]) <= set(shown[wide])
    assert shown[60] == ["NAME", "STATE", "CAPACITY", "CPU", "MEMORY", "SESSIONS"]
    assert shown[100] == list(TITLES)


def test_a_wide_screen_tells_all_with_the_most_capacity_and_cpu_first() -> None:
    lines = lines_of(moment([view for view in some() if view.name != LONG]), 110, hint="q quits")
    assert lines == [
        "Zorya 0.1.0   up 1 min 2 s   5 of 8 ACUs [||||||    ]   2 cores   16 GiB   3 running, 1 frozen, 2 stopped",
        "5 sessions   1.500 EUR today   q quits",
        "",
        "NAME    STATE              CAPACITY   CPU           MEMORY  SESSIONS  HIT %  COST TODAY",
        "fixed   running    2/2 [||||||||||]  0.31  412 MiB/1.6 GiB     1 (3)   99.2           -",
        "hot     running  1.5/4 [||||      ]  1.50  412 MiB/1.6 GiB     1 (3)      -           -",
        "busy    running  1.5/4 [||||      ]  0.31  412 MiB/1.6 GiB     1 (3)   99.2       0.120",
        "asleep  stopped    0/4 [          ]     -                -         0      -           -",
        "cold    frozen     0/4 [          ]     -          5.1 MiB         2      -           -",
        "paused  stopped    0/2 [          ]     -                -         0      -           -",
    ]


def test_a_long_name_is_cut_and_said_to_be() -> None:
    (row,) = [line for line in lines_of(moment(some()), 80) if line.startswith("a-name")]
    assert "…" in row


def test_the_clusters_that_do_not_fit_are_counted() -> None:
    now = moment([a_busy_cluster(f"c{number:02}") for number in range(30)])
    for height in range(8, 40, 4):
        lines = lines_of(now, 120, height=height)
        rows = [line for line in lines if line.startswith("c")]
        assert len(lines) <= height
        assert rows[0].startswith("c00")
        assert (lines[-1] == f"and {30 - len(rows)} clusters more") == (len(rows) < 30)
    assert len([line for line in lines_of(now, 120) if line.startswith("c")]) == 30


def test_what_was_known_stays_when_the_server_is_away() -> None:
    problem = "No Zorya server is up.\n\x1b[2J"
    assert lines_of(None, 80, problem=problem) == [r"No Zorya server is up. \x1b[2J"]
    lines = lines_of(moment(some()), 80, problem=problem)
    assert r"No Zorya server is up. \x1b[2J" in lines
    assert any(line.startswith("busy") for line in lines)


def test_no_cluster_is_said() -> None:
    assert lines_of(moment([]), 80)[-1] == "There is no cluster."
