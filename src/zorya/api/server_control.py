"""What the API may ask of the server as a whole. `zorya.server` implements it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from zorya.control.view import NodeView
from zorya.core.capacity import Acu
from zorya.core.findings import Finding
from zorya.core.model import Compute
from zorya.trust.certificates import CertificateView


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerStatus:
    """The server at one moment."""

    version: str
    home: Path
    pid: int
    started_at: datetime
    uptime_s: float
    api_socket: Path
    api_port: int
    """TCP port of this API."""
    api_url: str
    """Where it is reached over TCP."""
    bind: Sequence[str]
    """Addresses on which clusters' endpoints listen."""
    clusters: Mapping[Compute, int]
    """How many clusters are in each compute state; states that no cluster is in may be absent."""
    sessions: int
    """Clients connected or waiting to be, all clusters together."""
    node: NodeView
    """What this host has for all clusters together."""
    acu: Acu
    """What one ACU is."""


class ServerControl(Protocol):
    """The running server. No method blocks the event loop."""

    @property
    def default_pause_after_s(self) -> int | None:
        """The delay of a cluster that is created without one; None is never."""

    @property
    def default_freeze_after_s(self) -> float | None:
        """The quiet time of a cluster that is created without one; None is never."""

    def status(self) -> ServerStatus:
        """Answer what the server is doing now."""

    async def doctor(self) -> Sequence[Finding]:
        """Examine the host."""

    def ca(self) -> CertificateView:
        """Answer the server's certificate, and the root where that is Zorya's own."""

    async def renew_certificate(self) -> CertificateView:
        """Make a new server certificate and answer it, once connections that begin get it.

        Raises Conflict when the certificate is the operator's, DiskFull and StorageProblem when it cannot be written.
        """

    def stop(self, *, leave_running: bool) -> None:
        """Begin to put every cluster to sleep and then end the server. Returns at once; may be repeated.

        With `leave_running` the engines and their sessions go on instead, for the next server to take over.
        """
