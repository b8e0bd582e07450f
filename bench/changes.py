"""Changes of capacity under pgbench, against the same without any: one after the other as fast as they go, and paced.

As fast as they go is for errors, and for how long each takes. Nothing makes so many of them but a benchmark: the pace
is that of a policy that never comes to rest, which looks once a second.
"""

import re
import threading
import time
from dataclasses import dataclass, field

from bench import load, report
from bench.stage import MOST_ACU, Stage, ZoryaServer

CLIENTS = 8
SECONDS = 3
"""A run of pgbench."""

CAPACITIES = (MOST_ACU - 0.5, MOST_ACU)
"""Back and forth between these, which are nearly the same: what the changes cost is to be seen, and not what a smaller
capacity does."""

PACED_S = 1.0
"""Between two changes that are paced."""


@dataclass(kw_only=True)
class _Changes(threading.Thread):
    """Changes the capacity until it is told to stop."""

    server: ZoryaServer
    cluster: str
    every_s: float
    asked_ms: list[float] = field(default_factory=list)
    """How long the API took to answer, which it does when the change is complete."""
    took_ms: list[float] = field(default_factory=list)
    """What the server says of how long the change took."""
    problem: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(name="changes")

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Change it back and forth."""
        try:
            while not self.over.is_set():
                for capacity in CAPACITIES:
                    self._change(capacity)
        except Exception as error:  # noqa: BLE001 - told by whoever waits for it
            self.problem = repr(error)

    def _change(self, capacity: float) -> None:
        self.over.wait(self.every_s)
        began = time.perf_counter()
        shown = self.server.api.set_capacity(self.cluster, capacity)
        self.asked_ms.append((time.perf_counter() - began) * 1000)
        last = shown["last_scaling"]
        if shown["capacity"] != capacity or last is None or last["to_acu"] != capacity:
            raise RuntimeError(f"asked for {capacity:g} ACUs, got {shown['capacity']:g}, last {last}")
        self.took_ms.append(last["took_s"] * 1000)


@dataclass(kw_only=True)
class _Turns:
    """Runs of pgbench in turn."""

    still: list[float] = field(default_factory=list)
    """Transactions a second without changes."""
    changed: list[float] = field(default_factory=list)
    """And with them."""
    asked_ms: list[float] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)


def measure(
    stage: Stage, server: ZoryaServer, cluster: str, *, mode: str, number: int, paced_turns: int
) -> list[report.Comparison]:
    """Change the capacity of a cluster with pgbench's tables at least `number` times, and print what that costs.

    Raises RuntimeError if a change or a statement failed. A capacity that is set must stay for a while
    (capacity_hold_s).
    """
    fast, paced = _Turns(), _Turns()
    while len(fast.asked_ms) < number or len(fast.still) % 2:
        _take_turn(stage, server, cluster, fast, every_s=0)
    for _ in range(paced_turns):
        _take_turn(stage, server, cluster, paced, every_s=PACED_S)
    compared = [_show_rates(mode, turns) for turns in (fast, paced)]
    compared.append(
        report.show(
            f"A change of capacity under pgbench, {mode}, {len(fast.asked_ms)} of them",
            report.Series(name="asked of the API", unit="ms", values=fast.asked_ms),
            [report.Series(name="as the server tells (took_s)", unit="ms", values=fast.took_ms)],
            figure="changes",
            shape=report.Shape.DISTRIBUTION,
        )
    )
    print(f"  {len(fast.asked_ms) + len(paced.asked_ms)} changes, no error, no statement failed", flush=True)
    return compared


def _take_turn(stage: Stage, server: ZoryaServer, cluster: str, turns: _Turns, *, every_s: float) -> None:
    """Run pgbench with and without changes; every other turn the other way round."""
    for changes in (False, True) if len(turns.still) % 2 == 0 else (True, False):
        server.api.set_capacity(cluster, MOST_ACU)
        if not changes:
            turns.still.append(_rate(stage, server.url(cluster)))
            continue
        thread = _Changes(server=server, cluster=cluster, every_s=every_s)
        thread.start()
        try:
            turns.changed.append(_rate(stage, server.url(cluster)))
        finally:
            thread.over.set()
            thread.join()
        if thread.problem:
            raise RuntimeError(f"a change failed: {thread.problem}")
        turns.asked_ms += thread.asked_ms
        turns.took_ms += thread.took_ms


def _show_rates(mode: str, turns: _Turns) -> report.Comparison:
    a_second = len(turns.asked_ms) / (len(turns.changed) * SECONDS)
    return report.show(
        f"pgbench -S, {CLIENTS} clients, {mode}: throughput under {a_second:.2g} changes of capacity a second",
        report.Series(name="no change", unit="tps", values=turns.still),
        [report.Series(name="changes", unit="tps", values=turns.changed)],
        figure="changes",
        aim="1 x",
    )


def _rate(stage: Stage, url: str) -> float:
    output = stage.pgbench(
        *load.SELECTS, "--no-vacuum", f"--client={CLIENTS}", "--jobs=2", f"--time={SECONDS}", url=url
    )
    rate = re.search(r"tps = ([\d.]+)", output)
    if rate is None:
        raise RuntimeError(f"pgbench said something else: {output}")
    return float(rate[1])
