"""Six copies: what they cost, against the same six set up by hand and against one copy, and what comes of losing some.

One run measures commits, the first commit of a stopped cluster, failover, the rebuild of a full copy, and what six
copies take of processes and memory. All zones are folders on one disk here.
"""

import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psycopg

from bench import by_hand, load, report, ways
from bench.load import Workload
from bench.sessions import first_row
from bench.stage import MOST_ACU, Stage, ZoryaServer, copy_folder
from bench.ways import Engine, Way
from zorya.compute import procfs
from zorya.core.volume import CopyKind, CopyState

CLIENTS = (1, 8, 32)
COMMITS = "Commits"
"""What the titles of those comparisons begin with."""

_MAIN = "main"
_LARGE = "large"

_BY_HAND = "six copies, by hand"
_SIX_COPIES = "six copies, Zorya"
_ONE_COPY = "one copy, Zorya"

_WORKLOAD = Workload(
    name=COMMITS, options=("--builtin=simple-update", "--protocol=prepared"), writes=True, turns=4, seconds=2
)
_TABLE: LiteralString = "CREATE TABLE committed (n bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
_INSERT: LiteralString = "INSERT INTO committed SELECT coalesce(max(n), 0) + 1 FROM committed RETURNING n"

_FOLDERS: Mapping[str, str] = {CopyKind.FULL: "data", CopyKind.TAIL: "tail"}
"""Where a copy has its files, below the folder of its zone."""

_MIB = 1024 * 1024
_PAGE_BYTES = 8192
_ROW_BYTES = 8000
"""What fills a page, together with its header and the row's."""
_SPACE = 8
"""Of so many times the large copy's size there has to be space: three copies, a plain one, and log."""
_POLL_S = 0.01
_WHOLE_WITHIN_S = 180.0
_ACCEPTED_WITHIN_S = 60.0


def measure(
    stage: Stage, *, turns: int | None = None, rounds: int = 20, failures: int = 5, rebuilt_mib: int = 2048
) -> list[report.Comparison]:
    """Measure everything on two servers of its own, one for one copy and one for six, and print the ratios.

    `turns` is in place of the workload's own number. There are `failures` of each kind, and the copy that is made anew
    holds `rebuilt_mib` MiB that do not compress.
    """
    if shutil.disk_usage(stage.folder).free < _SPACE * rebuilt_mib * _MIB:
        raise RuntimeError(f"{stage.folder} has too little space for copies of {rebuilt_mib} MiB")
    with _server(stage, copies="1") as one, _server(stage, copies="6") as six:
        return [
            *_commits(stage, one, six, turns or _WORKLOAD.turns),
            *_size(stage, one, six),
            *_resume(one, six, rounds),
            _fail_over(six, failures),
            _rebuild(stage, six, rebuilt_mib),
        ]


@contextmanager
def _server(stage: Stage, *, copies: str) -> Iterator[ZoryaServer]:
    """Run a server whose cluster has so many copies, and pgbench's tables.

    Its capacity never changes: some of the settings follow it, and those of engines that are set up by hand would not.
    """
    home = stage.folder / f"copies-{copies}"
    server = ZoryaServer(home, copies=copies)
    try:
        server.api.modify(_MAIN, {"min_capacity": MOST_ACU, "max_capacity": MOST_ACU})
        server.pause(_MAIN)
        stage.make_tables(load.SCALE, server.url(_MAIN))
        with psycopg.connect(server.url(_MAIN), autocommit=True) as session:
            session.execute(_TABLE)
        _await_whole(server, _MAIN)
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


# Commits.


def _commits(stage: Stage, one: ZoryaServer, six: ZoryaServer, turns: int) -> Iterator[report.Comparison]:
    """Compare commits. The mean latency is the number of clients by the throughput."""
    set_up = by_hand.SixByHand(stage, six)
    try:
        set_up.start()
        chosen = [
            Way(name=_BY_HAND, url=set_up.url, engine=set_up.engine),
            _way(six, _SIX_COPIES),
            _way(one, _ONE_COPY),
        ]
        for way in chosen:
            ways.check(way)
        set_up.check_same(_engine(six))
        for clients in CLIENTS:
            measured = load.take_turns(stage, _WORKLOAD, clients, chosen, turns)
            yield from load.show(
                _WORKLOAD,
                clients,
                measured,
                rate_figure="copies",
                time_figure="copies-latency",
                aim=f"{_SIX_COPIES} 0.95 x or better",
            )
    finally:
        set_up.stop()


# What they take.


def _size(stage: Stage, one: ZoryaServer, six: ZoryaServer) -> Iterator[report.Comparison]:
    """Count processes and memory while clients commit, in a cluster of one copy and in one of six."""
    processes: list[report.Series] = []
    memory: list[report.Series] = []
    for label, server in ((_ONE_COPY, one), (_SIX_COPIES, six)):
        with _busy(stage, server.url(_MAIN)):
            pids = _pids(server)
            processes.append(report.Series(name=label, unit="", values=[len(pids)]))
            memory.append(report.Series(name=label, unit="MiB", values=[_pss_bytes(pids) / _MIB]))
    for title, (first, other) in (("Processes, 8 clients", processes), ("Memory, 8 clients (sum of Pss)", memory)):
        yield report.show(title, first, [other], figure="copies-size", shape=report.Shape.VALUES)


@contextmanager
def _busy(stage: Stage, url: str) -> Iterator[None]:
    """Have eight clients commit for the block, which begins when they have done so for a while."""
    options = (*_WORKLOAD.options, "--no-vacuum", "--client=8", "--jobs=2", "--time=60")
    process = subprocess.Popen(
        [str(stage.program_folder / "pgbench"), *options, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(_WORKLOAD.seconds)
        if process.poll() is not None:
            raise RuntimeError(f"pgbench ended with {process.returncode}")
        yield
    finally:
        process.terminate()
        process.wait()


def _pss_bytes(pids: Sequence[int]) -> int:
    """Answer the sum of the memory of processes, each shared page divided among those that share it."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


# A stopped cluster.


def _resume(one: ZoryaServer, six: ZoryaServer, rounds: int) -> Iterator[report.Comparison]:
    """Compare how soon a stopped cluster answers a row, and how soon it acknowledges a commit."""
    took: dict[str, list[float]] = {}
    for _ in range(rounds):
        for label, server in (("one copy", one), ("six copies", six)):
            for what, action in (("first row", first_row), ("first commit", _commit)):
                _await_whole(server, _MAIN)
                server.pause(_MAIN)
                url = server.url(_MAIN)
                began = time.perf_counter()
                action(url)
                took.setdefault(f"{label}, {what}", []).append((time.perf_counter() - began) * 1000)
    first, *others = (report.Series(name=name, unit="ms", values=values) for name, values in took.items())
    yield report.show(
        "Stopped to first commit",
        first,
        others,
        figure="copies-start",
        shape=report.Shape.VALUES,
        aim="150 ms, six copies",
    )
    for each in (first, *others):
        print(f"  {each.name}: p50 {each.median:.0f} ms, p99 {each.p99:.0f} ms", flush=True)


def _commit(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(_INSERT)


# Losses.


class _Writer(threading.Thread):
    """Commits without a pause, and connects anew at once when a session ends."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._ends = threading.Event()
        self.acknowledged: list[int] = []
        self.resumed: queue.SimpleQueue[float] = queue.SimpleQueue()
        """When the first commit of each session was acknowledged."""

    def run(self) -> None:
        """Commit until it is told to end."""
        while not self._ends.is_set():
            with suppress(psycopg.Error), psycopg.connect(self._url, autocommit=True) as session:
                self._use(session)

    def _use(self, session: psycopg.Connection) -> None:
        has_committed = False
        while not self._ends.is_set():
            row = session.execute(_INSERT).fetchone()
            assert row is not None
            self.acknowledged.append(row[0])
            if not has_committed:
                self.resumed.put(time.perf_counter())
                has_committed = True

    def end(self) -> None:
        """Have it end, and wait for it."""
        self._ends.set()
        self.join(_ACCEPTED_WITHIN_S)


def _fail_over(server: ZoryaServer, failures: int) -> report.Comparison:
    """Measure how soon commits are acknowledged again, and see that none is lost.

    Raises RuntimeError if one is.
    """
    strikes: dict[str, Callable[[ZoryaServer], None]] = {
        "primary killed": _kill_primary,
        "zone of the primary lost": _lose_zone,
    }
    took: dict[str, list[float]] = {name: [] for name in strikes}
    writer = _Writer(server.url(_MAIN))
    writer.start()
    try:
        writer.resumed.get(timeout=_ACCEPTED_WITHIN_S)
        for _ in range(failures):
            for name, strike in strikes.items():
                _await_whole(server, _MAIN)
                while not writer.resumed.empty():
                    writer.resumed.get()
                    print("  commits broke off though nothing was lost", flush=True)
                began = time.perf_counter()
                strike(server)
                took[name].append((_last_resumed(server, writer) - began) * 1000)
    finally:
        writer.end()
    _check_kept(server, writer.acknowledged)
    first, *others = (report.Series(name=name, unit="ms", values=values) for name, values in took.items())
    return report.show(
        "Loss to writes accepted again", first, others, figure="copies-loss", shape=report.Shape.VALUES, aim="2000 ms"
    )


def _last_resumed(server: ZoryaServer, writer: _Writer) -> float:
    """Answer when commits went on for good: should they break off again before the volume is whole, after that."""
    resumed = writer.resumed.get(timeout=_ACCEPTED_WITHIN_S)
    _await_whole(server, _MAIN)
    while not writer.resumed.empty():
        resumed = writer.resumed.get()
        print("  commits broke off once more", flush=True)
    return resumed


def _check_kept(server: ZoryaServer, acknowledged: Sequence[int]) -> None:
    with psycopg.connect(server.url(_MAIN)) as session:
        kept = {n for (n,) in session.execute("SELECT n FROM committed").fetchall()}
    missing = set(acknowledged) - kept
    if missing:
        raise RuntimeError(f"{len(missing)} acknowledged commits are missing: {sorted(missing)[:10]}")
    print(f"\n{len(acknowledged):,} commits acknowledged, none lost", flush=True)


def _kill_primary(server: ZoryaServer) -> None:
    os.kill(server.engine_pid(_MAIN), signal.SIGKILL)


def _lose_zone(server: ZoryaServer) -> None:
    """Remove all that the cluster has in the primary's zone, and end its processes there."""
    folder = server.folders(_MAIN).root
    _destroy(folder, [folder / kind for kind in _FOLDERS.values()])


def _destroy(folder: Path, worked_in: Sequence[Path]) -> None:
    """Remove a folder under the processes that work in these, and end them, as a disk that dies does."""
    pids = [one.pid for each in worked_in for one in procfs.find_processes_in(each)]
    shutil.rmtree(folder, ignore_errors=True)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# A copy made anew.


def _rebuild(stage: Stage, server: ZoryaServer, size_mib: int) -> report.Comparison:
    """Lose a full copy, and compare how soon it is current again with a plain copy of its folder."""
    server.pause(_MAIN)
    server.cli("create", _LARGE, "--copies", "1")
    with psycopg.connect(server.url(_LARGE)) as session:
        _fill(session, size_mib)
    # Not before, so that not all of it is written as log six times as well.
    server.cli("modify", _LARGE, "--copies", "6")
    _await_whole(server, _LARGE)
    lost = next(one for one in server.api.copies(_LARGE) if one["kind"] == CopyKind.FULL and not one["is_primary"])
    data = Path(lost["folder"]) / _FOLDERS[lost["kind"]]
    copied, synced = _copy_plainly(stage, data)
    began = time.perf_counter()
    _destroy(data, [data])
    _await_state(server, _LARGE, lost["name"], is_current=False)
    noticed = time.perf_counter()
    _await_state(server, _LARGE, lost["name"], is_current=True)
    rebuilt = time.perf_counter()
    series = {
        "cp --archive": copied,
        "cp --archive, then sync": synced,
        "made anew, from when it is noticed": rebuilt - noticed,
        "made anew, from the loss": rebuilt - began,
    }
    first, *others = (report.Series(name=name, unit="s", values=[value]) for name, value in series.items())
    return report.show(
        f"A full copy of {size_mib:,} MiB", first, others, figure="copies-rebuild", shape=report.Shape.VALUES
    )


def _fill(session: psycopg.Connection, size_mib: int) -> None:
    """Write so many MiB that do not compress, one row a page, and commit."""
    session.execute("CREATE TABLE filler (content bytea)")
    session.execute("ALTER TABLE filler ALTER content SET STORAGE PLAIN")
    with session.cursor().copy("COPY filler FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["bytea"])
        for _ in range(size_mib * _MIB // _PAGE_BYTES):
            copy.write_row((os.urandom(_ROW_BYTES),))
    session.commit()


def _copy_plainly(stage: Stage, data: Path) -> tuple[float, float]:
    """Answer how long a copy of the folder takes, and how long until it is on the disk as well, in seconds."""
    copy = stage.folder / "plain-copy"
    began = time.perf_counter()
    copy_folder(data, copy)
    copied = time.perf_counter()
    subprocess.run(["sync", "--file-system", str(copy)], check=True)
    synced = time.perf_counter()
    shutil.rmtree(copy)
    return copied - began, synced - began


# What is asked of servers, engines and the host.


def _way(server: ZoryaServer, name: str) -> Way:
    return Way(name=name, url=server.url(_MAIN), engine=_engine(server), handed_over=True)


def _engine(server: ZoryaServer) -> Engine:
    first_row(server.url(_MAIN))
    return Engine(sockets=server.folders(_MAIN).socket, port=server.engine_port(_MAIN))


def _pids(server: ZoryaServer) -> list[int]:
    """Answer all processes of all copies."""
    folders = {Path(one["folder"]) / _FOLDERS[one["kind"]] for one in server.api.copies(_MAIN)}
    return [one.pid for folder in folders for one in procfs.find_processes_in(folder)]


def _await_whole(server: ZoryaServer, name: str) -> None:
    """Wait until all copies of a cluster's volume are current."""

    def is_whole() -> bool:
        return all(one["state"] == CopyState.CURRENT for one in server.api.copies(name))

    _await(is_whole, lambda: f"the volume of {name} is not whole: {server.api.copies(name)}")


def _await_state(server: ZoryaServer, name: str, copy: str, *, is_current: bool) -> None:
    def is_so() -> bool:
        states = {one["name"]: one["state"] for one in server.api.copies(name)}
        return (states[copy] == CopyState.CURRENT) == is_current

    _await(is_so, lambda: f"copy {copy} of {name} is as it was: {server.api.copies(name)}")


def _await(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + _WHOLE_WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(explain())
        time.sleep(_POLL_S)
