"""From idle to saturated: how soon the kernel allows more, and what clients notice until then. Then `changes`.

Each round begins with a cluster that was just started, at its lowest capacity, whose sessions are open and idle.
pgbench holds them so, and has all of them begin at the same moment. What is allowed is seen in the files of the
engine's control group.
"""

import itertools
import math
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import changes, report
from bench.sessions import first_row
from bench.stage import MOST_ACU, Stage, ZoryaServer
from zorya.compute import cgroups, limits

LEAST_ACU = 0.5
SESSIONS = 8
IDLE_S = 2.0
"""How long all sessions are idle before they begin; the policy has looked at the new engine twice by then."""
LOAD_S = 3.0
STEADY_S = 1.5
"""From so long after the first statement on, the cluster is taken to have what it needs."""
AIM_MS = 250

HOLD_S = 0.9
"""How long a capacity that is set stays: it is over before the sessions begin, and longer than a change takes."""

_CLUSTER = "step"
_POLL_S = 0.001
_READY_S = 0.8
"""After how much of the time of idleness it is seen to that the capacity is the lowest."""

_BEGIN = f"\\if :begun = 0\n\\sleep {IDLE_S * 1000:.0f} ms\n\\set begun 1\n\\endif\n"
"""Variables of pgbench outlive the transaction, so that each session waits before its first statement only."""

STATEMENTS = {
    # Each of some milliseconds.
    "CPU-bound statements": "SELECT count(*) FROM (SELECT generate_series(1, 50000)) AS numbers;\n",
    "point selects": "\\set aid random(1, 100000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n",
}


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One round."""

    first_ms: float
    """From the first statement until more was allowed; LOAD_S if that never was."""
    whole_ms: float
    """Until as much was allowed as was in the end."""
    reached_acu: float
    early: Sequence[float]
    """How long the statements took that began in the first second, in milliseconds."""
    steady: Sequence[float]
    """And those that began later than STEADY_S."""


def measure(
    stage: Stage, *, rounds: int = 30, changes_made: int = 1000, paced_turns: int = 8
) -> list[report.Comparison]:
    """Print what a load step costs with burst and without, and then what changes of capacity cost by themselves."""
    with _server(stage, burst=True) as bursting, _server(stage, burst=False) as capped:
        servers = {"burst": bursting, "no burst": capped}
        compared: list[report.Comparison] = []
        for name, script in STATEMENTS.items():
            steps: dict[str, list[_Step]] = defaultdict(list)
            for _ in range(rounds):
                for mode, server in servers.items():
                    steps[mode].append(_step(stage, server, _BEGIN + script))
            compared += _show(name, steps)
        for mode, server in servers.items():
            compared += changes.measure(
                stage, server, _CLUSTER, mode=mode, number=changes_made, paced_turns=paced_turns
            )
            for line in server.complaints():
                print(f"  its log: {line}")
    return compared


@contextmanager
def _server(stage: Stage, *, burst: bool) -> Iterator[ZoryaServer]:
    """Run a server whose cluster has all cores of this machine at its highest capacity."""
    home = stage.folder / ("burst" if burst else "capped")
    # How often an engine is asked what it does depends on when it is to freeze, so that is the product's default.
    server = ZoryaServer(home, burst=str(burst), capacity_hold_s=f"{HOLD_S:g}", freeze_after="10")
    try:
        server.cli("create", _CLUSTER, "--min-capacity", f"{LEAST_ACU:g}", "--max-capacity", f"{MOST_ACU:g}")
        stage.make_tables(1, server.url(_CLUSTER))
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def _step(stage: Stage, server: ZoryaServer, script: str) -> _Step:
    # An engine that starts has no history: what was needed in the round before would have it grow at once to that.
    server.pause(_CLUSTER)
    url = server.url(_CLUSTER)
    first_row(url)
    read = _weight_file(server.engine_pid(_CLUSTER))
    logs = stage.folder / "step"
    logs.mkdir()
    path = logs / "script.sql"
    path.write_text(script)
    process = subprocess.Popen(
        [
            str(stage.program_folder / "pgbench"),
            *("--no-vacuum", "--protocol=prepared", f"--file={path}", "--define=begun=0"),
            *(f"--client={SESSIONS}", "--jobs=2", f"--time={math.ceil(IDLE_S + LOAD_S)}"),
            *("--log", f"--log-prefix={logs / 'run'}"),
            url,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(_READY_S)
    # Starting and letting sessions in may have taken more than the least.
    server.api.set_capacity(_CLUSTER, LEAST_ACU)
    seen = list(_follow(read, process))
    _, problem = process.communicate()
    if process.returncode:
        raise RuntimeError(f"pgbench: {problem}")
    statements = _read_logs(logs)
    shutil.rmtree(logs)
    return _judge(seen, statements)


def _weight_file(pid: int) -> Callable[[], float]:
    """Answer what reads the capacity that the kernel has been told, in ACUs, from the file that is written last."""
    for hierarchy in cgroups.of_this_process():
        folder = cgroups.group_of(pid, hierarchy)
        name = limits.FILES["cpu", hierarchy.version][-1]
        if hierarchy.controller in {"", "cpu"} and folder is not None and (folder / name).exists():
            unit = limits.weight_of(1, hierarchy.version)
            return lambda: int(cgroups.read(folder, name)) / unit
    raise RuntimeError("This host has no control groups for cores, in which changes could be seen.")


def _follow(read: Callable[[], float], process: subprocess.Popen[str]) -> Iterator[tuple[float, float]]:
    """Answer what is allowed, and from when on, at the beginning and whenever it changes until the process ends."""
    last = math.nan
    while process.poll() is None:
        now = read()
        if now != last:
            yield time.time(), now
            last = now
        time.sleep(_POLL_S)


def _read_logs(logs: Path) -> list[tuple[float, float]]:
    """Answer when each statement began, by the wall clock, and how long it took, in milliseconds."""
    found: list[tuple[float, float]] = []
    for path in logs.glob("run*"):
        known: set[str] = set()
        for line in path.read_text().splitlines():
            # client, number, microseconds, script, when it ended (pgbench, "Per-Transaction Logging")
            client, _, took_us, _, end_s, end_us = line.split()[:6]
            took_s = int(took_us) / 1e6
            if client not in known:
                known.add(client)
                took_s -= IDLE_S
            found.append((int(end_s) + int(end_us) / 1e6 - took_s, took_s * 1000))
    return found


def _judge(seen: Sequence[tuple[float, float]], statements: Sequence[tuple[float, float]]) -> _Step:
    begun = min(at for at, _ in statements)
    raised = [(at, acu) for (_, before), (at, acu) in itertools.pairwise(seen) if acu > before and at >= begun]
    never = (begun + LOAD_S, seen[-1][1])
    first, whole = (raised[0], raised[-1]) if raised else (never, never)
    return _Step(
        first_ms=(first[0] - begun) * 1000,
        whole_ms=(whole[0] - begun) * 1000,
        reached_acu=whole[1],
        early=[took for at, took in statements if at < begun + 1],
        steady=[took for at, took in statements if at >= begun + STEADY_S],
    )


def _show(name: str, steps: dict[str, list[_Step]]) -> list[report.Comparison]:
    def series(label: str, take: Callable[[_Step], float]) -> list[report.Series]:
        return [
            report.Series(name=f"{mode}, {label}", unit="ms", values=[take(one) for one in done])
            for mode, done in steps.items()
        ]

    first, *others = series("more", lambda one: one.first_ms) + series("all", lambda one: one.whole_ms)
    applied = report.show(
        f"Load step to capacity applied, {name}",
        first,
        others,
        figure="scaling",
        shape=report.Shape.DISTRIBUTION,
        aim=f"{AIM_MS} ms",
    )
    for one in (first, *others):
        print(f"  {one.name}: p50 {report.percentile(one.values, 50):.0f} ms, p99 {one.p99:.0f} ms")
    for mode, done in steps.items():
        reached = sorted({one.reached_acu for one in done})
        print(f"  {mode}: reached {reached[0]:g} to {reached[-1]:g} ACUs; no statement failed", flush=True)
    compared = [applied]
    for what, pick in _STATISTICS.items():
        parts = {"steady": [[pick(one.steady) for one in done] for done in steps.values()]}
        parts["first second"] = [[pick(one.early) for one in done] for done in steps.values()]
        baseline, *rest = (
            report.Series(name=f"{mode}, {part}", unit="ms", values=values)
            for part, lists in parts.items()
            for mode, values in zip(steps, lists, strict=True)
        )
        compared.append(
            report.show(f"Latency over a load step, {name}: {what}", baseline, rest, figure="scaling-latency")
        )
    return compared


_STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "p50": lambda values: report.percentile(values, 50),
    "p99": lambda values: report.percentile(values, 99),
    "worst": max,
}
