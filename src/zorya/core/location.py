"""Where a home is and where its server is reached: all that the command line needs to know of it, at little cost."""

import os
from pathlib import Path

API_SOCKET = Path("run/zorya.sock")
"""The REST API's Unix socket, below the home."""

SERVER_LOG = Path("log/server.log")
"""Where a detached server logs, below the home."""


def default_home() -> Path:
    """Answer where Zorya keeps its state: $ZORYA_HOME, else /var/lib/zorya for root, else under the user's home."""
    given = os.environ.get("ZORYA_HOME")
    if given:
        return Path(given).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/zorya")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "zorya"
