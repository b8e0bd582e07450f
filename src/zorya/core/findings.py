"""What an examination of the host finds: the value that `zorya doctor` shows."""

from dataclasses import dataclass
from enum import StrEnum


class FindingState(StrEnum):
    """How good what was found is."""

    OK = "ok"
    WARNING = "warning"
    """Zorya works, but could do more."""
    MISSING = "missing"
    """Zorya cannot work until this is mended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What was looked at, in a word or two: `home`, `PostgreSQL`, `cgroup`."""
    state: FindingState
    found: str
    """What is there, as a sentence."""
    advice: str
    """What to do about it, as a sentence; empty when there is nothing to do."""
