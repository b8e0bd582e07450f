"""pgbench with TLS on every way: the engine's own, directly, handed over and relayed, Zorya's, and PgBouncer's.

The baseline is a direct connection with TLS to an engine with the same certificate and settings. Zorya's own TLS is
measured at the shared port, with clients that name their cluster only within TLS; the session that wakes a stopped
cluster goes the same way. Both PgBouncer and Zorya's TLS go on to the engine without TLS.
"""

from contextlib import ExitStack

from bench import load, report, ways
from bench.load import Workload
from bench.stage import Stage, pgbouncer
from bench.ways import CONTROL, Way

CLIENTS = (1, 8, 32)
TITLE = "Prepared point selects over TLS"
AIM = "handoff 0.98 x or better"

_WORKLOAD = Workload(name=TITLE, options=load.SELECTS, sampled=0.2, turns=4, seconds=1)


def measure(stage: Stage, *, turns: int = _WORKLOAD.turns) -> list[report.Comparison]:
    """Run the selects over each way in turn and print the ratios."""
    with ExitStack() as stack:
        opened = _open(stage, stack)
        shown: list[report.Comparison] = []
        for clients in CLIENTS:
            measured = load.take_turns(stage, _WORKLOAD, clients, opened, turns)
            shown += load.show(_WORKLOAD, clients, measured, rate_figure="tls", time_figure="tls-latency", aim=AIM)
        return shown


def _open(stage: Stage, stack: ExitStack) -> list[Way]:
    """Start everything, "direct" first."""
    engines = ways.start(stage, stack)
    handoff, relay = engines.behind_handoff, engines.behind_relay
    relay_port = engines.relaying.api.cluster("main")["endpoint"]["port"]
    # A host that is an address is not named in the TLS hello.
    named_within = stage.main_url(stage.server.shared_port, sslmode="require", options="-czorya.cluster=main")
    opened = [
        Way(name="direct", url=stage.bare_url(sslmode="require"), engine=engines.bare, engine_tls=True),
        Way(
            name="handoff",
            url=stage.server.url("main", sslmode="require"),
            engine=handoff,
            handed_over=True,
            engine_tls=True,
        ),
        Way(name=CONTROL, url=stage.main_url(handoff.port, sslmode="require"), engine=handoff, engine_tls=True),
        Way(
            name="relay, PostgreSQL's TLS",
            url=stage.main_url(relay_port, sslmode="require"),
            engine=relay,
            engine_tls=True,
        ),
        Way(name="relay, Zorya's TLS", url=named_within, engine=handoff),
    ]
    through_pgbouncer = stack.enter_context(pgbouncer(stage, sslmode="require"))
    if through_pgbouncer is None:
        print("\nPgBouncer is not installed: no comparison with it.")
    else:
        opened.append(Way(name=ways.PGBOUNCER, url=through_pgbouncer, engine=engines.bare))
    for way in opened:
        ways.check(way)
    return opened
