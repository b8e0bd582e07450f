"""The two clocks. Durations and deadlines use the monotonic one; the wall clock only labels what people read."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What tells the time; tests bring one whose wall clock jumps."""

    def now(self) -> datetime:
        """The wall clock, in UTC. May jump in either direction."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment. Never goes back."""


class SystemClock:
    """The host's clocks."""

    def now(self) -> datetime:
        """See Clock.now."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """See Clock.monotonic_s."""
        return time.monotonic()
