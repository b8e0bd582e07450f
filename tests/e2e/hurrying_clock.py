"""The `zorya` command with both clocks ahead: CLOCK_OFFSET_FILE names a file with the seconds, which only rise.

What a minute of rest changes is seen without waiting for it.
"""

import os
from datetime import datetime, timedelta
from pathlib import Path

from zorya import server
from zorya.cli.main import main
from zorya.core.clock import SystemClock

_OFFSET = Path(os.environ["CLOCK_OFFSET_FILE"])


class HurryingClock(SystemClock):
    """The host's clocks, ahead."""

    def now(self) -> datetime:
        """See Clock.now."""
        return super().now() + timedelta(seconds=float(_OFFSET.read_text()))

    def monotonic_s(self) -> float:
        """See Clock.monotonic_s."""
        return super().monotonic_s() + float(_OFFSET.read_text())


server.SystemClock = HurryingClock  # type: ignore[attr-defined]
main()
