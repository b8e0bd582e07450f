"""The API's answers as this program reads them: the types of `api.schemas` without the cost of importing them."""

from typing import Literal, TypedDict


class Endpoint(TypedDict):
    """Where clients connect."""

    host: str
    port: int


class Operation(TypedDict):
    """What is being done to a cluster."""

    name: str
    step: str
    since: str


class Scaling(TypedDict):
    """One change of a cluster's capacity."""

    at: str
    from_acu: float
    to_acu: float
    part: str
    reason: str
    took_s: float


class Load(TypedDict):
    """What a running cluster did last."""

    cores: float
    cores_wanted: float
    memory_bytes: int
    in_use_bytes: int
    at_work: int
    waiting: int
    hit_ratio: float | None
    cpu_s: float
    throttled_s: float | None
    oom_kills: int | None


class Volume(TypedDict):
    """A cluster's volume: its copies together."""

    copies: int
    current: int
    needed: int
    health: str
    reason: str
    epoch: int
    primary: str


class Copy(TypedDict):
    """One copy of a cluster's volume."""

    name: str
    zone: str
    kind: str
    is_primary: bool
    state: str
    reason: str
    position: str | None
    lag_bytes: int | None
    lag_s: float | None
    progress: float | None
    verified_at: str | None
    folder: str


class Verification(TypedDict):
    """What a verification of a cluster's volume has found."""

    copies: int
    damaged: list[str]
    repaired: list[str]
    took_s: float


class Cluster(TypedDict):
    """One cluster."""

    name: str
    id: str
    engine: str
    engine_version: str
    mode: str
    status: str
    compute: str
    reason: str
    capacity: float
    min_capacity: float
    max_capacity: float
    fixed_capacity: float | None
    last_scaling: Scaling | None
    load: Load | None
    acu_s: float
    storage_bytes: int | None
    pause_after_s: int | None
    freeze_after_s: float | None
    allow: list[str]
    require_tls: bool
    wake_on: str
    max_clients: int | None
    endpoint: Endpoint
    endpoint_problem: str
    attach: str
    attach_reason: str
    username: str
    database: str
    sessions: int
    engine_pid: int | None
    resident_bytes: int | None
    awake_reason: str
    engine_log: str
    pauses_in_s: float | None
    operation: Operation | None
    volume: Volume
    reader_endpoint: Endpoint | None
    reader_problem: str
    created_at: str


class CreateCluster(TypedDict, total=False):
    """What a new cluster should be; what is absent is the server's choice."""

    name: str
    engine: str
    version: str
    min_capacity: float
    max_capacity: float
    mode: str
    capacity: float
    pause_after: str
    freeze_after: str
    allow: list[str]
    require_tls: bool
    wake_on: str
    max_clients: int
    copies: int
    port: int


class ModifyCluster(TypedDict, total=False):
    """What of a cluster should be otherwise; what is absent stays."""

    min_capacity: float
    max_capacity: float
    mode: str
    capacity: float
    allow: list[str]
    require_tls: bool
    wake_on: str
    max_clients: int | str
    copies: int
    pause_after: str
    freeze_after: str


class Credentials(TypedDict):
    """What a client needs to connect."""

    username: str
    password: str
    database: str
    endpoint: Endpoint
    url: str


class Event(TypedDict):
    """Something that happened."""

    seq: int
    at: str
    cluster: str
    kind: str
    category: str
    message: str


class Node(TypedDict):
    """What the host has for all clusters together."""

    capacity: float
    allotted: float
    cores: float
    memory_bytes: int


class Acu(TypedDict):
    """What one ACU is."""

    memory_bytes: int
    cores: float


class ServerStatus(TypedDict):
    """The server at one moment."""

    version: str
    home: str
    pid: int
    started_at: str
    uptime_s: float
    api_socket: str
    api_port: int
    api_url: str
    bind: list[str]
    clusters: dict[str, int]
    sessions: int
    node: Node
    acu: Acu


class ServerCertificate(TypedDict):
    """The server's certificate, and the root where that is Zorya's own."""

    root_pem: str | None
    root_fingerprint: str | None
    root_not_after: str | None
    fingerprint: str
    not_after: str
    names: list[str]
    source: str
    problem: str


class Finding(TypedDict):
    """One thing that was looked at on the host."""

    name: str
    state: Literal["ok", "warning", "missing"]
    found: str
    advice: str


class Prices(TypedDict):
    """What is charged."""

    acu_hour: float
    gib_month: float
    currency: str


class UsageRow(TypedDict):
    """What one cluster has used in one period."""

    id: str
    cluster: str
    cluster_id: str
    from_at: str
    to_at: str
    seconds: float
    awake_s: float
    acu_s: float
    mean_acu: float
    peak_acu: float
    storage_byte_s: float
    cost: float
    provisioned_cost: float
    is_final: bool


class Usage(TypedDict):
    """What clusters have used."""

    since: str
    until: str
    by: str
    prices: Prices
    rows: list[UsageRow]
