"""What a group of processes may use, and how a kernel is told. `group.ProcessGroup.limit` applies it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one group may use."""

    cap_cores: float
    """The most cores at once, whatever is free."""
    weight_acu: float
    """Its share of the cores where groups want more than there are: in proportion to that of the others."""
    soft_bytes: int
    """Memory that it may keep; what it has above this is taken back when the kernel can, and never by force."""
    hard_bytes: int
    """The most memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limited:
    """What has become of Limits."""

    shortfall: str
    """What could not be done for now, as a sentence; empty when all was: memory in use is never taken away."""
