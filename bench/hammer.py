"""Statements that come at any moment around the freeze, against the same traffic on engines that never freeze.

Each statement's time is taken; that every one is answered, and rightly, is asserted on the way.
"""

import random
import threading
import time
from dataclasses import dataclass, field

from bench import report
from bench.sessions import FAILURES, Session, first_row
from bench.stage import Stage

FREEZE_AFTER = "0.01"
LONGEST_PAUSE_S = 0.05
PAIRS = 2
SLOW_MS = 50.0


@dataclass(kw_only=True)
class _Client(threading.Thread):
    """One session that asks after pauses of random length, for as long as it is told."""

    url: str
    seed: int
    until_s: float
    took_ms: list[float] = field(default_factory=list)
    problem: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Ask until the time is over."""
        choice = random.Random(self.seed)
        try:
            with Session(self.url) as session:
                while time.monotonic() < self.until_s:
                    time.sleep(choice.uniform(0, LONGEST_PAUSE_S))
                    self._ask(session, choice.randrange(2**31))
        except (*FAILURES, RuntimeError) as error:
            self.problem = repr(error)

    def _ask(self, session: Session, number: int) -> None:
        began = time.perf_counter()
        answer = session.value(f"SELECT {number}")
        self.took_ms.append((time.perf_counter() - began) * 1000)
        if answer != number:
            raise RuntimeError(f"asked for {number}, got {answer}")


def measure(stage: Stage, *, seconds: int = 90) -> list[report.Comparison]:
    """Let pairs of clients with the same pauses ask a cluster that freezes and one that does not, at the same time."""
    names = [f"{kind}{number}" for kind in ("steady", "restless") for number in range(PAIRS)]
    for name in names:
        freeze_after = "never" if name.startswith("steady") else FREEZE_AFTER
        stage.server.create(name, "--freeze-after", freeze_after, "--pause-after", "never")
    urls = {name: stage.server.url(name) for name in names}
    # With MariaDB the session that wakes is relayed.
    for url in urls.values():
        first_row(url)
    until_s = time.monotonic() + seconds
    clients = {name: _Client(url=urls[name], seed=int(name[-1]), until_s=until_s) for name in names}
    for client in clients.values():
        client.start()
    freezes = _count_freezes(stage, until_s)
    for client in clients.values():
        client.join()
    problems = [client.problem for client in clients.values() if client.problem]
    if problems:
        raise RuntimeError(f"statements were lost: {problems}")
    for name in names:
        stage.server.cli("delete", name, "--yes")
    steady, restless = (
        [value for name, client in clients.items() if name.startswith(kind) for value in client.took_ms]
        for kind in ("steady", "restless")
    )
    compared = report.show(
        f"Statements at any moment, {freezes} freezes",
        report.Series(name="never frozen", unit="ms", values=steady),
        [report.Series(name="frozen after 10 ms of quiet", unit="ms", values=restless)],
        figure="hammer",
        shape=report.Shape.DISTRIBUTION,
        aim=f"none above {SLOW_MS:g} ms but for noise",
    )
    for kind, values in (("never frozen", steady), ("frozen after 10 ms of quiet", restless)):
        slow = sum(value > SLOW_MS for value in values)
        print(
            f"  {kind}: {len(values)} statements, {slow} above {SLOW_MS:g} ms, slowest {max(values):.1f} ms", flush=True
        )
    return [compared]


def _count_freezes(stage: Stage, until_s: float) -> int:
    """Count them while they happen: the catalog keeps only the newest."""
    seq, count = 0, 0
    while time.monotonic() < until_s:
        time.sleep(0.5)
        found = stage.server.api.events(None, after=seq, limit=1000, wait_s=0, sleep=True)
        seq = found[-1]["seq"] if found else seq
        count += sum(event["kind"] == "ZORYA-EVENT-1008" for event in found)
    return count
