"""The memory of a cluster that runs, that is frozen, and that has given back what it could."""

import os
import time
from collections import defaultdict
from pathlib import Path

from bench import report
from bench.sessions import Session
from bench.stage import Stage
from zorya.compute import procfs
from zorya.core.model import EngineKind

FREEZE_AFTER_S = 2
SCALE = 10

_READ = {
    EngineKind.POSTGRES: "SELECT sum(abalance) FROM pgbench_accounts",
    EngineKind.MARIADB: "SELECT SUM(LENGTH(c)) FROM sbtest1",
}
_STATES = ("running", "frozen", "reclaimed")
_MIB = 1024 * 1024
_PROC = Path("/proc")


def measure(stage: Stage, *, rounds: int = 3) -> list[report.Comparison]:
    """Read all of a large table once after a start with cold caches, and print the memory before and after a freeze.

    Also printed is what the memory that was given back costs: reading everything before and after that.
    """
    server = stage.server
    server.create("reader", "--freeze-after", str(FREEZE_AFTER_S), "--pause-after", "never")
    statement = _READ[stage.engine]
    charged: dict[str, list[float]] = defaultdict(list)
    proportional: dict[str, list[float]] = defaultdict(list)
    reads: dict[str, list[float]] = defaultdict(list)
    try:
        stage.make_tables(SCALE, server.url("reader"))
        for _ in range(rounds):
            server.pause("reader")
            leave_page_cache(server.folders("reader").data)
            with Session(server.url("reader")) as session:
                reads["the first time"].append(_read(session, statement))
                reads["again"].append(_read(session, statement))
                for state in _STATES:
                    if state == "frozen":
                        server.await_frozen("reader")
                    elif state == "reclaimed":
                        _await_reclaimed(stage)
                    charged[state].append(_resident(stage) / _MIB)
                    proportional[state].append(_pss_bytes(server.engine_pid("reader")) / _MIB)
                if server.api.cluster("reader")["compute"] != "frozen":
                    raise RuntimeError("the cluster did not stay frozen")
                reads["after it was reclaimed"].append(_read(session, statement))
    finally:
        server.cli("delete", "reader", "--yes")
    return [
        _show("Memory of a cluster (resident_bytes)", charged, "MiB", "memory"),
        _show("Memory of a cluster (sum of Pss)", proportional, "MiB", "memory"),
        _show("Reading all of it, wake included", reads, "ms", "memory"),
    ]


def _show(title: str, values: dict[str, list[float]], unit: str, figure: str) -> report.Comparison:
    first, *others = (report.Series(name=name, unit=unit, values=found) for name, found in values.items())
    return report.show(title, first, others, figure=figure, shape=report.Shape.VALUES)


def _read(session: Session, statement: str) -> float:
    began = time.perf_counter()
    session.value(statement)
    return (time.perf_counter() - began) * 1000


def _resident(stage: Stage) -> int:
    found = stage.server.api.cluster("reader")["resident_bytes"]
    assert found is not None
    return found


def _await_reclaimed(stage: Stage) -> None:
    """Wait until memory that was given back is so, or for as long as that takes at most where nothing is."""
    deadline = time.monotonic() + 15
    before = _resident(stage)
    while time.monotonic() < deadline and _resident(stage) == before:
        time.sleep(0.1)
    last = -1
    while (now := _resident(stage)) != last and time.monotonic() < deadline:
        last = now
        time.sleep(0.5)


def _pss_bytes(first: int) -> int:
    """Answer the sum of the memory of all processes, each shared page divided among those that share it."""
    total = 0
    for pid in procfs.tree(first):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def leave_page_cache(data: Path) -> None:
    """Have the kernel forget what it has of the files, as long as nobody uses them."""
    for path in data.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
