"""Systems that give a database its capacity: the policy that ships, and models of what others document. Pure.

Each is asked once a second, after it, by `bench.play`. docs/scaling.md tells where each figure comes from.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

from zorya.core.capacity import STEP, Acu, Bounds, round_up
from zorya.scaling import policy
from zorya.scaling.demand import Demand

PAUSE_AFTER_S: Final = 300
"""Zorya's, Aurora's and Neon's default."""


@dataclass(kw_only=True, slots=True)
class Second:
    """What there was to see in one second. One object serves all: `bench.play` fills it anew."""

    at_s: int = 0
    capacity: float = 0.0
    used: float = 0.0
    """Cores."""
    limit: float = 0.0
    """Cores that it could use."""
    runnable: float = 0.0
    """Cores that it would have used if it could, no more than one a session."""
    memory_bytes: float = 0.0
    """What it cannot do without."""
    warm_bytes: float = 0.0
    """Data in page cache."""
    read_bytes_s: float = 0.0
    missed_bytes_s: float = 0.0
    """Of what was read, what was not in page cache."""
    cache_bytes: float = 0.0
    """Data that is read again and again."""
    sessions: float = 0.0
    at_work: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Wake:
    """How a system comes back."""

    takes_s: float
    capacity: float
    keeps_cache: bool


class System(Protocol):
    """What gives a cluster its capacity."""

    rests_after_s: float
    """After so long it has capacity 0 until somebody wants something; infinity for never."""
    rests_with_sessions: bool
    """Whether only work keeps it from that, or an open session does too."""
    reach: float | None
    """The capacity whose cores it may use whatever it has; None where that is the one it has."""

    def start(self) -> float:
        """Answer the capacity at the beginning."""
        ...

    def decide(self, seen: Second) -> float:
        """Answer the capacity from the next second on."""
        ...

    def idle(self, seconds: int) -> None:
        """Take note that for so long nothing was done, at the least capacity."""
        ...

    def wake(self, capacity: float, rested_s: float, without_sessions_s: float) -> Wake:
        """Answer how it comes back, which had this capacity when it went to rest."""
        ...


class Zorya:
    """The policy that ships, with its two depths of sleep: frozen after 10 s of quiet, stopped without sessions."""

    rests_after_s: float = 10
    rests_with_sessions = True

    FROM_STOPPED_S: Final = 0.1
    """docs/performance.md: 74.5 ms from stopped to the first row, rounded up."""
    FROM_FROZEN_S: Final = 0.002
    """docs/performance.md: frozen to the first row within 2.11 ms in 99 of 100."""
    RECLAIM_AFTER_S: Final = 60
    """A frozen cluster's page cache is given back to the host after so long."""

    def __init__(self, bounds: Bounds, acu: Acu, *, burst: bool) -> None:
        """Nothing went before."""
        self._bounds, self._acu, self._burst = bounds, acu, burst
        self._history = policy.begin()
        self.reach = bounds.most if burst else None

    def start(self) -> float:
        """Answer the least, with which an engine starts."""
        return self._bounds.least

    def decide(self, seen: Second) -> float:
        """Ask the policy."""
        waiting = max(0.0, seen.runnable - seen.used)
        demand = Demand(
            cores=seen.used,
            throttled=1 - seen.limit / seen.runnable if seen.runnable > seen.limit else 0.0,
            # The kernel's pressure is at most one second in each.
            waiting_cores=min(waiting, 1.0),
            memory_bytes=int(seen.memory_bytes + seen.warm_bytes),
            unreclaimable_bytes=int(seen.memory_bytes),
            warm_bytes=int(seen.warm_bytes),
            read_bytes_s=seen.read_bytes_s,
            refault_bytes_s=seen.missed_bytes_s,
            hit_ratio=0.9 if seen.read_bytes_s else None,
            sessions=int(seen.sessions),
            at_work=int(seen.at_work),
            waiting=0,
            oom_kills=0,
        )
        situation = policy.Situation(
            now_s=float(seen.at_s),
            capacity=seen.capacity,
            demand=demand,
            tick_cores=0.0,
            bounds=self._bounds,
            acu=self._acu,
            burst=self._burst,
        )
        decision, self._history = policy.decide(situation, self._history)
        return decision.capacity

    def idle(self, seconds: int) -> None:
        """Never: it is frozen before."""

    def wake(self, capacity: float, rested_s: float, without_sessions_s: float) -> Wake:
        """Thaw with what it had, or start anew with the least."""
        if without_sessions_s >= PAUSE_AFTER_S:
            self._history = policy.begin()
            return Wake(takes_s=self.FROM_STOPPED_S, capacity=self._bounds.least, keeps_cache=False)
        return Wake(takes_s=self.FROM_FROZEN_S, capacity=capacity, keeps_cache=rested_s < self.RECLAIM_AFTER_S)


class AuroraV1:
    """Thresholds, sizes that double, and long cool-downs."""

    rests_after_s: float = PAUSE_AFTER_S
    rests_with_sessions = False
    reach: float | None = None

    SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
    RESUME_S: Final = 30.0
    SCALE_S: Final = 30
    AFTER_UP_S: Final = 900
    AFTER_DOWN_S: Final = 310
    WINDOW_S: Final = 60
    SESSIONS_OF_ACU: Final = 189
    MEMORY: Final = 0.9

    def __init__(self, bounds: Bounds, acu: Acu) -> None:
        """It has those of its sizes that cover the bounds."""
        self._acu = acu
        top = next(size for size in self.SIZES if size >= bounds.most)
        self._sizes = [size for size in self.SIZES if bounds.least <= size <= top]
        self._loads: deque[float] = deque(maxlen=self.WINDOW_S)
        self._sum = 0.0
        self._next: tuple[int, float] | None = None
        self._down_from_s = 0

    def start(self) -> float:
        """Answer the smallest size."""
        return self._sizes[0]

    def decide(self, seen: Second) -> float:
        """Finish a change that has begun, or see whether one is to begin."""
        self._note(seen.used / seen.limit if seen.limit else 1.0)
        if self._next is not None:
            ready_s, size = self._next
            if seen.at_s < ready_s:
                return seen.capacity
            self._next = None
            self._down_from_s = seen.at_s + (self.AFTER_UP_S if size > seen.capacity else self.AFTER_DOWN_S)
            return size
        load = self._sum / len(self._loads)
        sessions = seen.sessions / (self.SESSIONS_OF_ACU * seen.capacity)
        memory = seen.memory_bytes / self._acu.memory_of(seen.capacity)
        place = self._sizes.index(seen.capacity)
        if load > 0.7 or sessions > 0.9 or memory > self.MEMORY:
            if place + 1 < len(self._sizes):
                self._next = (seen.at_s + self.SCALE_S, self._sizes[place + 1])
        elif load < 0.3 and sessions < 0.4 and place and seen.at_s >= self._down_from_s and memory * 2 < self.MEMORY:
            self._next = (seen.at_s + self.SCALE_S, self._sizes[place - 1])
        return seen.capacity

    def _note(self, load: float) -> None:
        if len(self._loads) == self.WINDOW_S:
            self._sum -= self._loads[0]
        self._loads.append(load)
        self._sum += load

    def idle(self, seconds: int) -> None:
        """Forget what was before."""
        del seconds
        self._loads.clear()
        self._sum = 0.0

    def wake(self, capacity: float, rested_s: float, without_sessions_s: float) -> Wake:
        """Resume with the size that it had."""
        del rested_s, without_sessions_s
        self.idle(0)
        self._next = None
        return Wake(takes_s=self.RESUME_S, capacity=capacity, keeps_cache=False)


class AuroraV2:
    """A look each second, steps that grow with the size, and a way down of about a minute."""

    rests_after_s: float = PAUSE_AFTER_S
    rests_with_sessions = False
    reach: float | None = None

    RESUME_S: Final = 15.0
    LOAD: Final = 0.7
    MEMORY: Final = 0.9
    GROWTH: Final = 0.5
    SHRINKING: Final = 0.1
    DOWN_EVERY_S: Final = 5
    CALM_S: Final = 15

    def __init__(self, bounds: Bounds, acu: Acu) -> None:
        """It starts at the least."""
        self._bounds, self._acu = bounds, acu
        self._used: deque[float] = deque([0.0], maxlen=self.CALM_S)

    def start(self) -> float:
        """Answer the least."""
        return self._bounds.least

    def decide(self, seen: Second) -> float:
        """Grow by a part of the size, or shrink by one when the last seconds would have fit."""
        self._used.append(seen.used)
        if self._is_tight(seen.used, seen.memory_bytes, seen.capacity):
            return self._bounds.clamp(seen.capacity + _part(seen.capacity, self.GROWTH))
        if seen.capacity > self._bounds.least and seen.at_s % self.DOWN_EVERY_S == 0:
            smaller = self._bounds.clamp(seen.capacity - _part(seen.capacity, self.SHRINKING))
            if not self._is_tight(max(self._used), seen.memory_bytes, smaller):
                return smaller
        return seen.capacity

    def _is_tight(self, used: float, memory_bytes: float, capacity: float) -> bool:
        if used > self.LOAD * self._acu.cores_of(capacity):
            return True
        return memory_bytes > self.MEMORY * self._acu.memory_of(capacity)

    def idle(self, seconds: int) -> None:
        """Forget what was before."""
        del seconds
        self._used = deque([0.0], maxlen=self.CALM_S)

    def wake(self, capacity: float, rested_s: float, without_sessions_s: float) -> Wake:
        """Resume with the least."""
        del capacity, rested_s, without_sessions_s
        self.idle(0)
        return Wake(takes_s=self.RESUME_S, capacity=self._bounds.least, keeps_cache=False)


class Neon:
    """The load average and the memory, every five seconds. It goes to rest with sessions open, which are then lost."""

    rests_after_s: float = PAUSE_AFTER_S
    rests_with_sessions = True
    reach: float | None = None

    RESUME_S: Final = 0.5
    EVERY_S: Final = 5
    LOAD: Final = 0.9
    MEMORY: Final = 0.75
    CACHE: Final = 0.75
    ALL_MEMORY: Final = 0.9
    DECAY: Final = math.exp(-5 / 60)
    """The kernel's load average of one minute, which it takes every five seconds."""

    def __init__(self, bounds: Bounds, acu: Acu) -> None:
        """It starts at the least."""
        self._bounds, self._acu = bounds, acu
        self._load = 0.0

    def start(self) -> float:
        """Answer the least."""
        return self._bounds.least

    def decide(self, seen: Second) -> float:
        """Take what the most demanding of load, memory and cache asks for."""
        if seen.at_s % self.EVERY_S:
            return seen.capacity
        self._load = self._load * self.DECAY + seen.runnable * (1 - self.DECAY)
        memory = max(
            seen.memory_bytes / self.MEMORY,
            seen.cache_bytes / self.CACHE,
            (seen.memory_bytes + seen.cache_bytes) / self.ALL_MEMORY,
        )
        wanted = max(self._load / self.LOAD / self._acu.cores, memory / self._acu.memory_bytes)
        return self._bounds.clamp(round_up(wanted))

    def idle(self, seconds: int) -> None:
        """Let the load average fall."""
        self._load *= self.DECAY ** (seconds // self.EVERY_S)

    def wake(self, capacity: float, rested_s: float, without_sessions_s: float) -> Wake:
        """Start a new compute with the least."""
        del capacity, rested_s, without_sessions_s
        self._load = 0.0
        return Wake(takes_s=self.RESUME_S, capacity=self._bounds.least, keeps_cache=False)


class Fixed:
    """A server of one size."""

    rests_after_s: float = math.inf
    rests_with_sessions = False
    reach: float | None = None

    def __init__(self, capacity: float) -> None:
        """It has this capacity, always."""
        self._capacity = capacity

    def start(self) -> float:
        """Answer its capacity."""
        return self._capacity

    def decide(self, seen: Second) -> float:
        """Change nothing."""
        del seen
        return self._capacity

    def idle(self, seconds: int) -> None:
        """Nothing to note."""

    def wake(self, capacity: float, rested_s: float, without_sessions_s: float) -> Wake:
        """Never asked."""
        raise AssertionError(f"it never rests: {capacity}, {rested_s}, {without_sessions_s}")


def _part(capacity: float, part: float) -> float:
    """Answer a part of a capacity in whole steps, at least one."""
    return max(STEP, round(capacity * part / STEP) * STEP)
