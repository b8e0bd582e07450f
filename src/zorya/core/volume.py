"""A cluster's volume: its copies, where they are, and which of them it goes by. Values; the decisions are `storage`'s.

A volume has one, three or six copies. A *full* copy has the data and the log, a *tail* copy the log alone. One full
copy is the primary, the others follow it. The *epoch* rises each time that another copy becomes the primary; PostgreSQL
calls the branch of the log that begins there a timeline.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ZONES = ("a", "b", "c")


class CopyKind(StrEnum):
    """What a copy holds."""

    FULL = "full"
    """Data and log."""
    TAIL = "tail"
    """The log alone."""


class CopyState(StrEnum):
    """What is known of one copy now."""

    CURRENT = "current"
    """It has what has been committed: it is the primary, follows it closely, or rests at the volume's position."""
    BEHIND = "behind"
    """It follows, and is catching up."""
    BUILDING = "building"
    """It is being made anew from the others."""
    LOST = "lost"
    """It cannot be used as it is: gone, damaged, out of reach, or not of this history."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One copy of a volume, and where it is."""

    zone: str
    kind: CopyKind
    folder: Path
    """The cluster's folder in that zone, which the two copies there share."""

    @property
    def name(self) -> str:
        """Its name within the volume, such as "b_tail": PostgreSQL knows its connection and its slot by it."""
        return f"{self.zone}_{self.kind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """The time for which one copy is the primary."""

    number: int
    copy: str
    """The name of that copy."""
    timeline: int | None
    """The engine's own number for the branch of the log; None until the copy has become the primary."""
    begins_at: int | None
    """The position at which its log leaves that of the epoch before, in bytes; None as above. The first's is 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """The volume as the catalog keeps it."""

    copies: tuple[Copy, ...]
    """The primary's first zone first; each name once."""
    primary: str
    """The name of the copy that the engine runs on, or will at the next start."""
    epochs: tuple[Epoch, ...]
    """Those that the present log has gone through, the oldest first; abandoned ones are not among them."""
    last_epoch: int
    """The highest number that was ever given to one, abandoned ones among them."""
    established: tuple[str, ...]
    """The names of the copies by whose number the rule goes that is in force: 1, 3 or 6, the primary among them.

    Those that a volume was given later count from when all of them were there for the first time.
    """

    def copy(self, name: str) -> Copy:
        """Answer the copy of this name. Raises KeyError."""
        found = {one.name: one for one in self.copies}
        return found[name]

    rest: int | None
    """The position at which the primary was stopped cleanly; None while it runs, or where it was not."""

    @property
    def is_established(self) -> bool:
        """Whether all copies count: the rule in force is that of their number."""
        return set(self.established) == {one.name for one in self.copies}

    @property
    def others(self) -> tuple[Copy, ...]:
        """All but the primary."""
        return tuple(one for one in self.copies if one.name != self.primary)

    @property
    def epoch(self) -> Epoch:
        """The present one."""
        return self.epochs[-1]


def format_position(position: int) -> str:
    """Answer a position in the log as PostgreSQL writes it, such as "0/1A2B3C4"."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def parse_position(text: str) -> int:
    """Read what `format_position` writes. Raises ValueError."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)
