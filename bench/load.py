"""What pgbench, or sysbench, does over several ways to engines, in turns, and how that is shown."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench import mariadb, report, ways
from bench.stage import Stage
from bench.ways import Way
from zorya.core.model import EngineKind

SCALE = 10
"""Of pgbench's tables, or sysbench's."""

SELECTS = ("--select-only", "--protocol=prepared")
CONNECTIONS = ("--select-only", "--connect")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What pgbench does, or sysbench, whose test is the first of the options."""

    name: str
    options: Sequence[str]
    writes: bool = False
    reconnects: bool = False
    sampled: float = 1.0
    """The share of the transactions whose latency is written down."""
    turns: int
    """An even number: each way comes as often before another as after it."""
    seconds: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run."""

    rate: float
    median_us: float
    p99_us: float


Turns = Mapping[str, Sequence[Measured]]
"""For each way, by its name, one run a turn."""


def take_turns(stage: Stage, workload: Workload, clients: int, chosen: Sequence[Way], turns: int) -> Turns:
    """Run the workload over each way in turn; every other turn goes through them backwards.

    Before each run that writes, its engine's tables are vacuumed and a checkpoint is made.
    """
    measured: dict[str, list[Measured]] = {way.name: [] for way in chosen}
    for number in range(turns):
        for way in chosen if number % 2 == 0 else reversed(chosen):
            if workload.writes:
                ways.settle(way.engine)
            measured[way.name].append(_run(stage, workload, clients, way))
    return measured


def title(workload: Workload, clients: int) -> str:
    """Answer what the workload with so many clients is called."""
    return f"{workload.name}, {clients} client{'' if clients == 1 else 's'}"


def show(
    workload: Workload, clients: int, measured: Turns, *, rate_figure: str, time_figure: str, aim: str = ""
) -> Iterator[report.Comparison]:
    """Print rates and times as ratios to the first way's. The aim is for the rates."""
    parts: list[tuple[str, str, Callable[[Measured], float]]] = [("throughput", "tps", lambda one: one.rate)]
    if workload.reconnects:
        # What is written down for each transaction may leave the connection's time out.
        parts.append(("mean time", "us", lambda one: clients / one.rate * 1e6))
    else:
        parts.append(("median latency", "us", lambda one: one.median_us))
        parts.append(("p99 latency", "us", lambda one: one.p99_us))
    for what, unit, take in parts:
        first, *others = (
            report.Series(name=name, unit=unit, values=[take(one) for one in runs]) for name, runs in measured.items()
        )
        is_rate = unit == "tps"
        yield report.show(
            f"{title(workload, clients)}: {what}",
            first,
            others,
            figure=rate_figure if is_rate else time_figure,
            aim=aim if is_rate else "",
        )


def _run(stage: Stage, workload: Workload, clients: int, way: Way) -> Measured:
    run = _run_sysbench if stage.engine is EngineKind.MARIADB else _run_pgbench
    return run(stage, workload, clients, way)


def _run_sysbench(stage: Stage, workload: Workload, clients: int, way: Way) -> Measured:  # noqa: ARG001
    test, *options = workload.options
    output = mariadb.sysbench(
        test,
        "run",
        *options,
        *(f"--threads={clients}", f"--time={workload.seconds}", "--histogram=on"),
        f"--table-size={SCALE * mariadb.ROWS_A_SCALE}",
        url=way.url,
    )
    rate, counts = mariadb.histogram(output)
    return Measured(rate=rate, median_us=_percentile_us(counts, 50), p99_us=_percentile_us(counts, 99))


def _percentile_us(counts: Sequence[tuple[float, int]], percent: float) -> float:
    """Answer the shortest time, of `counts` in milliseconds, that at least `percent` of all do not exceed."""
    wanted = sum(count for _, count in counts) * percent / 100
    passed = 0
    for time_ms, count in counts:
        passed += count
        if passed >= wanted:
            return time_ms * 1000
    raise RuntimeError("sysbench has counted no transaction; the table may be missing")


def _run_pgbench(stage: Stage, workload: Workload, clients: int, way: Way) -> Measured:
    logs = stage.folder / "pgbench"
    logs.mkdir()
    # A thread of pgbench waits while it connects, so that each client needs its own where that is what is measured.
    jobs = clients if workload.reconnects else min(clients, 2)
    output = stage.pgbench(
        *workload.options,
        *("--no-vacuum", f"--client={clients}", f"--jobs={jobs}", f"--time={workload.seconds}"),
        *("--log", f"--log-prefix={logs / 'run'}", f"--sampling-rate={workload.sampled}"),
        url=way.url,
    )
    rate = re.search(r"tps = ([\d.]+)", output)
    if rate is None:
        raise RuntimeError(f"pgbench said something else: {output}")
    # The third value of each line is the transaction's time in microseconds (pgbench, "Per-Transaction Logging").
    times = [int(line.split()[2]) for path in logs.iterdir() for line in path.read_text().splitlines()]
    shutil.rmtree(logs)
    return Measured(rate=float(rate[1]), median_us=report.percentile(times, 50), p99_us=report.percentile(times, 99))
