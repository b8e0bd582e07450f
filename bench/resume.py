"""Stopped to first row through the endpoint, against the bare engine's own start to first row."""

import time
from collections.abc import Callable

from bench import report
from bench.stage import Stage, first_row


def measure(stage: Stage, *, rounds: int = 25) -> list[report.Comparison]:
    """Start each in turn, so that both meet the same noise, and print the ratio."""
    endpoint = stage.server.url("main")
    bare_url = stage.bare_url()
    bare, zorya = [], []
    for _ in range(rounds):
        stage.server.pause("main")
        zorya.append(_timed(lambda: first_row(endpoint)))
        stage.server.pause("main")
        bare.append(_timed(lambda: _start_by_hand(stage, bare_url)))
        stage.bare.stop()
    shown = report.show(
        "Stopped to first row",
        report.Series(name="bare engine, by hand", unit="ms", values=bare),
        [report.Series(name="endpoint of a stopped cluster", unit="ms", values=zorya)],
        figure="start",
        shape=report.Shape.VALUES,
        aim="at most 1.30 x",
    )
    return [shown]


def _start_by_hand(stage: Stage, url: str) -> None:
    stage.bare.start()
    first_row(url)


def _timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000
