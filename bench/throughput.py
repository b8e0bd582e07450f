"""pgbench through handoff, through the relay and through PgBouncer in session mode, against a direct connection.

For MariaDB it is sysbench, and there is no PgBouncer. See `ways` for the engines. What handoff differs from "direct,
Zorya's engine" is the way to that engine.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from bench import load, mariadb, report, ways
from bench.load import Workload
from bench.stage import Stage, pgbouncer
from bench.ways import CONTROL, Way
from zorya.core.model import EngineKind

CLIENTS = (1, 8, 32)
AIM = "handoff 0.98 x or better"

_SELECTS = "Prepared point selects"
_WORKLOADS: Mapping[EngineKind, Sequence[Workload]] = {
    EngineKind.POSTGRES: (
        Workload(name=_SELECTS, options=load.SELECTS, sampled=0.2, turns=8, seconds=1),
        Workload(name="TPC-B, prepared", options=("--protocol=prepared",), writes=True, turns=4, seconds=2),
        Workload(name="A connection for each select", options=load.CONNECTIONS, reconnects=True, turns=4, seconds=2),
    ),
    EngineKind.MARIADB: (
        Workload(name=_SELECTS, options=(mariadb.SELECTS,), turns=8, seconds=1),
        Workload(name="OLTP, read and write", options=(mariadb.READ_WRITE,), writes=True, turns=10, seconds=2),
        Workload(
            name="A connection for each select", options=(mariadb.CONNECTIONS,), reconnects=True, turns=4, seconds=2
        ),
    ),
}


def measure(stage: Stage, *, turns: int | None = None) -> list[report.Comparison]:
    """Run each workload over each way in turn and print the ratios.

    `turns` is in place of the workloads' own numbers. The control is measured with the selects alone.
    """
    with ExitStack() as stack:
        opened = _open(stage, stack)
        shown: list[report.Comparison] = []
        for workload in _WORKLOADS[stage.engine]:
            chosen = [way for way in opened if workload.name == _SELECTS or way.name != CONTROL]
            for clients in CLIENTS:
                measured = load.take_turns(stage, workload, clients, chosen, turns or workload.turns)
                shown += load.show(
                    workload, clients, measured, rate_figure="throughput", time_figure="latency", aim=AIM
                )
        return shown


def _open(stage: Stage, stack: ExitStack) -> list[Way]:
    """Start everything, "direct" first."""
    engines = ways.start(stage, stack)
    handoff, relay = engines.behind_handoff, engines.behind_relay
    relay_port = engines.relaying.api.cluster("main")["endpoint"]["port"]
    opened = [
        Way(name="direct", url=stage.bare_url(), engine=engines.bare),
        Way(name="handoff", url=stage.server.url("main"), engine=handoff, handed_over=True),
        Way(name=CONTROL, url=stage.main_url(handoff.port), engine=handoff),
        Way(name="relay", url=stage.main_url(relay_port), engine=relay),
    ]
    if stage.engine is EngineKind.POSTGRES:
        through_pgbouncer = stack.enter_context(pgbouncer(stage))
        if through_pgbouncer is None:
            print("\nPgBouncer is not installed: no comparison with it.")
        else:
            opened.append(Way(name=ways.PGBOUNCER, url=through_pgbouncer, engine=engines.bare))
    for way in opened:
        ways.check(way)
    return opened
