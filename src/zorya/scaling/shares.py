"""Who gets how much where clusters want more than the node has. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
    one does not want is the others'.
    """
    raise NotImplementedError
