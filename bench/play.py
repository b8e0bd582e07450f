"""One system against one trace, second by second: what it costs and what it leaves undone. Pure.

The rules are the same for all systems; docs/scaling.md tells them.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.models import Second, System
from bench.traces import Floats, Trace
from zorya.core.capacity import Acu, Bounds, round_up

ACU: Final = Acu(memory_bytes=2 * 1024**3, cores=0.25)
LEAST: Final = 0.5

PATIENCE_S: Final = 30
"""Work that waits longer is given up by whoever asked for it."""
DISK_BYTES_S: Final = 200 * 1024**2
"""How fast page cache fills."""
COLD: Final = 0.9
"""Page cache that holds less than this part of the data that is read again and again is cold."""
SETTLED_S: Final = 60
"""After so long with nothing to do no system remembers what was before."""
_NOTHING: Final = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of it."""

    acu_hours: float
    unmet_s: int
    """Seconds at whose end work was left over, or that had less memory than is indispensable, or no cluster at all."""
    borrowed_acu_hours: float
    """What the cores come to that it used beyond those of its capacity, as only a burst does."""
    late_core_s: float
    """Work that was not done within its second, counted in each second in which it waits."""
    cold_s: int
    """Seconds in which data was read that page cache should have held and did not."""
    worst_resume_s: float
    resumes: int
    changes: int
    """Changes of capacity, those to and from 0 not among them."""
    capacity: NDArray[np.float32]
    """An element a second."""


def needed(trace: Trace) -> Floats:
    """Answer the capacity that has cores and memory for everything, page cache included, in each second, in ACUs."""
    memory = (trace.memory_bytes + trace.cache_bytes) / ACU.memory_bytes
    return np.maximum(trace.cores / ACU.cores, memory)


def bounds_of(trace: Trace) -> Bounds:
    """Answer from the least that there is to the peak."""
    return Bounds(least=LEAST, most=round_up(float(needed(trace).max())))


class Play:
    """The state of one cluster under one system."""

    def __init__(self, trace: Trace, system: System) -> None:
        """The cluster runs and has nothing to do."""
        self._system = system
        self._seconds = trace.seconds
        # Lists, since Python's own loop below reads them one by one.
        self._cores: list[float] = trace.cores.tolist()
        self._memory: list[float] = trace.memory_bytes.tolist()
        self._cache: list[float] = trace.cache_bytes.tolist()
        self._reads: list[float] = trace.read_bytes_s.tolist()
        self._sessions: list[float] = trace.sessions.tolist()
        self._at_work: list[float] = trace.at_work.tolist()
        self._active: list[bool] = trace.active.tolist()
        totals = np.concatenate([np.zeros(PATIENCE_S), np.cumsum(trace.cores)])
        self._patient: list[float] = (totals[PATIENCE_S:] - totals[:-PATIENCE_S]).tolist()
        """What came in within the last seconds: more than that does not wait."""
        self._next_active = _next(trace.active)
        self._next_without = _next(trace.sessions == 0)
        self._session_at = _last(trace.sessions > 0)

        self._least = self._capacity = system.start()
        self._away_s = 0.0
        """How long it is still until it is back."""
        self._backlog = 0.0
        self._warm = 0.0
        self._busy_at, self._kept_at = -1, -1
        self._seen = Second()

        self._given = np.zeros(trace.seconds, np.float32)
        self._acu_s = self._borrowed = self._late = self._worst = 0.0
        self._unmet = self._cold = self._resumes = self._changes = 0

    def run(self) -> Outcome:
        """Play it to the end."""
        at = 0
        while at < self._seconds:
            if not self._away_s:
                at = self._skip(at)
            if at < self._seconds:
                self._step(at)
                at += 1
        return Outcome(
            acu_hours=self._acu_s / 3600,
            unmet_s=self._unmet,
            borrowed_acu_hours=self._borrowed / ACU.cores / 3600,
            late_core_s=self._late,
            cold_s=self._cold,
            worst_resume_s=self._worst,
            resumes=self._resumes,
            changes=self._changes,
            capacity=self._given,
        )

    def _step(self, at: int) -> None:
        """Play one second."""
        system, capacity = self._system, self._capacity
        up, self._away_s = 1.0 - min(self._away_s, 1.0), max(0.0, self._away_s - 1.0)
        limit = ACU.cores_of(system.reach or capacity) * up
        todo = self._backlog + self._cores[at]
        used = min(todo, limit)
        left = min(todo - used, self._patient[at])
        self._backlog = left = left if left > _NOTHING else 0.0
        memory, room = self._memory[at], ACU.memory_of(capacity) if up else 0.0
        self._unmet += bool(left) or (memory > room if up else self._active[at])
        self._late += left
        if system.reach:
            self._borrowed += max(0.0, used - ACU.cores_of(capacity))
        missed = self._read(at, max(0.0, room - memory))
        self._acu_s += capacity * up
        self._given[at] = capacity * up
        if self._active[at] or left:
            self._busy_at = self._kept_at = at
        elif self._sessions[at]:
            self._kept_at = at
        if not up:
            return
        seen = self._seen
        seen.at_s, seen.capacity, seen.used, seen.limit = at + 1, capacity, used, limit
        seen.runnable = min(todo, max(self._sessions[at], used)) if left else used
        seen.memory_bytes, seen.warm_bytes, seen.cache_bytes = memory, self._warm, self._cache[at]
        seen.read_bytes_s, seen.missed_bytes_s = self._reads[at], missed
        seen.sessions = self._sessions[at]
        seen.at_work = max(self._at_work[at], math.ceil(seen.runnable - _NOTHING))
        self._capacity = system.decide(seen)
        self._changes += self._capacity != capacity

    def _read(self, at: int, room: float) -> float:
        """Read from page cache, which keeps what there is room for. Answer how much was not there."""
        cache, reads = self._cache[at], self._reads[at]
        held = min(self._warm, room)
        if not reads:
            self._warm = held
            return 0.0
        self._cold += held < COLD * cache
        self._warm = max(held, min(room, cache, held + DISK_BYTES_S))
        return reads * (1 - min(1.0, held / cache))

    def _skip(self, at: int) -> int:
        """Answer the next second to play: this one, or the end of a stretch in which nothing can happen."""
        system = self._system
        kept_at = self._busy_at if system.rests_with_sessions else self._kept_at
        rests_at = kept_at + 1 + system.rests_after_s
        if at >= rests_at:
            return self._rest(at)
        # Memory does not grow in a stretch without work, so that a system which was content goes on so.
        is_settled = at - self._busy_at > SETTLED_S and self._capacity == self._least
        if not is_settled or self._active[at]:
            return at
        if not system.rests_with_sessions and self._sessions[at]:
            # Nobody connects in such a stretch. It can begin to rest when the last session has ended.
            rests_at = self._next_without[at] + system.rests_after_s
        until = int(min(self._next_active[at], rests_at, self._seconds))
        self._acu_s += self._capacity * (until - at)
        self._given[at:until] = self._capacity
        self._kept_at = max(self._kept_at, self._session_at[until - 1])
        system.idle(until - at)
        return self._skip(until) if until < self._seconds else until

    def _rest(self, at: int) -> int:
        """Sleep until somebody wants something. Answer when that is."""
        wanted = self._next_active[at]
        if wanted < self._seconds:
            wake = self._system.wake(self._capacity, wanted - at, wanted - 1 - self._session_at[wanted - 1])
            self._resumes += 1
            self._worst = max(self._worst, wake.takes_s)
            self._capacity, self._away_s = wake.capacity, wake.takes_s
            if not wake.keeps_cache:
                self._warm = 0.0
        return wanted


def _next(flags: NDArray[np.bool_]) -> list[int]:
    """Answer for each second the first from it on that has the flag, or the number of seconds."""
    places = np.where(flags, np.arange(len(flags)), len(flags))
    found: list[int] = np.minimum.accumulate(places[::-1])[::-1].tolist()
    return found


def _last(flags: NDArray[np.bool_]) -> list[int]:
    """Answer for each second the last up to it that has the flag, or -1."""
    found: list[int] = np.maximum.accumulate(np.where(flags, np.arange(len(flags)), -1)).tolist()
    return found
