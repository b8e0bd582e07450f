"""New connections, with TLS and without, through the endpoint, the shared port and PgBouncer, against direct ones.

At the shared port the gateway has to answer the request for TLS before it learns which cluster is meant, or to take
something out of the startup packet. Such a client can be handed over with a prologue or be relayed; both are measured
here, with new connections and with statements in sessions that stay open, and compared with each other.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench import load, report, ways
from bench.load import Turns, Workload
from bench.stage import Stage, ZoryaServer, pgbouncer
from bench.ways import Engines, Way

CLIENTS = (1, 8)
SESSION_CLIENTS = 8
CONNECTIONS = "New connections"
SELECTS = "Selects in open sessions"
AGAINST_RELAY = "Shared port, prologue against relay"

_PROLOGUE = "shared port, prologue"
_RELAY = "shared port, relay"
_CONNECTIONS = Workload(name=CONNECTIONS, options=load.CONNECTIONS, reconnects=True, turns=4, seconds=1)
_SELECTS = Workload(name=SELECTS, options=load.SELECTS, sampled=0.2, turns=4, seconds=1)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Ways that are compared with each other, the direct one first."""

    name: str
    opened: Sequence[Way]


def measure(stage: Stage, *, turns: int | None = None) -> list[report.Comparison]:
    """Run both workloads over each way in turn; print the ratios to direct, and those of prologue to relay.

    `turns` is in place of the workloads' own numbers.
    """
    with ExitStack() as stack:
        shown: list[report.Comparison] = []
        against_relay: list[report.Comparison] = []
        for group in _open(stage, stack):
            for workload, several in ((_CONNECTIONS, CLIENTS), (_SELECTS, (SESSION_CLIENTS,))):
                named = replace(workload, name=f"{workload.name}, {group.name}")
                chosen = group.opened if workload.reconnects else _of_the_choice(group.opened)
                for clients in several:
                    measured = load.take_turns(stage, named, clients, chosen, turns or named.turns)
                    shown += load.show(
                        named, clients, measured, rate_figure="handshakes", time_figure="handshakes-time"
                    )
                    against_relay.append(_compare(load.title(named, clients), measured))
        return shown + against_relay


def _of_the_choice(opened: Sequence[Way]) -> list[Way]:
    return [opened[0], *(way for way in opened if way.name in (_PROLOGUE, _RELAY))]


def _compare(title: str, measured: Turns) -> report.Comparison:
    relay, prologue = (
        report.Series(name=name, unit="tps", values=[one.rate for one in measured[name]])
        for name in (_RELAY, _PROLOGUE)
    )
    return report.show(f"{AGAINST_RELAY}: {title}", relay, [prologue], figure="prologue", aim="above 1 x")


def _open(stage: Stage, stack: ExitStack) -> list[_Group]:
    """Start everything."""
    engines = ways.start(stage, stack)
    through_pgbouncer = stack.enter_context(pgbouncer(stage, sslmode="require"))
    groups = [
        _Group(name="TLS", opened=_with_tls(stage, engines, through_pgbouncer)),
        _Group(name="plain", opened=_plain(stage, engines)),
    ]
    for group in groups:
        for way in group.opened:
            ways.check(way)
    return groups


def _with_tls(stage: Stage, engines: Engines, through_pgbouncer: str | None) -> list[Way]:
    def shared(server: ZoryaServer) -> str:
        # The name is in the TLS hello. The address is given, so that nothing has to find it.
        return stage.main_url(server.shared_port, host="main.zorya.localhost", hostaddr="127.0.0.1", sslmode="require")

    opened = [
        Way(name="direct", url=stage.bare_url(sslmode="require"), engine=engines.bare, engine_tls=True),
        Way(
            name="own port, handoff",
            url=stage.server.url("main", sslmode="require"),
            engine=engines.behind_handoff,
            handed_over=True,
            engine_tls=True,
        ),
        Way(
            name=_PROLOGUE,
            url=shared(stage.server),
            engine=engines.behind_handoff,
            handed_over=True,
            engine_tls=True,
        ),
        Way(name=_RELAY, url=shared(engines.relaying), engine=engines.behind_relay, engine_tls=True),
    ]
    if through_pgbouncer is None:
        print("\nPgBouncer is not installed: no comparison with it.")
    else:
        opened.append(Way(name=ways.PGBOUNCER, url=through_pgbouncer, engine=engines.bare))
    return opened


def _plain(stage: Stage, engines: Engines) -> list[Way]:
    def shared(server: ZoryaServer) -> str:
        # The engine would not take this option, so that the gateway changes the startup packet.
        return stage.main_url(server.shared_port, options="endpoint=main")

    return [
        Way(name="direct", url=stage.bare_url(), engine=engines.bare),
        Way(name="own port, handoff", url=stage.server.url("main"), engine=engines.behind_handoff, handed_over=True),
        Way(name=_PROLOGUE, url=shared(stage.server), engine=engines.behind_handoff, handed_over=True),
        Way(name=_RELAY, url=shared(engines.relaying), engine=engines.behind_relay),
    ]
