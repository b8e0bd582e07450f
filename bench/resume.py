"""Stopped to first row through the endpoint, against the bare engine's own start to first row, without TLS and with it.

By default a stopped cluster is woken by a client that has proved to the gateway who it is; then it is handed over, or
relayed with Zorya's TLS. With `wake_on` any it is handed over unread, and the engine does TLS and login itself. MariaDB
has its greeting from the gateway by default, and is relayed then in any case, with TLS on both parts of the way.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from bench import report, ways
from bench.sessions import first_row
from bench.stage import Stage
from zorya.core.model import EngineKind

TITLE = "Stopped to first row"

_BARE = "bare engine, by hand"
_WakeOn = Literal["authenticated", "any"]


def measure(stage: Stage, *, rounds: int = 25) -> list[report.Comparison]:
    """Start each in turn, so that all meet the same noise, and print the ratios; half as often with TLS."""
    plain = stage.server.url("main")
    over_tls = stage.server.url("main", sslmode="require")
    greets = stage.engine is EngineKind.MARIADB
    _check(stage, plain, "authenticated", handed_over=not greets, engine_tls=False)
    _check(stage, plain, "any", handed_over=True, engine_tls=False)
    _check(stage, over_tls, "authenticated", handed_over=False, engine_tls=greets)
    _check(stage, over_tls, "any", handed_over=True, engine_tls=True)
    return [
        _compare(stage, TITLE, plain, stage.bare_url(), rounds, aim="at most 1.30 x"),
        _compare(stage, f"{TITLE}, TLS", over_tls, stage.bare_url(sslmode="require"), rounds // 2),
    ]


def _compare(stage: Stage, title: str, url: str, bare_url: str, rounds: int, *, aim: str = "") -> report.Comparison:
    took: dict[str, list[float]] = {_BARE: [], "endpoint of a stopped cluster": [], "the same, wake_on any": []}
    bare, authenticated, anyone = took.values()
    for _ in range(rounds):
        with _stopped(stage, "authenticated"):
            authenticated.append(_timed(lambda: first_row(url)))
        with _stopped(stage, "any"):
            anyone.append(_timed(lambda: first_row(url)))
        stage.server.pause("main")
        bare.append(_timed(lambda: _start_by_hand(stage, bare_url)))
        stage.bare.stop()
    first, *others = (report.Series(name=name, unit="ms", values=values) for name, values in took.items())
    return report.show(title, first, others, figure="start", shape=report.Shape.VALUES, aim=aim)


@contextmanager
def _stopped(stage: Stage, wake_on: _WakeOn) -> Iterator[None]:
    """Stop the cluster, to be woken so; afterwards it is woken as by default again."""
    server = stage.server
    server.pause("main")
    server.api.modify("main", {"wake_on": wake_on})
    # Without it the gateway could not tell who a client is, and would let the engine find out.
    if not server.folders("main").identities.exists():
        raise RuntimeError("it is not known who may wake the cluster")
    try:
        yield
    finally:
        server.api.modify("main", {"wake_on": "authenticated"})


def _check(stage: Stage, url: str, wake_on: _WakeOn, *, handed_over: bool, engine_tls: bool) -> None:
    """See that the session that wakes the cluster reaches the engine as it should."""
    with _stopped(stage, wake_on):
        port, found_tls = ways.look(url)
    if (port != stage.server.engine_port("main"), found_tls) != (handed_over, engine_tls):
        raise RuntimeError(f"wake_on {wake_on}: the session came to port {port}, TLS of the engine: {found_tls}")


def _start_by_hand(stage: Stage, url: str) -> None:
    stage.bare.start()
    first_row(url)


def _timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000
