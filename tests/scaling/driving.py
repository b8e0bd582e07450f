"""A cluster without processes: what it would use, and the policy asked every second."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from zorya.core.capacity import Acu, Bounds
from zorya.scaling import policy
from zorya.scaling.demand import Demand

MIB, GIB = 1024**2, 1024**3
ACU = Acu(memory_bytes=2 * GIB, cores=0.25)
BOUNDS = Bounds(least=0.5, most=64.0)

REST = Demand(
    cores=0.0,
    throttled=0.0,
    waiting_cores=0.0,
    memory_bytes=300 * MIB,
    unreclaimable_bytes=200 * MIB,
    warm_bytes=0,
    read_bytes_s=0.0,
    refault_bytes_s=0.0,
    hit_ratio=None,
    sessions=0,
    at_work=0,
    waiting=0,
    oom_kills=0,
)
"""An engine that does nothing."""


class Driven:
    """One cluster. It uses what it wants, as far as its cap allows, and gets what is decided."""

    def __init__(
        self, *, capacity: float = 0.5, bounds: Bounds = BOUNDS, burst: bool = True, known: bool = True
    ) -> None:
        """With `known` it has been at rest for some minutes."""
        self.capacity, self.bounds, self.burst = capacity, bounds, burst
        self.now_s = 1000.0
        self.history = policy.begin()
        if known:
            self.look(REST)
            self.now_s += 400
            self.capacity = capacity

    def look(self, demand: Demand, after_s: float = 1.0) -> policy.Decision:
        """Ask once, after some time, and do what is answered."""
        self.now_s += after_s
        decision = self._ask(demand)
        self.capacity = decision.capacity
        return decision

    def run(self, seconds: int, wanted: Demand | Callable[[int], Demand]) -> list[float]:
        """Ask every second. Answer the capacities."""
        capacities = []
        for second in range(seconds):
            demand = wanted(second) if callable(wanted) else wanted
            self.look(self._capped(demand))
            capacities.append(self.capacity)
        return capacities

    def _capped(self, demand: Demand) -> Demand:
        cap = ACU.cores_of(self.bounds.most if self.burst else self.capacity)
        if demand.cores <= cap:
            return demand
        return replace(demand, cores=cap, throttled=1 - cap / demand.cores)

    def jump(self, demand: Demand, tick_cores: float) -> policy.Decision:
        """Have it looked at because of the last tick; answer what was decided."""
        decision = self._ask(demand, tick_cores)
        self.capacity = decision.capacity
        return decision

    def _ask(self, demand: Demand, tick_cores: float = 0.0) -> policy.Decision:
        situation = policy.Situation(
            now_s=self.now_s,
            capacity=self.capacity,
            demand=demand,
            tick_cores=tick_cores,
            bounds=self.bounds,
            acu=ACU,
            burst=self.burst,
        )
        decision, self.history = policy.decide(situation, self.history)
        return decision


def changes(capacities: list[float]) -> int:
    """Answer how often it changed."""
    return sum(a != b for a, b in pairwise(capacities))


def rises(capacities: list[float]) -> int:
    """Answer how often it rose."""
    return sum(a < b for a, b in pairwise(capacities))
