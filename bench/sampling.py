"""What it costs Zorya's server to look after running clusters: its processor time, with none running and with many."""

import shutil
import threading
import time
from contextlib import ExitStack

import psycopg

from bench import report
from bench.rest import processor_ns
from bench.sessions import first_row
from bench.stage import Stage, ZoryaServer

BUSY = 10
"""Clusters under light load."""
ASKED_EVERY_S = 0.1
"""How often each of those is asked something."""
FIRST_PORT = 33000
"""Of so many ports that they are a range of their own."""
SPELLS = 6
SETTLE_S = 12
"""After it last had something to do an engine has been asked once more by then, and its log is at rest."""


def measure(stage: Stage, *, clusters: int = 100, seconds: int = 5) -> list[report.Comparison]:
    """Print the server's processor time as a part of a core, in several spells of `seconds` each.

    Clusters are awake and never freeze. The sessions of those under load are the engines', so that no byte of what they
    say goes through the server.
    """
    home = stage.folder / "many"
    server = ZoryaServer(
        home,
        port_range=f"{FIRST_PORT}-{FIRST_PORT + clusters + 9}",
        # So that nobody gets less than it wants.
        node_capacity=str(2 * clusters),
    )
    try:
        names = [f"c{number}" for number in range(clusters)]
        for name in names:
            server.api.create({"name": name, "max_capacity": 1.0})
        server.pause("main")
        none = _shares(server, seconds)
        for name in names:
            first_row(server.url(name))
        time.sleep(SETTLE_S)
        idle = _shares(server, seconds)
        loaded = _under_load(server, names[:BUSY], seconds)
        awake = sum(one["compute"] == "running" for one in server.api.clusters())
        if awake != clusters:
            raise RuntimeError(f"{awake} clusters run")
        for line in server.complaints():
            print(f"  its log: {line}")
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
    compared = report.show(
        f"Processor time of Zorya's server, {clusters} clusters",
        report.Series(name="all stopped", unit="%", values=none),
        [
            report.Series(name="all running, idle", unit="%", values=idle),
            report.Series(name=f"and {BUSY} of them under light load", unit="%", values=loaded),
        ],
        figure="sampling",
        shape=report.Shape.VALUES,
    )
    a_cluster = (compared.others[0].median - compared.baseline.median) / clusters
    print(f"  a running cluster costs {a_cluster * 10:.3f} ms a second", flush=True)
    return [compared]


def _under_load(server: ZoryaServer, names: list[str], seconds: int) -> list[float]:
    over = threading.Event()

    def ask() -> None:
        with ExitStack() as stack:
            sessions = [
                stack.enter_context(psycopg.connect(server.url(name), autocommit=True, prepare_threshold=0))
                for name in names
            ]
            while not over.wait(ASKED_EVERY_S):
                for session in sessions:
                    session.execute("SELECT count(*) FROM generate_series(1, 1000)").fetchone()

    asking = threading.Thread(target=ask, name="light load")
    asking.start()
    try:
        time.sleep(2)
        shares = _shares(server, seconds)
    finally:
        over.set()
        asking.join()
    return shares


def _shares(server: ZoryaServer, seconds: int) -> list[float]:
    """Answer the percentage of a core that the server takes, spell by spell."""
    pid, shares = server.pid, []
    for _ in range(SPELLS):
        began_s, before_ns = time.monotonic(), processor_ns([pid])
        time.sleep(seconds)
        used_s = (processor_ns([pid]) - before_ns) / 1e9
        shares.append(100 * used_s / (time.monotonic() - began_s))
    return shares
