"""Capacity and its unit. One Aurora capacity unit (ACU) is memory with the cores that go with it. Pure."""

import math
from dataclasses import dataclass

STEP = 0.5
"""Capacity comes in steps of so many ACUs, and at least one of them."""

LIMIT = 256.0
"""The most that a cluster can be given, in ACUs, as of Aurora."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Acu:
    """What one ACU is on this server."""

    memory_bytes: int
    cores: float

    def memory_of(self, capacity_acu: float) -> int:
        """Answer the memory of a capacity, in bytes."""
        return int(capacity_acu * self.memory_bytes)

    def cores_of(self, capacity_acu: float) -> float:
        """Answer the cores of a capacity."""
        return capacity_acu * self.cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Between which capacities a cluster is kept, both included, in ACUs. Equal for a provisioned one."""

    least: float
    most: float

    def clamp(self, capacity_acu: float) -> float:
        """Answer the capacity of these bounds that is nearest."""
        return min(max(capacity_acu, self.least), self.most)


USUAL = Bounds(least=STEP, most=4)
"""Those of a cluster for which nobody has chosen any."""


def round_up(capacity_acu: float) -> float:
    """Answer the next step that is not below, at least one."""
    # A hair more than a step, as sums of floats are, is that step.
    return max(STEP, math.ceil(round(capacity_acu / STEP, 9)) * STEP)


def round_down(capacity_acu: float) -> float:
    """Answer the step that is not above, at least one."""
    return max(STEP, math.floor(round(capacity_acu / STEP, 9)) * STEP)


def is_capacity(value: float) -> bool:
    """Whether a cluster can be given so much: a step from STEP to LIMIT."""
    return STEP <= value <= LIMIT and value % STEP == 0
