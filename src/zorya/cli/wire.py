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
    created_at: str


class CreateCluster(TypedDict, total=False):
    """What a new cluster should be; what is absent is the server's choice."""

    name: str
    engine: str
    version: str
    min_capacity: float
    max_capacity: float
    pause_after: str
    freeze_after: str
    allow: list[str]
    require_tls: bool
    wake_on: str
    max_clients: int
    port: int


class ModifyCluster(TypedDict, total=False):
    """What of a cluster should be otherwise; what is absent stays."""

    allow: list[str]
    require_tls: bool
    wake_on: str
    max_clients: int | str
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
