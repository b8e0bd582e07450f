"""What control tells others of a cluster: the values that the API, and through it the command line, show."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from zorya.core.model import Address, Compute, EngineKind, Mode, Secret, Status, WakeOn
from zorya.core.volume import CopyKind, CopyState


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationView:
    """The operation that a cluster's owner is carrying out."""

    name: str
    """create, resume, pause, stop or delete."""
    step: str
    """What is being done now, in words that complete "main: …"."""
    since: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingView:
    """One change of a cluster's capacity."""

    at: datetime
    from_acu: float
    to_acu: float
    part: str
    """What asked for it: cpu, memory, sessions, bounds, hand or node."""
    reason: str
    """Why, as a sentence."""
    took_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadView:
    """What a running cluster did in the last second or so."""

    cores: float
    """Used."""
    cores_wanted: float
    """Used, and what was ready to run and did not."""
    memory_bytes: int
    """All that is charged to it, page cache included."""
    in_use_bytes: int
    """Of that, what it cannot do without."""
    at_work: int
    """Sessions that do something or wait within a transaction."""
    waiting: int
    """Sessions that wait for a lock."""
    hit_ratio: float | None
    """Of the blocks that it needed, the part that the engine's own cache had, 0 to 1."""
    cpu_s: float
    """Processor time since its engine started. Only rises."""
    throttled_s: float | None
    """Of the time since then, that in which the cap on cores kept something from running; None where unknown."""
    oom_kills: int | None
    """Processes that the kernel ended for want of memory since then; None where unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyView:
    """One copy of a cluster's volume at one moment."""

    name: str
    """Zone and kind, such as `b_tail`."""
    zone: str
    kind: CopyKind
    is_primary: bool
    state: CopyState
    reason: str
    """Why it is in this state, as a sentence; empty where there is nothing to say."""
    position: int | None
    """How far its log goes, in bytes; None where that is not known."""
    lag_bytes: int | None
    """How much of the primary's log it does not have yet; None where that is not known."""
    lag_s: float | None
    """How long ago it last had all that the primary had, 0 if it has; None where that is not known."""
    progress: float | None
    """Of one that is being made anew the part that is done, 0 to 1; None otherwise, and where that is not known."""
    verified_at: datetime | None
    """When its checksums were last found to be right; None is never."""
    folder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeView:
    """A cluster's volume at one moment."""

    copies: int
    """How many it is to have: 1, 3 or 6."""
    current: int
    """How many have everything, the primary among them."""
    needed: int
    """How many have to have a commit before the client hears of it, the primary among them."""
    health: str
    """One of `whole`, `degraded` (writes go on), `waiting` (commits wait), `lost` (too few to know what was committed),
    `building` (copies that it never had are being made)."""
    reason: str
    """Why, as a sentence."""
    epoch: int
    primary: str
    """The name of the copy that is the primary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyView:
    """What a verification of a cluster's volume has found."""

    copies: int
    """How many were looked at."""
    damaged: tuple[str, ...]
    """What was found to be damaged, as sentences."""
    repaired: tuple[str, ...]
    """Which copies are repaired, or are being made anew for it."""
    took_s: float


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
    fixed_capacity: float | None
    """ACUs that a provisioned cluster has while it runs; None for a serverless one."""
    last_scaling: ScalingView | None
    """The last change of capacity since the engine started, or was found; None where there was none."""
    load: LoadView | None
    """What it used last; None while it does not run."""
    acu_s: float
    """Capacity over all the time since its creation, in ACU-seconds. Only rises."""
    storage_bytes: int | None
    """The size of its files; None until they were looked at."""
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
    volume: VolumeView
    reader_endpoint: Address | None
    """Where those who only read are served by the other full copies; None where there are none."""
    reader_problem: str
    """Why the reader endpoint does not listen; empty when it does, or there is none."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeView:
    """What this host has for all clusters together."""

    capacity: float
    """ACUs."""
    allotted: float
    """ACUs that clusters have now."""
    cores: float
    memory_bytes: int


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
    mode: Mode
    fixed_capacity: float | None
    """Of a provisioned cluster; None is its max_capacity."""
    pause_after_s: int | None
    freeze_after_s: float | None
    allow: tuple[str, ...] | None
    """Networks from which clients may come; None is this host alone, and is refused where others could come."""
    require_tls: bool
    wake_on: WakeOn
    max_clients: int | None
    copies: int | None
    """1, 3 or 6; None takes what the setting says."""
    port: int | None
    """None takes a free one of the configured range."""


class Unchanged(Enum):
    """The one value that leaves things as they are, where None means something."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, kw_only=True, slots=True)
class ModifyRequest:
    """What a user wants to be otherwise. Not validated yet, but for its types."""

    min_capacity: float | Unchanged
    max_capacity: float | Unchanged
    mode: Mode | Unchanged
    fixed_capacity: float | Unchanged
    """Of a provisioned cluster."""
    allow: tuple[str, ...] | Unchanged
    require_tls: bool | Unchanged
    wake_on: WakeOn | Unchanged
    max_clients: int | Unchanged | None
    copies: int | Unchanged
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
