"""A full copy's place among the copies of its volume, as its engine is to see it. Values."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where another copy of the volume gives its log away."""

    socket: Path
    """The folder of the engine's Unix socket."""
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Following:
    """A full copy's place among the copies of its volume."""

    copy: str
    """Its name."""
    others: tuple[str, ...]
    """The names of all the other copies. While this one is the primary, they follow it."""
    counted: tuple[str, ...]
    """Those of the others that count for it."""
    needed: int
    """How many of those that count have a commit on their disk before the client hears of it; 0 is none."""
    leads: bool
    """Whether it is started as the primary; otherwise it follows, and serves reads only."""
    source: Source | None
    """Where one that follows gets its log now; None while it is to get none, and for the primary."""
    collected: Path | None
    """A folder with log that it is to replay besides, as `Replication.offer` made it; None is none."""
    keep_bytes: int
    """How much log the primary keeps, at most, for a copy that has fallen behind or is gone."""
