"""A clock that a test turns."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(kw_only=True, slots=True)
class TurnedClock:
    """Both clocks stand still unless they are turned."""

    wall: datetime
    monotonic: float = 1000.0

    def now(self) -> datetime:
        """See Clock.now."""
        return self.wall

    def monotonic_s(self) -> float:
        """See Clock.monotonic_s."""
        return self.monotonic

    def pass_time(self, seconds: float) -> None:
        """Let time go by."""
        self.monotonic = round(self.monotonic + seconds, 6)
        self.wall += timedelta(seconds=seconds)

    def jump(self, seconds: float) -> None:
        """Turn the wall clock alone, as who sets it does, and a host that was suspended."""
        self.wall += timedelta(seconds=seconds)
