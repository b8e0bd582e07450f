"""The bodies of responses, as the OpenAPI document shows them.

Responses are read from the views of `control.view` by attribute (`from_attributes`), so each field has the name, the
type and the unit of the view's. Times are ISO 8601 in UTC.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from zorya.control import view
from zorya.core.errors import ZoryaError
from zorya.core.findings import FindingState
from zorya.core.model import Compute, EngineKind, Mode, Status, WakeOn
from zorya.core.volume import CopyKind, CopyState, format_position
from zorya.storage.quorum import Health

ENDPOINT_EXAMPLE: dict[str, Any] = {"host": "127.0.0.1", "port": 7400}
READER_ENDPOINT_EXAMPLE: dict[str, Any] = {"host": "127.0.0.1", "port": 7401}
VOLUME_EXAMPLE: dict[str, Any] = {
    "copies": 6,
    "current": 6,
    "needed": 4,
    "health": "whole",
    "reason": "All 6 copies are current.",
    "epoch": 1,
    "primary": "a_full",
}
COPY_EXAMPLE: dict[str, Any] = {
    "name": "a_full",
    "zone": "a",
    "kind": "full",
    "is_primary": True,
    "state": "current",
    "reason": "",
    "position": "0/1A2B3C4",
    "lag_bytes": 0,
    "lag_s": 0.0,
    "progress": None,
    "verified_at": "2026-02-01T03:12:44.250000Z",
    "folder": "/var/lib/zorya/clusters/k3v9x2mq",
}
BUILDING_EXAMPLE: dict[str, Any] = {
    **COPY_EXAMPLE,
    "name": "b_full",
    "zone": "b",
    "is_primary": False,
    "state": "building",
    "reason": "Its files were gone.",
    "position": None,
    "lag_bytes": None,
    "lag_s": None,
    "progress": 0.42,
    "verified_at": None,
    "folder": "/var/lib/zorya/zones/b/k3v9x2mq",
}
SCALING_EXAMPLE: dict[str, Any] = {
    "at": "2026-02-03T08:59:48.031000Z",
    "from_acu": 0.5,
    "to_acu": 1.5,
    "part": "cpu",
    "reason": "It uses 0.6 of 0.25 cores.",
    "took_s": 0.003,
}
LOAD_EXAMPLE: dict[str, Any] = {
    "cores": 0.31,
    "cores_wanted": 0.6,
    "memory_bytes": 1_720_000_000,
    "in_use_bytes": 432_000_000,
    "at_work": 3,
    "waiting": 1,
    "hit_ratio": 0.992,
    "cpu_s": 71.3,
    "throttled_s": 0.4,
    "oom_kills": 0,
}
NODE_EXAMPLE: dict[str, Any] = {"capacity": 8.0, "allotted": 1.5, "cores": 2.0, "memory_bytes": 16_777_216_000}
ACU_EXAMPLE: dict[str, Any] = {"memory_bytes": 2_147_483_648, "cores": 0.25}
CLUSTER_EXAMPLE: dict[str, Any] = {
    "name": "main",
    "id": "k3v9x2mq",
    "engine": "postgres",
    "engine_version": "17.10",
    "mode": "serverless",
    "status": "available",
    "compute": "running",
    "reason": "A client connected.",
    "capacity": 1.5,
    "min_capacity": 0.5,
    "max_capacity": 4.0,
    "fixed_capacity": None,
    "last_scaling": SCALING_EXAMPLE,
    "load": LOAD_EXAMPLE,
    "acu_s": 5400.25,
    "storage_bytes": 52_428_800,
    "pause_after_s": 300,
    "freeze_after_s": 10.0,
    "allow": ["127.0.0.0/8", "::1/128"],
    "require_tls": False,
    "wake_on": "authenticated",
    "max_clients": None,
    "endpoint": ENDPOINT_EXAMPLE,
    "endpoint_problem": "",
    "attach": "handoff",
    "attach_reason": "Engines take clients' connections themselves.",
    "username": "zorya",
    "database": "main",
    "sessions": 1,
    "engine_pid": 4242,
    "resident_bytes": 43_302_912,
    "awake_reason": "",
    "engine_log": "/var/lib/zorya/clusters/k3v9x2mq/log/engine.log",
    "pauses_in_s": None,
    "operation": None,
    "volume": VOLUME_EXAMPLE,
    "reader_endpoint": READER_ENDPOINT_EXAMPLE,
    "reader_problem": "",
    "created_at": "2026-02-03T08:15:30.250000Z",
}
RESUMING_EXAMPLE: dict[str, Any] = {
    **CLUSTER_EXAMPLE,
    "compute": "resuming",
    "capacity": 0.0,
    "last_scaling": None,
    "load": None,
    "engine_pid": None,
    "resident_bytes": None,
    "operation": {"name": "resume", "step": "starting PostgreSQL", "since": "2026-02-03T09:00:00Z"},
}
EVENT_EXAMPLE: dict[str, Any] = {
    "seq": 17,
    "at": "2026-02-03T09:00:00.031000Z",
    "cluster": "main",
    "kind": "ZORYA-EVENT-0148",
    "category": "notification",
    "message": "The cluster is resumed.",
}
CERTIFICATE_EXAMPLE: dict[str, Any] = {
    "root_pem": "-----BEGIN CERTIFICATE-----\nMIIBnDCCAUKg\n-----END CERTIFICATE-----\n",
    "root_fingerprint": ":".join(["4B", "A0"] * 16),
    "root_not_after": "2036-02-03T08:15:29Z",
    "fingerprint": ":".join(["E7", "1C"] * 16),
    "not_after": "2026-05-04T08:15:29Z",
    "names": ["*.zorya.localhost", "zorya.localhost", "localhost", "127.0.0.1", "::1"],
    "source": "Zorya's own authority",
    "problem": "",
}
OPERATORS_CERTIFICATE_EXAMPLE: dict[str, Any] = {
    **CERTIFICATE_EXAMPLE,
    "root_pem": None,
    "root_fingerprint": None,
    "root_not_after": None,
    "names": ["db.example.com"],
    "source": "/etc/ssl/db.example.com.pem",
}
FINDING_EXAMPLE: dict[str, Any] = {
    "name": "PostgreSQL",
    "state": "ok",
    "found": "PostgreSQL 17.10 is in /usr/lib/postgresql/17.",
    "advice": "",
}

Moment = Annotated[datetime, PlainSerializer(lambda at: at.astimezone(UTC), return_type=datetime)]


def _write_position(position: object) -> object:
    return format_position(position) if isinstance(position, int) else position


LogPosition = Annotated[str, BeforeValidator(_write_position)]


class _Response(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Endpoint(_Response):
    """Where clients connect. It never changes during a cluster's life."""

    model_config = ConfigDict(json_schema_extra={"examples": [ENDPOINT_EXAMPLE]})

    host: str
    port: int


class Operation(_Response):
    """What is being done to a cluster now."""

    model_config = ConfigDict(json_schema_extra={"examples": [RESUMING_EXAMPLE["operation"]]})

    name: str = Field(description="create, resume, pause, stop or delete.")
    step: str = Field(description="The present step, in words.")
    since: Moment


class Scaling(_Response):
    """One change of a cluster's capacity."""

    model_config = ConfigDict(json_schema_extra={"examples": [SCALING_EXAMPLE]})

    at: Moment
    from_acu: float = Field(description="The capacity before, in ACUs.")
    to_acu: float = Field(description="The capacity after, in ACUs.")
    part: str = Field(description="What asked for it: cpu, memory, sessions, bounds, hand or node.")
    reason: str = Field(description="Why, as a sentence.")
    took_s: float = Field(description="Seconds until it was in force.")


class Load(_Response):
    """What a running cluster did in the last second or so."""

    model_config = ConfigDict(json_schema_extra={"examples": [LOAD_EXAMPLE]})

    cores: float = Field(description="Cores used.")
    cores_wanted: float = Field(description="Cores used, and what was ready to run and did not.")
    memory_bytes: int = Field(description="All memory that is charged to it, page cache included.")
    in_use_bytes: int = Field(description="Of that, what it cannot do without.")
    at_work: int = Field(description="Sessions that do something or wait within a transaction.")
    waiting: int = Field(description="Sessions that wait for a lock.")
    hit_ratio: float | None = Field(
        description="Of the blocks that it needed, the part that the engine's own cache had, 0 to 1; null when it "
        "needed none."
    )
    cpu_s: float = Field(description="Processor time since its engine started. Only rises.")
    throttled_s: float | None = Field(
        description="Of the time since its engine started, that in which the cap on cores kept something from running; "
        "null where unknown."
    )
    oom_kills: int | None = Field(
        description="Processes that the kernel ended for want of memory since its engine started; null where unknown."
    )


class Volume(_Response):
    """A cluster's volume: its copies together."""

    model_config = ConfigDict(json_schema_extra={"examples": [VOLUME_EXAMPLE]})

    copies: int = Field(description="How many it is to have: 1, 3 or 6.")
    current: int = Field(description="How many have everything, the primary among them.")
    needed: int = Field(
        description="How many have to have a commit before the client hears of it, the primary among them."
    )
    health: Health = Field(
        description="`degraded`: copies are missing, and writes go on; `waiting`: commits wait; `lost`: too few are "
        "left to know what was committed; `building`: copies that it never had are being made; else `whole`."
    )
    reason: str = Field(description="Why, as a sentence.")
    epoch: int = Field(description="Rises each time that another copy becomes the primary.")
    primary: str = Field(description="The name of the copy that is the primary.")


class Copy(_Response):
    """One copy of a cluster's volume, as it was seen last."""

    model_config = ConfigDict(json_schema_extra={"examples": [COPY_EXAMPLE, BUILDING_EXAMPLE]})

    name: str = Field(description="Zone and kind, such as `b_tail`.")
    zone: str
    kind: CopyKind = Field(description="`full` is data and log, `tail` the log alone.")
    is_primary: bool
    state: CopyState = Field(
        description="`current`: it has everything; `behind`: it is catching up; `building`: it is being made anew; "
        "`lost`: it cannot be used as it is."
    )
    reason: str = Field(description="Why it is in this state, as a sentence; empty where there is nothing to say.")
    position: LogPosition | None = Field(
        description="How far its log goes, as PostgreSQL writes it, such as `0/1A2B3C4`; null where that is not known."
    )
    lag_bytes: int | None = Field(
        description="How much of the primary's log it does not have yet; null where that is not known."
    )
    lag_s: float | None = Field(
        description="How long ago it last had all that the primary had, 0 if it has; null where that is not known."
    )
    progress: float | None = Field(
        description="Of one that is being made anew the part that is done, 0 to 1; null otherwise, and where that is "
        "not known."
    )
    verified_at: Moment | None = Field(
        description="When its checksums were last found to be right; null if they never were."
    )
    folder: str = Field(description="Where it is on the server's host.")


class CopyList(BaseModel):
    """The copies of one cluster's volume, by zone and kind."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"copies": [COPY_EXAMPLE, BUILDING_EXAMPLE]}]})

    copies: list[Copy]


class Verification(_Response):
    """What a verification of a cluster's volume has found."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"copies": 6, "damaged": [], "repaired": [], "took_s": 12.5},
                {
                    "copies": 6,
                    "damaged": ["Copy b_full: 1 of 1412 pages has a wrong checksum."],
                    "repaired": ["b_full"],
                    "took_s": 13.1,
                },
            ]
        }
    )

    copies: int = Field(description="How many were looked at.")
    damaged: list[str] = Field(description="What was found to be damaged, as sentences.")
    repaired: list[str] = Field(description="Which copies are repaired, or are being made anew for it.")
    took_s: float


class Cluster(_Response):
    """A database cluster: what it is, what it is doing and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [CLUSTER_EXAMPLE, RESUMING_EXAMPLE]})

    name: str
    id: str = Field(description="Identifier that is never used again.")
    engine: EngineKind
    engine_version: str
    mode: Mode = Field(description="Whether it pauses and scales by itself, or always runs with one capacity.")
    status: Status = Field(description="What the cluster is, whether or not its engine runs.")
    compute: Compute = Field(description="What the engine is doing.")
    reason: str = Field(description="Why the cluster is in this state, as a sentence.")
    capacity: float = Field(description="ACUs in use now; 0 while stopped or frozen.")
    min_capacity: float = Field(description="ACUs.")
    max_capacity: float = Field(description="ACUs.")
    fixed_capacity: float | None = Field(
        description="ACUs that a provisioned cluster has while it runs; null for a serverless one."
    )
    last_scaling: Scaling | None = Field(
        description="The last change of capacity since the engine started, or was found; null where there was none."
    )
    load: Load | None = Field(description="What it used last; null while it does not run.")
    acu_s: float = Field(description="Capacity over all the time since its creation, in ACU-seconds. Only rises.")
    storage_bytes: int | None = Field(description="The size of its files; null until they were looked at.")
    pause_after_s: int | None = Field(description="Seconds without a session until it pauses; null is never.")
    freeze_after_s: float | None = Field(description="Seconds of quiet until it freezes; null is never.")
    allow: list[str] = Field(description="Networks from which clients may connect.")
    require_tls: bool = Field(description="Whether clients without TLS are refused; those with TLS never are.")
    wake_on: WakeOn = Field(description="Who starts its engine: those who have logged in, or anyone who connects.")
    max_clients: int | None = Field(description="The most clients at once; null is no limit of its own.")
    endpoint: Endpoint
    endpoint_problem: str = Field(description="Why the endpoint does not listen; empty when it does.")
    attach: str = Field(description="How clients reach the engine: `handoff` or `relay`.")
    attach_reason: str = Field(description="Why they reach it this way.")
    username: str
    database: str
    sessions: int = Field(description="Clients connected or waiting to be.")
    engine_pid: int | None = Field(description="Process id of the engine; null when it does not run.")
    awake_reason: str = Field(
        description="What keeps a running cluster from freezing; empty when nothing does, or it does not run."
    )
    resident_bytes: int | None = Field(
        description="Memory that the engine occupies now, page cache that is charged to it included; null when it does "
        "not run or the host does not tell."
    )
    engine_log: str = Field(description="Path of the engine's log on the server's host.")
    pauses_in_s: float | None = Field(
        description="Seconds until the cluster pauses if nobody connects; null when no pause is coming."
    )
    operation: Operation | None
    volume: Volume
    reader_endpoint: Endpoint | None = Field(
        description="Where those who only read are served by the other full copies; null where there are none."
    )
    reader_problem: str = Field(
        description="Why the reader endpoint does not listen; empty when it does, or there is none."
    )
    created_at: Moment


class ClusterList(BaseModel):
    """Every cluster, ordered by name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"clusters": [CLUSTER_EXAMPLE]}]})

    clusters: list[Cluster]


class Credentials(BaseModel):
    """What a client needs to connect. Holds the password in clear."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "username": "zorya",
                    "password": "Tq7wPz3LkM9sVb2XcN8dRf4H",
                    "database": "main",
                    "endpoint": ENDPOINT_EXAMPLE,
                    "url": "postgresql://zorya:Tq7wPz3LkM9sVb2XcN8dRf4H@127.0.0.1:7400/main",
                }
            ]
        }
    )

    username: str
    password: str
    database: str
    endpoint: Endpoint
    url: str

    @classmethod
    def of(cls, credentials: view.Credentials) -> Self:
        """Disclose the credentials."""
        return cls(
            username=credentials.username,
            password=credentials.password.value,
            database=credentials.database,
            endpoint=Endpoint.model_validate(credentials.endpoint),
            url=credentials.url.value,
        )


class Event(_Response):
    """Something that happened to a cluster."""

    model_config = ConfigDict(json_schema_extra={"examples": [EVENT_EXAMPLE]})

    seq: int = Field(description="Rises with every event, over all clusters.")
    at: Moment
    cluster: str
    kind: str = Field(description="Numbers below 1000 are those of the RDS events with the same meaning.")
    category: str
    message: str


class EventList(BaseModel):
    """Events, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": [EVENT_EXAMPLE]}, {"events": []}]})

    events: list[Event]


class Node(_Response):
    """What this host has for all clusters together."""

    model_config = ConfigDict(json_schema_extra={"examples": [NODE_EXAMPLE]})

    capacity: float = Field(description="ACUs.")
    allotted: float = Field(description="ACUs that clusters have now.")
    cores: float
    memory_bytes: int


class Acu(_Response):
    """What one ACU, the unit of capacity, is on this server."""

    model_config = ConfigDict(json_schema_extra={"examples": [ACU_EXAMPLE]})

    memory_bytes: int
    cores: float


class ServerStatus(_Response):
    """The server at one moment."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": "0.1.0",
                    "home": "/var/lib/zorya",
                    "pid": 4200,
                    "started_at": "2026-02-03T08:15:29Z",
                    "uptime_s": 2671.5,
                    "api_socket": "/var/lib/zorya/run/zorya.sock",
                    "api_port": 7399,
                    "api_url": "http://127.0.0.1:7399",
                    "bind": ["127.0.0.1"],
                    "clusters": {"running": 1, "stopped": 12},
                    "sessions": 1,
                    "node": NODE_EXAMPLE,
                    "acu": ACU_EXAMPLE,
                }
            ]
        }
    )

    version: str
    home: Path
    pid: int
    started_at: Moment
    uptime_s: float
    api_socket: Path
    api_port: int = Field(description="TCP port of this API.")
    api_url: str = Field(description="Where this API is reached over TCP.")
    bind: list[str] = Field(description="Addresses on which clusters' endpoints listen.")
    clusters: dict[Compute, int] = Field(description="How many clusters are in each compute state.")
    sessions: int = Field(description="Clients connected or waiting to be, all clusters together.")
    node: Node = Field(description="What this host has for all clusters together.")
    acu: Acu = Field(description="What one ACU is on this server.")


class ServerCertificate(_Response):
    """The server's certificate, and the root where that is Zorya's own."""

    model_config = ConfigDict(json_schema_extra={"examples": [CERTIFICATE_EXAMPLE, OPERATORS_CERTIFICATE_EXAMPLE]})

    root_pem: str | None = Field(
        description="The root certificate with which clients verify the server; null when the certificate is the "
        "operator's, whose clients have their own."
    )
    root_fingerprint: str | None = Field(description="SHA-256 of the root.")
    root_not_after: Moment | None = Field(description="When the root ends.")
    fingerprint: str = Field(description="SHA-256 of the server certificate.")
    not_after: Moment = Field(description="When the server certificate ends. It is renewed before that.")
    names: list[str] = Field(description="DNS names and addresses for which the server certificate is good.")
    source: str = Field(description="Where it comes from: Zorya's own authority, or the path of the operator's file.")
    problem: str = Field(description="What is wrong with the certificate or its renewal; empty when nothing is.")


class Finding(_Response):
    """One thing that was looked at on the host."""

    model_config = ConfigDict(json_schema_extra={"examples": [FINDING_EXAMPLE]})

    name: str
    state: FindingState = Field(description="`missing` keeps Zorya from working; `warning` does not.")
    found: str
    advice: str = Field(description="What to do; empty when there is nothing to do.")


class FindingList(BaseModel):
    """What this host can do."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"findings": [FINDING_EXAMPLE]}]})

    findings: list[Finding]


class Problem(BaseModel):
    """Why a request failed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "code": "cluster_busy",
                    "message": "Cluster main has 1 open session.",
                    "hint": "End it, or pause with force.",
                    "retry_can_help": True,
                }
            ]
        }
    )

    code: str = Field(description="Stable name of what went wrong.")
    message: str = Field(description="What happened, as a sentence.")
    hint: str = Field(description="What to do about it; may be empty.")
    retry_can_help: bool = Field(description="Whether the same request may succeed later.")

    @classmethod
    def of(cls, error: ZoryaError) -> Self:
        """Show an error of the tree in `core.errors`."""
        return cls(code=error.code, message=error.message, hint=error.hint, retry_can_help=error.retry_can_help)


class Failure(BaseModel):
    """The body of every answer that is not a success."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "cluster_not_found",
                        "message": "There is no cluster named shop.",
                        "hint": "`zorya list` shows the clusters there are.",
                        "retry_can_help": False,
                    }
                }
            ]
        }
    )

    error: Problem
