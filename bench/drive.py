"""A trace of `traces`, done for real: sessions that compute, hold memory and read, as much each second as it says.

What it wants is in the terms of `traces`; here it becomes statements. Processor time is counted in numbers of a series,
calibrated on the engine itself. What a second asks for is there at its beginning, as in `play`.
"""

import itertools
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import psycopg

from bench.traces import Trace

PARALLEL: Final = 0.8
"""The work of a second is spread over so many sessions that with free cores it takes so long, or over more of them."""
STATEMENT_CORES: Final = 0.02
"""Core-seconds of a statement."""
CHUNK_BYTES: Final = 32 * 1024**2
"""Memory is held in pieces of this size: the C library gives those back to the kernel as soon as they are let go."""
BLOCK_BYTES: Final = 8192
CALIBRATED: Final = 7
"""How often each thing is done to see what it costs."""
OPENED_S: Final = 3.0
"""How long it takes, at most, until they are open and the engine is at rest again."""

_COMPUTE = "SELECT count(*) FROM (SELECT generate_series(1, %s::int)) AS numbers"
_HOLD = f"SELECT repeat(repeat('x', 1024), {CHUNK_BYTES // 1024})"
_READ = "SELECT count(*) FROM pages WHERE ctid >= %s::tid AND ctid < %s::tid"
_PROC = Path("/proc")


def make_table(url: str, size_bytes: float) -> None:
    """Make the table that is read, a row a block."""
    with psycopg.connect(url, autocommit=True) as session:
        session.execute("CREATE UNLOGGED TABLE pages (filler text) WITH (autovacuum_enabled = off)")
        session.execute("ALTER TABLE pages ALTER filler SET STORAGE PLAIN")
        session.execute(
            "INSERT INTO pages SELECT repeat('x', 8000) FROM generate_series(1, %s::int)",
            [int(size_bytes / BLOCK_BYTES)],
        )
        session.execute("VACUUM pages")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What things cost the engine, in core-seconds."""

    number: float
    """Of one number that is counted."""
    session: float
    """Of one that is opened."""
    chunk: float
    """Of CHUNK_BYTES that are filled."""
    block: float
    """Of one that is read."""

    def added_to(self, trace: Trace, base_bytes: float) -> Trace:
        """Answer the trace with the work that its sessions, its memory and its reads turn out to be; see `Drive`."""
        opened = np.maximum(np.diff(trace.sessions, prepend=trace.sessions[0]), 0)
        held = np.maximum(trace.memory_bytes - base_bytes, 0) // CHUNK_BYTES
        chunks = np.maximum(np.diff(held, prepend=0.0), 0)
        beside = opened * self.session + chunks * self.chunk + trace.read_bytes_s / BLOCK_BYTES * self.block
        return replace(trace, cores=trace.cores + beside)


def calibrate(url: str) -> Costs:
    """Answer what things cost, from the processor time that a session takes for some. Needs the table."""
    numbers, blocks = 500_000, 2000
    with psycopg.connect(url, autocommit=True) as session:
        own = _PROC / str(session.info.backend_pid) / "schedstat"
        session.execute("SELECT 1")

        def used_s() -> float:
            return int(own.read_text().split()[0]) / 1e9

        def cost_of(*statements: tuple[str, Sequence[object]]) -> float:
            """Answer the middle of what they cost, the first one aside."""
            marks = [used_s()]
            for statement, values in statements:
                session.execute(statement, values)
                marks.append(used_s())
            return statistics.median(after - before for before, after in itertools.pairwise(marks[1:]))

        opened = used_s()
        session.execute("SET work_mem = '2000MB'")
        return Costs(
            session=opened,
            number=cost_of(*[(_COMPUTE, [numbers])] * CALIBRATED) / numbers,
            chunk=cost_of(*((f"DECLARE held_{name} CURSOR WITH HOLD FOR {_HOLD}", []) for name in range(CALIBRATED))),
            block=cost_of(*[(_READ, ["(0,0)", f"({blocks},0)"])] * CALIBRATED) / blocks,
        )


@dataclass(kw_only=True)
class _Board:
    """What is to be done, for all threads. Guarded by `changed`."""

    number_cores: float
    """What a number costs."""
    present: int = 0
    """Sessions that are to be open."""
    allowed: int = 0
    """Of those, that may work."""
    todo: deque[tuple[int, float]] = field(default_factory=deque)
    """Second and core-seconds of statements that nobody has taken yet."""
    left: list[int] = field(default_factory=list)
    """For each second, its statements that are not done."""
    done_s: list[float] = field(default_factory=list)
    """For each second, when the last of them was, by the monotonic clock."""
    held_bytes: float = 0.0
    window_bytes: float = 0.0
    read_bytes: float = 0.0
    """Still to be read."""
    over: bool = False
    problem: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)


class _Thread(threading.Thread):
    """One that says on the board if it fails."""

    def __init__(self, name: str, url: str, board: _Board) -> None:
        super().__init__(name=name)
        self._url, self._board = url, board

    def run(self) -> None:
        """Work until it is over."""
        try:
            self.work()
        except Exception as error:  # noqa: BLE001 - told by whoever waits for it
            with self._board.changed:
                self._board.problem = self._board.problem or f"{self.name}: {error!r}"

    def work(self) -> None:
        """Do what this one does."""
        raise NotImplementedError

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._url, autocommit=True, prepare_threshold=0)


class _Worker(_Thread):
    """A session that is open, or not, and computes."""

    def __init__(self, number: int, url: str, board: _Board) -> None:
        super().__init__(f"worker {number}", url, board)
        self._number = number
        self._session: psycopg.Connection | None = None

    def work(self) -> None:
        board = self._board
        while True:
            with board.changed:
                board.changed.wait_for(lambda: board.over or self._is_misplaced() or self._may_work())
                if board.over:
                    break
                is_wanted = self._number < board.present
                second, cores = board.todo.popleft() if self._may_work() else (-1, 0.0)
            if second >= 0:
                assert self._session is not None
                self._session.execute(_COMPUTE, [max(1, round(cores / board.number_cores))]).fetchone()
                self._note(second)
            elif is_wanted and self._session is None:
                self._session = self._connect()
            elif not is_wanted and self._session is not None:
                self._session.close()
                self._session = None
        if self._session is not None:
            self._session.close()

    def _is_misplaced(self) -> bool:
        return (self._number < self._board.present) is (self._session is None)

    def _may_work(self) -> bool:
        return self._session is not None and self._number < self._board.allowed and bool(self._board.todo)

    def _note(self, second: int) -> None:
        with self._board.changed:
            self._board.left[second] -= 1
            if not self._board.left[second]:
                self._board.done_s[second] = time.monotonic()


class _Holder(_Thread):
    """A session that holds memory: results of queries that are kept for cursors, outside a transaction."""

    _held = 0
    """Pieces."""

    def work(self) -> None:
        board = self._board
        with self._connect() as session:
            session.execute("SET work_mem = '2000MB'")
            while True:
                with board.changed:
                    board.changed.wait_for(lambda: board.over or self._wanted != self._held)
                    if board.over:
                        return
                if self._wanted > self._held:
                    session.execute(f"DECLARE held_{self._held} CURSOR WITH HOLD FOR {_HOLD}")
                    self._held += 1
                else:
                    self._held -= 1
                    session.execute(f"CLOSE held_{self._held}")

    @property
    def _wanted(self) -> int:
        return int(self._board.held_bytes // CHUNK_BYTES)


class _Reader(_Thread):
    """A session that reads a part of the table, round and round."""

    def work(self) -> None:
        board, place = self._board, 0
        with self._connect() as session:
            while True:
                with board.changed:
                    board.changed.wait_for(lambda: board.over or board.read_bytes >= BLOCK_BYTES)
                    if board.over:
                        return
                    window, blocks = (int(one // BLOCK_BYTES) for one in (board.window_bytes, board.read_bytes))
                    board.read_bytes = 0.0
                if window:
                    begin = place % window
                    end = min(begin + min(blocks, window), window)
                    session.execute(_READ, [f"({begin},0)", f"({end},0)"]).fetchone()
                    place = end


class Drive:
    """What drives one cluster; a context, in which the sessions of the first second are open from the beginning on."""

    def __init__(self, url: str, trace: Trace, *, costs: Costs, base_bytes: float) -> None:
        """`base_bytes` is what the engine cannot do without when it does nothing."""
        self._trace, self._base_bytes = trace, base_bytes
        self._board = _Board(number_cores=costs.number, left=[0] * trace.seconds, done_s=[0.0] * trace.seconds)
        most = max(_present(trace, at) for at in range(trace.seconds))
        self._threads = [
            _Holder("memory", url, self._board),
            _Reader("reads", url, self._board),
            *(_Worker(number, url, self._board) for number in range(most)),
        ]

    def __enter__(self) -> Self:
        self._board.present = int(self._trace.sessions[0])
        for thread in self._threads:
            thread.start()
        time.sleep(OPENED_S)
        return self

    def run(self) -> Sequence[float]:
        """Do what the trace asks for, in its time; return when all of it is done.

        Answers for each second when its work was done, in seconds from the beginning. Raises RuntimeError if anything
        failed.
        """
        board, began_s = self._board, time.monotonic()
        for at in range(self._trace.seconds):
            _ask(board, self._trace, at, self._base_bytes)
            time.sleep(max(0.0, began_s + at + 1 - time.monotonic()))
        while any(board.left) and not board.problem:
            time.sleep(0.01)
        if board.problem:
            raise RuntimeError(board.problem)
        return [max(0.0, one - began_s) for one in board.done_s]

    def __exit__(self, *_: object) -> None:
        with self._board.changed:
            self._board.over = True
            self._board.changed.notify_all()
        for thread in self._threads:
            thread.join()


def _at_once(trace: Trace, at: int) -> int:
    """Answer over how many sessions the work of a second is spread."""
    return max(math.ceil(float(trace.cores[at]) / PARALLEL), int(trace.at_work[at]))


def _present(trace: Trace, at: int) -> int:
    return max(int(trace.sessions[at]), _at_once(trace, at))


def _ask(board: _Board, trace: Trace, at: int, base_bytes: float) -> None:
    """Put what comes in this second on the board."""
    cores = float(trace.cores[at])
    count = max(math.ceil(cores / STATEMENT_CORES), min(_at_once(trace, at), 1)) if cores else 0
    with board.changed:
        if board.problem:
            raise RuntimeError(board.problem)
        board.present = _present(trace, at)
        board.todo.extend((at, cores / count) for _ in range(count))
        board.left[at] = count
        # Whoever is there helps with what is left over.
        waiting = math.ceil(sum(one for _, one in board.todo) / PARALLEL)
        board.allowed = min(board.present, max(_at_once(trace, at), waiting))
        board.held_bytes = max(0.0, float(trace.memory_bytes[at]) - base_bytes)
        board.window_bytes = float(trace.cache_bytes[at])
        board.read_bytes += float(trace.read_bytes_s[at])
        board.changed.notify_all()
