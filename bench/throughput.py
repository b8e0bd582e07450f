"""pgbench through handoff, through the relay and through PgBouncer in session mode, against a direct connection.

All reach PostgreSQL over loopback TCP; the engines hold copies of the same data, with the same configuration. "Direct"
is a bare engine without the handoff library and outside Zorya's control groups. As a control, the engine behind the
handoff is also reached directly: where "direct, Zorya's engine" differs from "direct", that is the engine's process,
its place in memory or noise, and what handoff differs from "direct, Zorya's engine" is the way to it.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench import report
from bench.stage import PGBENCH_TABLES, Stage, ZoryaServer, administer, first_row, pgbouncer, relay_server

SCALE = 10
CLIENTS = (1, 8, 32)
CONTROL = "direct, Zorya's engine"
AIM = "handoff 0.98 x or better"


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One way to an engine, and where that engine's administrator gets in."""

    name: str
    url: str
    sockets: Path
    port: int


@dataclass(frozen=True, kw_only=True)
class _Workload:
    """What pgbench does."""

    name: str
    options: Sequence[str]
    writes: bool = False
    reconnects: bool = False
    sampled: float = 1.0
    """The share of the transactions whose latency is written down."""
    controlled: bool = False
    """Whether the control is measured as well."""
    turns: int
    """An even number: each way comes as often before another as after it."""
    seconds: int


_WORKLOADS = (
    _Workload(
        name="Prepared point selects",
        options=("--select-only", "--protocol=prepared"),
        sampled=0.2,
        controlled=True,
        turns=8,
        seconds=1,
    ),
    _Workload(name="TPC-B, prepared", options=("--protocol=prepared",), writes=True, turns=4, seconds=2),
    _Workload(
        name="A connection for each select",
        options=("--select-only", "--connect"),
        reconnects=True,
        turns=4,
        seconds=2,
    ),
)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One run of pgbench."""

    rate: float
    median_us: float
    p99_us: float


def measure(stage: Stage, *, turns: int | None = None) -> list[report.Comparison]:
    """Run each workload over each way in turn and print the ratios. Every other turn goes through the ways backwards.

    Before each run that writes, its engine's tables are vacuumed and a checkpoint is made. `turns` is in place of the
    workloads' own numbers.
    """
    with ExitStack() as stack:
        ways = _open(stage, stack)
        shown: list[report.Comparison] = []
        for workload in _WORKLOADS:
            chosen = [way for way in ways if workload.controlled or way.name != CONTROL]
            for clients in CLIENTS:
                measured = _take_turns(stage, workload, clients, chosen, turns or workload.turns)
                shown += _show(workload, clients, measured)
        return shown


def _open(stage: Stage, stack: ExitStack) -> list[_Way]:
    """Start everything, "direct" first, and read all data into each engine's own buffers."""
    relaying = stack.enter_context(relay_server(stage))
    stage.bare.start()
    stack.callback(stage.bare.stop)
    first_row(stage.bare_url())

    direct = _Way(name="direct", url=stage.bare_url(), sockets=stage.bare.sockets, port=stage.bare.port)
    handoff = _through(stage, stage.server, "handoff")
    relay = _through(stage, relaying, "relay")
    control = _Way(name=CONTROL, url=stage.main_url(handoff.port), sockets=handoff.sockets, port=handoff.port)
    ways = [direct, handoff, control, relay]
    through_pgbouncer = stack.enter_context(pgbouncer(stage))
    if through_pgbouncer is None:
        print("\nPgBouncer is not installed: no comparison with it.")
    else:
        name = "PgBouncer, session mode"
        ways.append(_Way(name=name, url=through_pgbouncer, sockets=direct.sockets, port=direct.port))
    for way in ways:
        _settle(way)
        _read_all(way.url)
    return ways


def _through(stage: Stage, server: ZoryaServer, attach: str) -> _Way:
    url = stage.main_url(server.api.cluster("main")["endpoint"]["port"])
    first_row(url)
    shown = server.api.cluster("main")
    if shown["attach"] != attach:
        raise RuntimeError(f"There is no {attach}: {shown['attach_reason']}")
    return _Way(name=attach, url=url, sockets=server.folders("main").socket, port=server.engine_port("main"))


def _settle(way: _Way) -> None:
    """Bring the engine to where it was before anything was written."""
    tables = ", ".join(PGBENCH_TABLES)
    administer(way.sockets, way.port, "TRUNCATE pgbench_history", f"VACUUM ANALYZE {tables}", "CHECKPOINT")


def _read_all(url: str) -> None:
    """Read every row by its index: a scan of the table alone would leave most of it out of the shared buffers."""
    with psycopg.connect(url) as connection:
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET enable_indexonlyscan = off")
        connection.execute("SELECT sum(abalance) FROM pgbench_accounts WHERE aid > 0").fetchone()


def _take_turns(
    stage: Stage, workload: _Workload, clients: int, ways: Sequence[_Way], turns: int
) -> Mapping[str, Sequence[_Measured]]:
    measured: dict[str, list[_Measured]] = {way.name: [] for way in ways}
    for number in range(turns):
        for way in ways if number % 2 == 0 else reversed(ways):
            if workload.writes:
                _settle(way)
            measured[way.name].append(_run(stage, workload, clients, way))
    return measured


def _show(
    workload: _Workload, clients: int, measured: Mapping[str, Sequence[_Measured]]
) -> Iterator[report.Comparison]:
    title = f"{workload.name}, {clients} client{'' if clients == 1 else 's'}"
    parts: list[tuple[str, str, Callable[[_Measured], float]]] = [("throughput", "tps", lambda one: one.rate)]
    if workload.reconnects:
        # What pgbench writes down for each transaction leaves the connection's time out.
        parts.append(("mean time", "us", lambda one: clients / one.rate * 1e6))
    else:
        parts.append(("median latency", "us", lambda one: one.median_us))
        parts.append(("p99 latency", "us", lambda one: one.p99_us))
    for what, unit, take in parts:
        first, *others = (
            report.Series(name=name, unit=unit, values=[take(one) for one in runs]) for name, runs in measured.items()
        )
        yield report.show(
            f"{title}: {what}",
            first,
            others,
            figure="throughput" if unit == "tps" else "latency",
            aim=AIM if unit == "tps" else "",
        )


def _run(stage: Stage, workload: _Workload, clients: int, way: _Way) -> _Measured:
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
    return _Measured(rate=float(rate[1]), median_us=report.percentile(times, 50), p99_us=report.percentile(times, 99))
