"""What control tells others of a cluster: the values that the API, and through it the command line, show."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from zorya.core.model import Address, Compute, EngineKind, Mode, Secret, Status, WakeOn


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationView:
    """The operation that a cluster's owner is carrying out."""

    name: str
    """create, resume, pause, stop or delete."""
    step: str
    """What is being done now, in words that complete "main: …"."""
    since: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterView:
    """One cluster at one moment. Everything but the password."""

    name: str
    id: str
    engine: EngineKind
    engine_version: str
    mode: Mode
    status: Status
    compute: Compute
    reason: str
    """Why the cluster is in this state, as a sentence."""
    capacity: float
    """ACUs in use now; 0 while stopped or frozen."""
    min_capacity: float
    max_capacity: float
    pause_after_s: int | None
    """None is never."""
    freeze_after_s: float | None
    """None is never."""
    allow: tuple[str, ...]
    """Networks in CIDR notation from which clients may come."""
    require_tls: bool
    wake_on: WakeOn
    max_clients: int | None
    """None is no limit of its own."""
    endpoint: Address
    endpoint_problem: str
    """Why the endpoint does not listen; empty when it does."""
    attach: str
    """How clients reach the engine: `handoff` or `relay`."""
    attach_reason: str
    username: str
    database: str
    sessions: int
    """Clients connected or waiting to be."""
    engine_pid: int | None
    resident_bytes: int | None
    """Memory that the engine occupies now; None where it does not run or the host does not tell."""
    awake_reason: str
    """What keeps a running cluster from freezing, as a sentence; empty when nothing does, or it does not run."""
    engine_log: str
    """Path of the engine's log on the server's host."""
    pauses_in_s: float | None
    """Seconds until the cluster pauses if nobody connects; None when no pause is coming."""
    operation: OperationView | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class EventView:
    """Something that happened to a cluster."""

    seq: int
    """Rises by at least one an event, over all clusters, whatever the wall clock does."""
    at: datetime
    cluster: str
    kind: str
    """Such as ZORYA-EVENT-0148; the numbers below 1000 are those of the RDS events with the same meaning."""
    category: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateRequest:
    """What a user asks for. Not validated yet, but for its types."""

    name: str
    engine: EngineKind
    version: str | None
    """Major version such as "16"; None is the newest found."""
    min_capacity: float
    max_capacity: float
    pause_after_s: int | None
    freeze_after_s: float | None
    allow: tuple[str, ...] | None
    """Networks from which clients may come; None is this host alone, and is refused where others could come."""
    require_tls: bool
    wake_on: WakeOn
    max_clients: int | None
    port: int | None
    """None takes a free one of the configured range."""


class Unchanged(Enum):
    """The one value that leaves things as they are, where None means something."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, kw_only=True, slots=True)
class ModifyRequest:
    """What a user wants to be otherwise. Not validated yet, but for its types."""

    allow: tuple[str, ...] | Unchanged
    require_tls: bool | Unchanged
    wake_on: WakeOn | Unchanged
    max_clients: int | Unchanged | None
    pause_after_s: int | Unchanged | None
    freeze_after_s: float | Unchanged | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """What a client needs to connect. `url` holds the password too."""

    username: str
    password: Secret
    database: str
    endpoint: Address
    url: Secret
