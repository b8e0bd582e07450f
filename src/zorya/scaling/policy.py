"""How much capacity a cluster should have. Pure: a situation in, a capacity and its reason out.

`control.autoscaler` is the half that reads counters and acts.
"""

from dataclasses import dataclass
from enum import StrEnum

from zorya.core.capacity import Acu, Bounds
from zorya.scaling.demand import Demand


class Part(StrEnum):
    """What asks for a capacity. The target is the most that any of them asks for."""

    CPU = "cpu"
    MEMORY = "memory"
    SESSIONS = "sessions"
    BOUNDS = "bounds"
    """The cluster's least or most capacity, or its fixed one."""
    HAND = "hand"
    """Somebody has set it, and it is not yet for the policy to go on."""
    NODE = "node"
    """There is no more on this host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """All that a decision depends on, but for what went before."""

    now_s: float
    """By the monotonic clock."""
    capacity: float
    """What it has, in ACUs."""
    demand: Demand
    """Since the last decision, or the last whole second if that is longer."""
    bounds: Bounds
    acu: Acu
    burst: bool
    """Whether it may use more cores than its capacity's, up to those of its most, while they are free."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What it should have."""

    capacity: float
    """In ACUs, a step within the bounds."""
    part: Part
    """What asked for it."""
    reason: str
    """Why, as a sentence for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What went before, as far as it matters. Made by `begin`; a caller passes on what it was given last."""

    held_until_s: float
    """Until when a capacity that was set by hand stays."""


def begin() -> History:
    """Answer the history of a cluster that has none: it starts, or was just found."""
    return History(held_until_s=0.0)


def set_by_hand(history: History, until_s: float) -> History:
    """Answer the history after somebody has set the capacity, which is to stay until then."""
    raise NotImplementedError


def decide(now: Situation, history: History) -> tuple[Decision, History]:
    """Answer what the cluster should have now. Total; to be asked again every second at least, and at any time."""
    raise NotImplementedError
