"""What the six kinds of users ask of a database, second by second: made from a seed, the same each time.

The recipe is told in docs/scaling.md. A trace says what is wanted, whatever a system gives: it knows no capacity.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEED: Final = 5
DAY_S: Final = 86_400
HOUR_S: Final = 3600
GIB: Final = 1024**3

_ENGINE_GIB = 0.25
"""An engine that does nothing, with a small cache of its own."""
_SESSION_GIB = 0.006
_AT_WORK_GIB = 0.03
"""A session that sorts and joins, above one that rests."""
_CONNECT_CORES = 0.01
"""What a new session costs, once (docs/performance.md: about nine milliseconds)."""
_READ_IN_S = 100
"""In what time the data that is read again and again is read once, on average."""
_WEEKEND = (5, 6)
"""The days of the week, of which day 0 is a Monday."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What one cluster is asked for, an element a second."""

    name: str
    cores: Floats
    """Work that comes in this second, in core-seconds."""
    memory_bytes: Floats
    """Memory that it cannot do without."""
    cache_bytes: Floats
    """Data that is read again and again, and that page cache is good for."""
    read_bytes_s: Floats
    """How much of it is read."""
    sessions: Floats
    """Clients' sessions, those that rest among them."""
    at_work: Floats
    """Sessions that do something."""

    @property
    def seconds(self) -> int:
        """How long it is."""
        return len(self.cores)

    @property
    def active(self) -> NDArray[np.bool_]:
        """In which seconds somebody wants an answer: there is work, or somebody connects."""
        come = np.diff(self.sessions, prepend=0.0) > 0
        return (self.cores > 0) | (self.at_work > 0) | come


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A use case: one cluster, or a fleet of them."""

    name: str
    title: str
    traces: Sequence[Trace]


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A trace in the making. Work and memory are added spell by spell."""

    rng: np.random.Generator
    cores: Floats
    spare_gib: Floats
    """Memory beside the engine's and the sessions' own."""
    pool: Floats
    """Sessions that are open, at work or not."""
    at_work: Floats

    @property
    def seconds(self) -> int:
        return len(self.cores)

    def ask(self, rate: Floats, cost_cores: float, spread: float = 2.0) -> None:
        """Add statements that come by chance, `rate` a second, and cost so many core-seconds on average.

        Sums of costs are drawn from the gamma distribution; `spread` is one cost's variance over its mean's square.
        """
        count = self.rng.poisson(rate)
        cost = self.rng.gamma(count / spread, cost_cores * spread)
        self.cores += np.where(count > 0, np.maximum(cost, 1e-4), 0.0)
        self.at_work += np.where(count > 0, np.maximum(np.ceil(cost * 1.5), 1), 0)

    def spell(self, start: float, length_s: float, cores: float, memory_gib: float = 0.0) -> None:
        """Add work that goes on for a while: a report, a batch, a heavy query."""
        begin, end = int(start), min(int(start + max(length_s, 1)), self.seconds)
        if begin < 0 or begin >= end:
            return
        self.cores[begin:end] += cores
        self.at_work[begin:end] += np.ceil(cores)
        # What it sorts grows for the first tenth of its time.
        grown = np.minimum(np.arange(1, end - begin + 1) / max(length_s / 10, 1), 1.0)
        self.spare_gib[begin:end] += memory_gib * grown

    def connect(self, start: float, length_s: float, sessions: float) -> None:
        """Add sessions that stay open for a while."""
        self.pool[max(int(start), 0) : max(int(start + length_s), 0)] += sessions

    def finish(self, name: str, cache_gib: float) -> Trace:
        """Make it a trace. The data that is read again is `cache_gib` at most, less in quiet times."""
        at_work = np.ceil(self.at_work)
        sessions = np.maximum(np.round(self.pool), at_work)
        self.cores += np.maximum(np.diff(sessions, prepend=0.0), 0) * _CONNECT_CORES
        busy = _smooth(self.cores, 900)
        scale = np.quantile(busy, 0.99) or 1.0
        # Little work reads little data, but hardly ever less than some part of it.
        cache = cache_gib * GIB * np.clip(busy / scale, 0, 1) ** 0.5
        spare = self.spare_gib + _ENGINE_GIB + sessions * _SESSION_GIB + at_work * _AT_WORK_GIB
        return Trace(
            name=name,
            cores=self.cores,
            memory_bytes=spare * GIB,
            cache_bytes=cache,
            # All of it once in READ_IN_S, more in a second with much work, for that time of the day.
            read_bytes_s=cache / _READ_IN_S * np.clip(self.cores / np.maximum(busy, 1e-3), 0, 5),
            sessions=sessions,
            at_work=at_work,
        )


def cases(seed: int = SEED, days: int | None = None) -> list[Case]:
    """Answer the six, over their own number of days or over `days` each. The same for the same seed."""
    made = []
    for number, (name, (title, whole, make)) in enumerate(_CASES.items()):
        rng = np.random.default_rng([seed, number])
        made.append(Case(name=name, title=title, traces=make(rng, min(days or whole, whole))))
    return made


def _infrequent(rng: np.random.Generator, days: int) -> list[Trace]:
    """A tool of an office: some visits a day, each of some minutes, and a report every night."""
    draft = _draft(rng, days)
    for day in range(days):
        weekend = day % 7 in _WEEKEND
        for _ in range(rng.poisson(2 if weekend else 11)):
            start = day * DAY_S + _hour(rng, 8, 20 if weekend else 18) * HOUR_S
            length = rng.uniform(4, 30) * 60
            # The application's pool keeps its two connections for ten minutes after the last click.
            draft.connect(start, length + 600, 2)
            at = start
            while at < start + length:
                draft.spell(at, 1, float(rng.gamma(1.2, 0.08)))
                if rng.random() < 0.02:
                    draft.spell(at, float(rng.pareto(1.6) * 8 + 3), 1.0, 0.4)
                at += rng.exponential(20) + 1
        night = day * DAY_S + 2 * HOUR_S
        draft.connect(night, 240, 1)
        draft.spell(night, float(rng.normal(200, 15)), 1.0, 0.8)
    return [draft.finish("internal tool", cache_gib=1.5)]


def _new(rng: np.random.Generator, days: int) -> list[Trace]:
    """An application that nobody knows: some testers, on the third day a launch, then growth by the day."""
    draft = _draft(rng, days)
    at = np.arange(days * DAY_S)
    launch = min(2, days - 1) * DAY_S + 10 * HOUR_S
    since = np.maximum(at - launch, 0)
    # Known within two hours, half forgotten by the evening, and from then on 15 % more every day.
    fame = np.minimum(since / (2 * HOUR_S), 1) * (0.35 * 1.15 ** (since / DAY_S) + 0.65 * np.exp(-since / (7 * HOUR_S)))
    rate = (0.03 + 60 * fame * _slow_noise(rng, days, 0.25)) * _people(at, 0, weekend=1.1)
    draft.ask(rate, 0.04)
    draft.pool += 10 + 30 * (since > 0)
    for start in _at_random(rng, 0.05 + 1.2 * (fame > 0) * fame):
        draft.spell(start, float(min(rng.pareto(1.4) * 5 + 2, 600)), 1.0, 0.25)
    return [draft.finish("new application", cache_gib=6.0)]


def _variable(rng: np.random.Generator, days: int) -> list[Trace]:
    """A business's application: working days with a dip at noon, jobs on the hour, a batch at night."""
    draft = _draft(rng, days)
    at = np.arange(days * DAY_S)
    people = _people(at, 0, weekend=0.12)
    draft.ask((1.0 + 130 * people) * _slow_noise(rng, days, 0.15), 0.025)
    draft.pool += 16 + np.round(50 * people / 4) * 4
    for start in _at_random(rng, 2.5 * people):
        draft.spell(start, float(min(rng.pareto(1.5) * 6 + 2, 900)), 1.0, 0.4)
    for hour in range(days * 24):
        draft.spell(hour * HOUR_S + rng.uniform(1, 4), float(rng.normal(100, 20)), 1.5, 0.3)
    for day in range(days):
        draft.spell(day * DAY_S + 1.5 * HOUR_S, float(rng.normal(2400, 200)), 2.0, 4.0)
        if day % 7 == 4:
            draft.spell(day * DAY_S + 16 * HOUR_S, 5400, 1.5, 2.0)
    return [draft.finish("business application", cache_gib=10.0)]


def _unpredictable(rng: np.random.Generator, days: int) -> list[Trace]:
    """Crowds that come without a sign: a quiet site, and some times a day what is many times that, within seconds."""
    draft = _draft(rng, days)
    at = np.arange(days * DAY_S)
    rate = 1.5 + 4 * _people(at, -2, weekend=1.0)
    for start in _at_random(rng, np.full(days * DAY_S, 0.45)):
        height, length = min(12 * (rng.pareto(1.3) + 1), 150), min(rng.pareto(1.1) * 90 + 40, 3 * HOUR_S)
        ramp = rng.uniform(1, 45)
        rate += height * np.clip((at - start) / ramp, 0, 1) * np.where(at < start + length, 1, 0)
        # Those who stay longer.
        rate += height * np.where(at >= start + length, np.exp(-np.maximum(at - start - length, 0) / 120), 0)
    draft.ask(rate, 0.03, spread=6.0)
    draft.pool += 24
    for start in _at_random(rng, np.full(days * DAY_S, 2.0)):
        draft.spell(start, float(min(rng.pareto(1.1) * 3 + 1, 1200)), float(rng.choice([1, 1, 1, 2, 3])), 0.5)
    return [draft.finish("site with crowds", cache_gib=5.0)]


def _development(rng: np.random.Generator, days: int) -> list[Trace]:
    """Some developers: statements by hand, their tests, the tests of each change, and a long test at night."""
    draft = _draft(rng, days)
    for day in range(days):
        if day % 7 in _WEEKEND:
            continue
        noon = day * DAY_S + 12 * HOUR_S
        for _ in range(4):
            start = noon + rng.uniform(-3.5, -2) * HOUR_S
            # Tools stay connected for as long as the laptop is open; one in four is left so over night.
            draft.connect(start, (22 if rng.random() < 0.25 else rng.uniform(7, 9.5)) * HOUR_S, 2)
            for spurt in start + np.cumsum(rng.exponential(1500, 18)):
                for at in spurt + np.cumsum(rng.exponential(25, rng.poisson(10))):
                    draft.spell(at, float(min(rng.pareto(1.5) + 0.6, 60)), float(rng.uniform(0.05, 0.9)), 0.05)
        for _ in range(rng.poisson(14)):
            start, length = noon + _hour(rng, -3, 7) * HOUR_S, rng.uniform(2, 8) * 60
            draft.connect(start, length, 8)
            _tests(draft, start, length, float(rng.uniform(0.8, 2.5)))
        draft.connect(day * DAY_S + 3 * HOUR_S, 2700, 8)
        _tests(draft, day * DAY_S + 3 * HOUR_S, 2700, 2.0)
    return [draft.finish("development", cache_gib=1.0)]


def _fleet(rng: np.random.Generator, days: int, tenants: int = 16) -> list[Trace]:
    """Tenants of a service around the world: a few large, most small, some that hardly ever come."""
    made = []
    for rank in range(tenants):
        draft = _draft(rng, days)
        zone = float(rng.choice([-8, -5, 0, 1, 1, 5.5, 9]))
        at = np.arange(days * DAY_S)
        people = _people(at, zone, weekend=0.15)
        people = np.where(people < 0.05, 0.0, people)
        size = 45 / (rank + 1) ** 1.1
        # Users come in visits, and many tenants have one or two at a time or none.
        visits = _visits(rng, people * min(size, 12), days)
        draft.ask(visits * max(size / 12, 1.0) * 0.35, 0.05)
        # Half of them have a pool that never closes, the rest one that closes ten minutes after the last user.
        draft.pool += 4 if rank % 2 else 4 * (_held(visits, 600) > 0)
        for start in _at_random(rng, np.where(visits > 0, 0.25, 0.0)):
            draft.spell(start, float(min(rng.pareto(1.4) * 4 + 1, 300)), 1.0, 0.3)
        if rank < 8:
            for day in range(days):
                draft.spell(day * DAY_S + (26 - zone) % 24 * HOUR_S, float(rng.uniform(120, 900)), 1.0, 0.6)
        made.append(draft.finish(f"tenant {rank + 1}", cache_gib=float(np.clip(4.0 / (rank + 1) ** 0.7, 0.3, 4))))
    return made


_CASES: Final[dict[str, tuple[str, int, Callable[[np.random.Generator, int], list[Trace]]]]] = {
    "infrequent": ("Infrequently used applications", 7, _infrequent),
    "new": ("New applications of unknown size", 5, _new),
    "variable": ("Variable workloads", 7, _variable),
    "unpredictable": ("Unpredictable workloads", 4, _unpredictable),
    "development": ("Development and test databases", 7, _development),
    "fleet": ("Multi-tenant fleets, 16 tenants", 2, _fleet),
}

NAMES: Final = tuple(_CASES)


def _draft(rng: np.random.Generator, days: int) -> _Draft:
    empty = [np.zeros(days * DAY_S) for _ in range(4)]
    return _Draft(rng=rng, cores=empty[0], spare_gib=empty[1], pool=empty[2], at_work=empty[3])


def _hour(rng: np.random.Generator, first: float, last: float) -> float:
    return float(first + (last - first) * rng.beta(1.8, 1.8))


def _people(at: NDArray[np.int64], zone_h: float, *, weekend: float) -> Floats:
    """Answer how many of all are there, 0 to about 1: a morning, a dip at noon, an afternoon, a little evening."""
    hour = (at / HOUR_S + zone_h) % 24
    curve = sum(
        height * np.exp(-(((hour - middle) / width) ** 2))
        for middle, width, height in ((10.4, 1.7, 0.95), (15.2, 2.2, 1.0), (20.5, 2.0, 0.25))
    )
    day = np.floor((at / HOUR_S + zone_h) / 24) % 7
    return np.asarray(curve * np.where(np.isin(day, _WEEKEND), weekend, 1.0) + 0.004)


def _slow_noise(rng: np.random.Generator, days: int, size: float) -> Floats:
    """Answer a factor about 1 that wanders within minutes."""
    steps = rng.normal(0, 1, days * 1440 + 60)
    wander = np.convolve(steps, np.ones(20) / np.sqrt(20), "same")[: days * 1440]
    factor: Floats = np.exp(size * np.interp(np.arange(days * DAY_S) / 60, np.arange(days * 1440), wander))
    return factor


def _at_random(rng: np.random.Generator, an_hour: Floats) -> NDArray[np.int64]:
    """Answer seconds at which something happens, `an_hour` times an hour."""
    return np.flatnonzero(rng.random(len(an_hour)) < an_hour / HOUR_S)


def _visits(rng: np.random.Generator, wanted: Floats, days: int) -> Floats:
    """Answer how many users are there: they come by chance and stay for some minutes, twelve on average."""
    seconds = days * DAY_S
    change = np.zeros(seconds + 1)
    comes = np.flatnonzero(rng.random(seconds) < wanted / 720)
    goes = np.minimum(comes + np.maximum(rng.exponential(720, len(comes)), 30).astype(np.int64), seconds)
    np.add.at(change, comes, 1)
    np.add.at(change, goes, -1)
    there: Floats = np.cumsum(change)[:seconds]
    return there


def _held(values: Floats, seconds: int) -> Floats:
    """Answer the values, each non-zero one drawn out over the seconds after it."""
    totals = np.cumsum(values)
    held: Floats = totals - np.concatenate([np.zeros(seconds), totals[:-seconds]])
    return held


def _smooth(values: Floats, seconds: int) -> Floats:
    """Answer the mean of the last so many seconds."""
    return _held(values, seconds) / seconds


def _tests(draft: _Draft, start: float, length_s: float, cores: float) -> None:
    """Add a run of tests: short ones, one after the other, with a moment between them."""
    at = start + 2
    while at < start + length_s:
        length = draft.rng.uniform(2, 25)
        draft.spell(at, length, cores * float(draft.rng.uniform(0.4, 1.0)), 0.2)
        at += length + draft.rng.exponential(2)
