"""The processor time of a frozen cluster with open sessions, and of the server that watches it."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import report
from bench.sessions import Session, first_row
from bench.stage import Stage
from zorya.compute import procfs

SETTLE_S = 70
"""What happens once after a session has fallen silent is over by then: its memory is given back, and timers of its own
thaw the engine for a moment: one to write statistics (PGSTAT_IDLE_INTERVAL, 10 s), and that of authentication_timeout
(60 s), which PostgreSQL leaves running and ignores when it fires."""

_PROC = Path("/proc")


def measure(stage: Stage, *, seconds: int = 60, sessions: int = 10) -> list[report.Comparison]:
    """Let a frozen cluster and a bare engine rest with as many sessions for as long, and print what each has used.

    No other cluster of the server is up, and nothing is asked of it meanwhile.
    """
    server = stage.server
    server.pause("main")
    server.create("rester", "--freeze-after", "0.5", "--pause-after", "never")
    stage.bare.start()
    # With MariaDB the session that wakes is relayed.
    for url in (server.url("rester"), stage.bare_url()):
        first_row(url)
    try:
        with ExitStack() as stack:
            opened = [
                stack.enter_context(Session(url))
                for url in (server.url("rester"), stage.bare_url())
                for _ in range(sessions)
            ]
            server.await_frozen("rester")
            time.sleep(SETTLE_S)
            server.await_frozen("rester")
            used = _use(stage, seconds)
            if server.api.cluster("rester")["compute"] != "frozen":
                raise RuntimeError("the cluster did not stay frozen")
            for session in opened:
                session.value("SELECT 1")
    finally:
        stage.bare.stop()
        server.cli("delete", "rester", "--yes")
    bare, *others = (report.Series(name=name, unit="ms", values=[value]) for name, value in used.items())
    return [
        report.show(
            f"Processor time within {seconds} s, {sessions} open sessions",
            bare,
            others,
            figure="rest",
            shape=report.Shape.VALUES,
            aim="frozen 0",
        )
    ]


def _use(stage: Stage, seconds: int) -> dict[str, float]:
    """Answer the milliseconds of processor time that each group of processes takes within `seconds`."""
    groups = {
        "bare engine, running": procfs.tree(stage.bare.pid),
        "frozen engine": procfs.tree(stage.server.engine_pid("rester")),
        "Zorya's server": [stage.server.pid],
        "Zorya's keeper": list(_keepers(stage.server.home)),
    }
    before = {name: processor_ns(pids) for name, pids in groups.items()}
    time.sleep(seconds)
    return {name: (processor_ns(pids) - before[name]) / 1e6 for name, pids in groups.items()}


def processor_ns(pids: Iterable[int]) -> int:
    """Answer the time on a processor of all threads that these processes have (proc_pid_schedstat, first value)."""
    total = 0
    for pid in pids:
        for thread in (_PROC / str(pid) / "task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total


def _keepers(home: Path) -> Iterator[int]:
    """Answer the process that outlives the server of this home."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if "zorya.keeper.process" in words and str(home / "run") in words:
                yield int(entry.name)
