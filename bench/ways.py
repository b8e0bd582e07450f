"""The engines that clients are measured with, and the ways to them. All are reached over loopback TCP.

The engines hold copies of the same data, with the same configuration. "Bare" runs without the handoff library and
outside Zorya's control groups. As a control, the engine behind the handoff can also be reached directly: where that
differs from the bare one, it is the engine's process, its place in memory or noise.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench import mariadb
from bench.sessions import first_row
from bench.stage import PGBENCH_TABLES, Stage, ZoryaServer, administer, relay_server
from zorya.core.model import EngineKind

CONTROL = "direct, Zorya's engine"
PGBOUNCER = "PgBouncer, session mode"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running engine: where its administrator gets in, and its own TCP port."""

    sockets: Path
    port: int
    kind: EngineKind = EngineKind.POSTGRES


@dataclass(frozen=True, kw_only=True)
class Engines:
    """All engines that run, and the server that relays."""

    bare: Engine
    behind_handoff: Engine
    behind_relay: Engine
    relaying: ZoryaServer


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to an engine, and by what the session shows that it came this way."""

    name: str
    url: str
    engine: Engine
    handed_over: bool = False
    """Whether the engine has the client's own connection, which came to another port than the engine's."""
    engine_tls: bool = False
    """Whether the engine itself does TLS."""


def start(stage: Stage, stack: ExitStack) -> Engines:
    """Start all engines, and read all data into the buffers of each."""
    relaying = stack.enter_context(relay_server(stage))
    stage.bare.start()
    stack.callback(stage.bare.stop)
    for url in (stage.bare_url(), stage.server.url("main")):
        first_row(url)
    for server, attach in ((stage.server, "handoff"), (relaying, "relay")):
        shown = server.api.cluster("main")
        if shown["attach"] != attach:
            raise RuntimeError(f"There is no {attach}: {shown['attach_reason']}")
    engines = Engines(
        bare=Engine(sockets=stage.bare.sockets, port=stage.bare.port, kind=stage.engine),
        behind_handoff=_of(stage.server),
        behind_relay=_of(relaying),
        relaying=relaying,
    )
    for engine in (engines.bare, engines.behind_handoff, engines.behind_relay):
        settle(engine)
        read_all = mariadb.read_all if stage.engine is EngineKind.MARIADB else _read_all
        read_all(stage.main_url(engine.port))
    return engines


def check(way: Way) -> None:
    """Raise RuntimeError if a session does not reach the engine as the way says."""
    port, engine_tls = look(way.url)
    if (port != way.engine.port, engine_tls) != (way.handed_over, way.engine_tls):
        raise RuntimeError(f"{way.name} is another way than it says: port {port}, TLS of the engine: {engine_tls}")


def look(url: str) -> tuple[int, bool]:
    """Answer at which port a session has come in, as its engine sees it, and whether the engine does its TLS."""
    if url.startswith(f"{EngineKind.MARIADB.scheme}:"):
        return mariadb.look(url)
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT inet_server_port(), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def settle(engine: Engine) -> None:
    """Bring the engine to where it was before anything was written, as far as it is not there by itself."""
    if engine.kind is EngineKind.MARIADB:
        return
    tables = ", ".join(PGBENCH_TABLES)
    administer(engine.sockets, engine.port, "TRUNCATE pgbench_history", f"VACUUM ANALYZE {tables}", "CHECKPOINT")


def _of(server: ZoryaServer) -> Engine:
    return Engine(sockets=server.folders("main").socket, port=server.engine_port("main"), kind=server.engine)


def _read_all(url: str) -> None:
    """Read every row by its index: a scan of the table alone would leave most of it out of the shared buffers."""
    with psycopg.connect(url) as connection:
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET enable_indexonlyscan = off")
        connection.execute("SELECT sum(abalance) FROM pgbench_accounts WHERE aid > 0").fetchone()
