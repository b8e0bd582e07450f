"""What the owners of all clusters share."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol

from zorya.compute.freezer import Freezer
from zorya.control.catalog import Catalog
from zorya.control.instance import InstanceRunner
from zorya.core.capacity import Acu
from zorya.core.clock import Clock
from zorya.metering.meters import Meters


class Guard(Protocol):
    """What thaws engines if this process dies. Never blocks."""

    @property
    def problem(self) -> str:
        """Why there is nothing that would thaw an engine, as a sentence; empty when there is."""

    def guard(self, name: str, freezer: Freezer) -> None:
        """Thaw this engine when this process has ended."""

    def forget(self, name: str) -> None:
        """The engine is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What every owner shares with the others."""

    catalog: Catalog
    clock: Clock
    runner: InstanceRunner
    guard: Guard
    wake_timeout_s: float
    stop_timeout_s: float
    reclaim_after_s: float
    acu: Acu
    burst: bool
    """Whether clusters may use cores beyond their present capacity while those are free."""
    capacity_hold_s: float
    """How long a capacity that was set by hand stays."""
    log_keep_bytes: int
    """How much log is kept for a copy that has fallen behind or is gone."""
    log_retention_s: float
    """How long tails keep log that nothing needs any more."""
    rebuild_max_kib_s: int | None
    """How much the making of a new copy may read and write in a second; None is any."""
    meters: Meters
    shared_ports: Set[int]
    """Ports beside the clusters' own at which clients' connections may end."""
    login_failed: Callable[[str, str, int, str], str]
    """Called with the cluster, the client's address and port and the role it wanted to be, for each login that an
    engine turned down. A relayed client's address is this host's, its port that of the relay; answers its true one."""
    told: Callable[[], None]
    """Called after each event that was written."""
