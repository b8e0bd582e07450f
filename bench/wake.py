"""Frozen to first row, on an open session and on a new connection, against the same on an engine that runs."""

import random
import time
from collections.abc import Callable

from bench import report
from bench.sessions import Session, first_row
from bench.stage import Stage

FREEZE_AFTER = "0.05"


def measure(stage: Stage, *, rounds: int = 1000, connections: int = 200) -> list[report.Comparison]:
    """Wake in turns with the same on an engine that has rested as long, and print both.

    An engine that rested is slower than one at work even if it runs: caches and processors have gone to others.
    """
    server = stage.server
    server.create("napper", "--freeze-after", FREEZE_AFTER, "--pause-after", "never")
    frozen_url, running_url = server.url("napper"), server.url("main")
    # With MariaDB the session that wakes is relayed.
    for url in (frozen_url, running_url):
        first_row(url)
    try:
        return [
            _sessions(stage, frozen_url, running_url, rounds),
            _newcomers(stage, frozen_url, running_url, connections),
        ]
    finally:
        server.cli("delete", "napper", "--yes")


def _sessions(stage: Stage, frozen_url: str, running_url: str, rounds: int) -> report.Comparison:
    rested, woken, at_once = [], [], []
    with Session(frozen_url) as frozen, Session(running_url) as running:
        _select(frozen)
        _select(running)
        for _ in range(rounds):
            stage.server.await_frozen("napper")
            time.sleep(random.uniform(0, 0.01))
            rested.append(_timed(lambda: _select(running)))
            woken.append(_timed(lambda: _select(frozen)))
            at_once.append(_timed(lambda: _select(frozen)))
    return report.show(
        "Frozen to first row, open session",
        report.Series(name="running, rested as long", unit="ms", values=rested),
        [
            report.Series(name="frozen", unit="ms", values=woken),
            report.Series(name="the same session at once again", unit="ms", values=at_once),
        ],
        figure="wake",
        shape=report.Shape.DISTRIBUTION,
        aim="median 2 ms, p99 10 ms",
    )


def _newcomers(stage: Stage, frozen_url: str, running_url: str, connections: int) -> report.Comparison:
    rested, woken = [], []
    for _ in range(connections):
        stage.server.await_frozen("napper")
        rested.append(_timed(lambda: first_row(running_url)))
        woken.append(_timed(lambda: first_row(frozen_url)))
    return report.show(
        "Frozen to first row, new connection",
        report.Series(name="running, rested as long", unit="ms", values=rested),
        [report.Series(name="frozen", unit="ms", values=woken)],
        figure="wake",
        shape=report.Shape.DISTRIBUTION,
    )


def _select(session: Session) -> None:
    session.value("SELECT 1")


def _timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000
