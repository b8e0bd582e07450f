"""Who gets how much where clusters want more than the node has. Pure."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from zorya.core.capacity import STEP, round_down, round_up


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What one cluster wants, in ACUs."""

    name: str
    wanted: float
    least: float
    """What it gets in any case."""
    weight: float
    """Its part of what is too little for all."""


def allot(claims: Sequence[Claim], node_acu: float) -> Mapping[str, float]:
    """Answer the capacity of each, by name, in steps: what it wants where that fits, else a fair share by weight.

    Nobody gets more than it wants or less than its least, even where the leasts alone are more than the node has; what
    one does not want is the others'. Who wants less than its least gets its least. The shares are of what the leasts
    leave, as of the seats of a parliament (D'Hondt's method): each step goes to the one whose share, with it, is the
    smallest for its weight. With a larger node nobody gets less. `claims` have different names.
    """
    leasts = {claim.name: round_up(claim.least) for claim in claims}
    wanted = {claim.name: max(round_up(claim.wanted), leasts[claim.name]) for claim in claims}
    left = round((round_down(node_acu) - sum(leasts.values())) / STEP)
    if left >= round((sum(wanted.values()) - sum(leasts.values())) / STEP):
        return wanted
    granted = dict(leasts)
    turns = [(_turn(claim, 1), claim.name, claim, 1) for claim in claims if granted[claim.name] < wanted[claim.name]]
    heapq.heapify(turns)
    while left > 0 and turns:
        _, name, claim, count = turns[0]
        granted[name] += STEP
        left -= 1
        if granted[name] < wanted[name]:
            heapq.heapreplace(turns, (_turn(claim, count + 1), name, claim, count + 1))
        else:
            heapq.heappop(turns)
    return granted


def _turn(claim: Claim, count: int) -> float:
    """Answer when a claim gets its next step, its `count`th above its least. One without weight is the last."""
    return count / claim.weight if claim.weight > 0 else inf
