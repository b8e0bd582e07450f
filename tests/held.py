"""A server that is held at a step of what it does, until the test lets it go on."""

from collections.abc import Mapping

from harness import Server
from waiting import wait_until


class Held:
    """The failpoint `name` of one server, with the action `pause`; see core/failpoints.py.

    Start the server with `env`.
    """

    def __init__(self, server: Server, name: str) -> None:
        self._name = name
        self._path = server.home.parent / "release"
        self.env: Mapping[str, str] = {
            "ZORYA_FAILPOINTS": f"{name}=pause",
            "ZORYA_FAILPOINT_RELEASE": str(self._path),
        }

    def wait(self) -> None:
        """Wait until the server has come to the step."""
        wait_until(self._path.with_suffix(".reached").exists, f"the server has come to {self._name}")

    def release(self) -> None:
        """Let it go on, now and whenever it comes there again."""
        self._path.touch()
