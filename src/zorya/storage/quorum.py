"""How many copies a commit is on, how many are read to know of it, and how a volume is with those it has. Pure."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """`write` copies have a commit before the client hears of it; any `read` copies share one with these."""

    copies: int
    write: int
    read: int

    @property
    def followers_needed(self) -> int:
        """How many of the others, beside the primary, have a commit before the client hears of it."""
        return self.write - 1


_RULES = {6: Rule(copies=6, write=4, read=3), 3: Rule(copies=3, write=2, read=2), 1: Rule(copies=1, write=1, read=1)}


def rule(copies: int) -> Rule:
    """Answer the rule of a volume that is to have so many copies: 1, 3 or 6."""
    return _RULES[copies]


@dataclass(frozen=True, order=True, slots=True, kw_only=True)
class Position:
    """How far a copy's log goes. They compare by the epoch first.

    `epoch` is that of the last *record*, not the highest that the copy has joined; see election.
    """

    epoch: int
    position: int
    """In bytes."""


class Health(StrEnum):
    """How a volume is."""

    WHOLE = "whole"
    DEGRADED = "degraded"
    """Copies are missing; writes go on."""
    WAITING = "waiting"
    """Commits wait; reads go on."""
    LOST = "lost"
    """Too few are left to know what was committed."""
    BUILDING = "building"
    """Copies that it never had are being made; until they are there commits do not wait for them."""


def assess(rule: Rule, *, current: int, reachable: int, established: bool) -> tuple[Health, str]:
    """Answer how a volume is, and why, as a sentence.

    `current` copies have everything, the primary among them; `reachable` ones run, and may lack something.
    """
    have = f"{current} of {rule.copies} copies {'is' if current == 1 else 'are'} current"
    if not established:
        return Health.BUILDING, f"{have}; commits do not wait for the others yet."
    if current >= rule.copies:
        return Health.WHOLE, f"All {rule.copies} copies are current." if rule.copies > 1 else "It has one copy."
    if current >= rule.write:
        return Health.DEGRADED, f"{have}; writes go on."
    if max(current, reachable) >= rule.read:
        return Health.WAITING, f"{have}, and a commit needs {rule.write}: commits wait, reads go on."
    return Health.LOST, f"{have}, and {rule.read} have to be there to know what was committed."
