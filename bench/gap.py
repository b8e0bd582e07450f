"""What clients notice when the server is killed while their cluster is frozen."""

import threading
import time

from bench import report
from bench.sessions import Session, first_row
from bench.stage import Stage


def measure(stage: Stage, *, rounds: int = 20) -> list[report.Comparison]:
    """Kill the server again and again under one open session, and print what the session and a newcomer wait for.

    The session's next statement is answered before there is another server. A newcomer has to wait for one: it is
    started as soon as the old one is gone.
    """
    server = stage.server
    server.create("survivor", "--freeze-after", "0.1", "--pause-after", "never")
    url = server.url("survivor")
    # With MariaDB the session that wakes is relayed.
    first_row(url)
    frozen, orphaned, starts, newcomers = [], [], [], []
    try:
        with Session(url) as session:
            for _ in range(rounds):
                server.await_frozen("survivor")
                frozen.append(_select(session))
                server.await_frozen("survivor")
                began = time.perf_counter()
                await_end = server.kill()
                _select(session)
                orphaned.append((time.perf_counter() - began) * 1000)
                await_end()
                took, waited = _restart(stage, url)
                starts.append(took)
                newcomers.append(waited)
    finally:
        server.cli("delete", "survivor", "--yes")
    return [
        report.show(
            "Next statement of a frozen session",
            report.Series(name="server up", unit="ms", values=frozen),
            [report.Series(name="server killed, kill included", unit="ms", values=orphaned)],
            figure="gap",
            shape=report.Shape.VALUES,
        ),
        report.show(
            "New connection while there is no server",
            report.Series(name="zorya up --detach", unit="ms", values=starts),
            [report.Series(name="connect to first row meanwhile", unit="ms", values=newcomers)],
            figure="gap",
            shape=report.Shape.VALUES,
        ),
    ]


def _restart(stage: Stage, url: str) -> tuple[float, float]:
    """Connect and start a server in the same moment; answer how long each took."""
    waited: list[float] = []

    def connect() -> None:
        began = time.perf_counter()
        first_row(url)
        waited.append((time.perf_counter() - began) * 1000)

    newcomer = threading.Thread(target=connect, name="newcomer")
    began = time.perf_counter()
    newcomer.start()
    stage.server.up()
    took = (time.perf_counter() - began) * 1000
    newcomer.join()
    return took, waited[0]


def _select(session: Session) -> float:
    began = time.perf_counter()
    session.value("SELECT 1")
    return (time.perf_counter() - began) * 1000
