"""Three of the six use cases for real, a day in two minutes, beside the simulation of the very same seconds.

Of each stretch of the day one second is taken, at random, so that the seconds are as different as those of the day. The
policy is not made faster: its windows are as long in the simulation of these seconds as they are on the server. What is
asked for is made smaller until this machine has the cores for it.
"""

import math
import os
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench import drive, models, play, report, traces
from bench.memory import leave_page_cache
from bench.sessions import first_row
from bench.stage import Stage, ZoryaServer
from bench.traces import GIB, Trace
from zorya.control.events import EventKind
from zorya.core.capacity import Bounds

CASES = ("variable", "unpredictable", "development")
SHARE = 0.8
"""The part of this machine's cores that the busiest second asks for; the clients need some too."""
MOST_CORES = 4
CACHE_BYTES = GIB
"""The most that is read again and again: the table has to be written first."""
GRACE_S = 0.1
"""A second's work is done in time if it is so long after it: a statement that waits for its turn is no backlog."""
SAMPLE_S = 0.25
CLUSTER = "replay"
IDLE_S = 3.0
"""After so long it is seen how much memory a new engine takes."""

_MODES = {"burst": True, "no burst": False}


@dataclass(frozen=True, kw_only=True)
class Played:
    """What became of one trace, simulated or real."""

    acu_s: float
    unmet_s: int
    changes: int


@dataclass(kw_only=True)
class _Samples(threading.Thread):
    """Looks at a cluster until it is told to stop."""

    server: ZoryaServer
    cluster: str
    seen: list[tuple[float, float, int]] = field(default_factory=list)
    """When, by the monotonic clock, with what capacity, and how much memory was in use."""
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(name="samples")

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Look."""
        while not self.over.wait(SAMPLE_S):
            shown = self.server.api.cluster(self.cluster)
            load = shown["load"]
            self.seen.append((time.monotonic(), shown["capacity"], load["in_use_bytes"] if load else 0))


def measure(stage: Stage, *, seconds: int = 120) -> list[report.Comparison]:
    """Play each case with burst and without, and print what was metered beside what was simulated."""
    chosen = [case for case in traces.cases(days=1) if case.name in CASES]
    compressed = {case.title: compress(case.traces[0], seconds) for case in chosen}
    compared: list[report.Comparison] = []
    for mode, burst in _MODES.items():
        played = [_replay(stage, trace, burst=burst) for trace in compressed.values()]
        simulated, real = zip(*played, strict=True)
        _print(mode, list(compressed), simulated, real)
        compared += _compare(mode, simulated, real)
    return compared


def compress(trace: Trace, seconds: int) -> Trace:
    """Answer a trace of so many seconds, taken from this one, for which this machine has the cores."""
    rng = np.random.default_rng(traces.SEED)
    step = trace.seconds // seconds
    taken = np.arange(seconds) * step + rng.integers(0, step, seconds)
    peak = float(trace.cores[taken].max())
    part = min(1.0, SHARE * min(len(os.sched_getaffinity(0)), MOST_CORES) / peak)
    cache_part = min(part, CACHE_BYTES / float(trace.cache_bytes[taken].max()))
    return replace(
        trace,
        cores=trace.cores[taken] * part,
        memory_bytes=trace.memory_bytes[taken] * part,
        cache_bytes=trace.cache_bytes[taken] * cache_part,
        read_bytes_s=trace.read_bytes_s[taken] * cache_part,
        sessions=np.ceil(trace.sessions[taken] * part),
        at_work=np.ceil(trace.at_work[taken] * part),
    )


def _replay(stage: Stage, trace: Trace, *, burst: bool) -> tuple[Played, Played]:
    """Do it for real, on a server with the unit of the simulation and a new cluster; answer the simulation of it first.

    What is simulated has the work in it that sessions, memory and reads are besides.
    """
    home = stage.folder / "replay"
    bounds = play.bounds_of(trace)
    server = ZoryaServer(
        home,
        burst=str(burst),
        acu_cores=f"{play.ACU.cores:g}",
        acu_memory_mib=str(play.ACU.memory_bytes // 1024**2),
        # Whatever this machine has: the simulation knows no neighbours.
        node_capacity=f"{bounds.most:g}",
        capacity_hold_s="0",
        freeze_after="10",
        pause_after=str(models.PAUSE_AFTER_S),
    )
    try:
        server.pause("main")
        server.api.create({"name": CLUSTER, "min_capacity": bounds.least, "max_capacity": bounds.most})
        costs = _prepare(server, trace, bounds)
        load = server.api.cluster(CLUSTER)["load"]
        base_bytes = load["in_use_bytes"] if load else 0
        asked = costs.added_to(trace, base_bytes)
        outcome = play.Play(asked, models.Zorya(bounds, play.ACU, burst=burst)).run()
        driven = drive.Drive(server.url(CLUSTER), trace, costs=costs, base_bytes=base_bytes)
        real = _play(server, trace, driven, least=bounds.least, asked_core_s=float(asked.cores.sum()))
        for line in server.complaints():
            print(f"  its log: {line}")
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
    return Played(acu_s=outcome.acu_hours * 3600, unmet_s=outcome.unmet_s, changes=outcome.changes), real


def _prepare(server: ZoryaServer, trace: Trace, bounds: Bounds) -> drive.Costs:
    """Make the table, see what things cost, and leave an engine that was just started, with a cold page cache."""
    url = server.url(CLUSTER)
    first_row(url)
    server.api.set_capacity(CLUSTER, bounds.most)
    drive.make_table(url, float(trace.cache_bytes.max()))
    costs = drive.calibrate(url)
    server.pause(CLUSTER)
    leave_page_cache(server.folders(CLUSTER).data)
    first_row(url)
    time.sleep(IDLE_S)
    return costs


def _play(server: ZoryaServer, trace: Trace, driven: drive.Drive, *, least: float, asked_core_s: float) -> Played:
    samples = _Samples(server=server, cluster=CLUSTER)
    with driven:
        _forget(server, least)
        before = server.api.cluster(CLUSTER)
        seq = server.api.events(CLUSTER, after=0, limit=1, wait_s=0, sleep=False)[-1]["seq"]
        samples.start()
        began_s = time.monotonic()
        try:
            done = driven.run()
        finally:
            samples.over.set()
            samples.join()
        after = server.api.cluster(CLUSTER)
    told = server.api.events(CLUSTER, after=seq, limit=1000, wait_s=0, sleep=False)
    acu_s = after["acu_s"] - before["acu_s"]
    _check_meter(samples.seen, acu_s, began_s)
    if before["load"] is not None and after["load"] is not None:
        worked = after["load"]["cpu_s"] - before["load"]["cpu_s"]
        print(f"  {trace.name}: {worked:.1f} core-s, {worked / asked_core_s:.2f} x of what was asked for", flush=True)
    for event in told:
        if event["category"] == "failure":
            print(f"  {event['kind']} {event['message']}")
    tight = {int(at - began_s) for at, acu, in_use in samples.seen if acu and in_use > play.ACU.memory_of(acu)}
    return Played(
        acu_s=acu_s,
        unmet_s=len(_late(done) | {at for at in tight if at < trace.seconds}),
        changes=sum(event["kind"] in {EventKind.SCALED.id, EventKind.SCALED_UNEVENLY.id} for event in told),
    )


def _forget(server: ZoryaServer, least: float) -> None:
    """Have the cluster at its least, and the policy know of nothing before, as in the simulation.

    What the engine's start and its first logins took would else count for half a minute. A server that finds an engine
    begins anew; sessions do not notice.
    """
    server.kill()()
    server.up()
    server.api.resume(CLUSTER)
    server.api.set_capacity(CLUSTER, least)


def _late(done: Sequence[float]) -> set[int]:
    """Answer the seconds at whose end work was left over; `done` is when that of each was."""
    found: set[int] = set()
    for second, at in enumerate(done):
        found.update(range(second, min(len(done), math.ceil(at - GRACE_S) - 1)))
    return found


def _check_meter(seen: Sequence[tuple[float, float, int]], metered: float, began_s: float) -> None:
    """Print how what was metered compares with what was seen from outside."""
    times = [began_s, *(at for at, _, _ in seen)]
    summed = sum((at - before) * acu for before, (at, acu, _) in zip(times, seen, strict=False))
    if summed:
        print(f"  metered {metered:.1f} ACU-s, {metered / summed:.3f} x of what was seen each {SAMPLE_S:g} s")


def _print(mode: str, titles: Sequence[str], simulated: Sequence[Played], real: Sequence[Played]) -> None:
    print(f"\nReplay, {mode}: simulated and real\n  {'':<34} {'ACU-s':>20} {'unmet s':>12} {'changes':>12}")
    for title, one, other in zip(titles, simulated, real, strict=True):
        acu = f"{one.acu_s:.0f} {other.acu_s:.0f} ({other.acu_s / one.acu_s:.2f} x)" if one.acu_s else ""
        unmet, changes = f"{one.unmet_s} {other.unmet_s}", f"{one.changes} {other.changes}"
        print(f"  {title:<34} {acu:>20} {unmet:>12} {changes:>12}", flush=True)


def _compare(mode: str, simulated: Sequence[Played], real: Sequence[Played]) -> list[report.Comparison]:
    return [
        report.show(
            f"Replay of {len(CASES)} use cases, {mode}: {what}",
            report.Series(name="simulated", unit=unit, values=[float(getattr(one, name)) for one in simulated]),
            [report.Series(name="real", unit=unit, values=[float(getattr(one, name)) for one in real])],
            figure="replay",
            shape=report.Shape.VALUES,
        )
        for what, unit, name in (
            ("capacity metered", "ACU-s", "acu_s"),
            ("unmet seconds", "s", "unmet_s"),
            ("changes of capacity", "", "changes"),
        )
    ]
