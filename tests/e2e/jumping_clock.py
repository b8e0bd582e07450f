"""The `zorya` command with a wall clock that a test can turn: CLOCK_OFFSET_FILE names a file with the seconds."""

import os
from datetime import datetime, timedelta
from pathlib import Path

from zorya import server
from zorya.cli.main import main
from zorya.core.clock import SystemClock

_OFFSET = Path(os.environ["CLOCK_OFFSET_FILE"])


class JumpingClock(SystemClock):
    """The host's clocks, with the wall clock turned."""

    def now(self) -> datetime:
        """See Clock.now."""
        return super().now() + timedelta(seconds=float(_OFFSET.read_text()))


server.SystemClock = JumpingClock  # type: ignore[attr-defined]
main()
