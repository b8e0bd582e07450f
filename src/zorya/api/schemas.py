"""The bodies of requests and responses, as the OpenAPI document shows them.

Responses are read from the views of `control.view` by attribute (`from_attributes`), so each field has the name, the
type and the unit of the view's. Times are ISO 8601 in UTC.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StrictInt, StrictStr

from zorya.control import access, view
from zorya.core import settings
from zorya.core.errors import ZoryaError
from zorya.core.findings import FindingState
from zorya.core.model import Compute, EngineKind, Mode, Status, WakeOn

ENDPOINT_EXAMPLE: dict[str, Any] = {"host": "127.0.0.1", "port": 7400}
CLUSTER_EXAMPLE: dict[str, Any] = {
    "name": "main",
    "id": "k3v9x2mq",
    "engine": "postgres",
    "engine_version": "17.10",
    "mode": "serverless",
    "status": "available",
    "compute": "running",
    "reason": "A client connected.",
    "capacity": 0.5,
    "min_capacity": 0.5,
    "max_capacity": 4.0,
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
    "created_at": "2026-02-03T08:15:30.250000Z",
}
RESUMING_EXAMPLE: dict[str, Any] = {
    **CLUSTER_EXAMPLE,
    "compute": "resuming",
    "capacity": 0.0,
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


class _Response(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


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


class Cluster(_Response):
    """A database cluster: what it is, what it is doing and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [CLUSTER_EXAMPLE, RESUMING_EXAMPLE]})

    name: str
    id: str = Field(description="Identifier that is never used again.")
    engine: EngineKind
    engine_version: str
    mode: Mode
    status: Status = Field(description="What the cluster is, whether or not its engine runs.")
    compute: Compute = Field(description="What the engine is doing.")
    reason: str = Field(description="Why the cluster is in this state, as a sentence.")
    capacity: float = Field(description="ACUs in use now; 0 while stopped or frozen.")
    min_capacity: float = Field(description="ACUs.")
    max_capacity: float = Field(description="ACUs.")
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
    created_at: Moment


class ClusterList(BaseModel):
    """Every cluster, ordered by name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"clusters": [CLUSTER_EXAMPLE]}]})

    clusters: list[Cluster]


Seconds = TypeVar("Seconds", int, float)
Networks = Annotated[list[StrictStr], Field(min_length=1, max_length=access.MOST_NETWORKS)]
Most = Annotated[StrictInt, Field(ge=1, le=1_000_000)]


def _read_delay(parse: Callable[[object], float | None]) -> BeforeValidator:
    """Read a delay with `parse`, but keep null, which is the server's default, apart from `never`."""
    return BeforeValidator(lambda value: None if value is None else parse(value) or "never")


def _or_default(given: Seconds | Literal["never"] | None, default_s: Seconds | None) -> Seconds | None:
    """Answer a delay in control's terms, where None is never."""
    if given is None:
        return default_s
    return None if isinstance(given, str) else given


PauseDelay = Annotated[Annotated[StrictInt, Field(ge=1)] | Literal["never"] | None, _read_delay(settings.parse_delay)]
FreezeDelay = Annotated[
    Annotated[float, Field(ge=settings.SHORTEST_DELAY_S)] | Literal["never"] | None,
    _read_delay(settings.parse_short_delay),
]


class CreateCluster(_Body):
    """What a new cluster should be. Only the name is needed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "main"},
                {"name": "shop", "max_capacity": 8, "pause_after": "never", "freeze_after": 2.5},
                {"name": "web", "allow": ["10.0.0.0/8", "fd00::/8"], "require_tls": True, "max_clients": 200},
            ]
        }
    )

    name: StrictStr = Field(
        description="1 to 63 letters, digits and single hyphens, starting with a letter. Stored in lower case."
    )
    engine: EngineKind = EngineKind.POSTGRES
    version: StrictStr | None = Field(
        default=None, description="Major version, such as 16; null is the newest installed.", max_length=20
    )
    min_capacity: float = Field(
        default=0.5, allow_inf_nan=False, description="Lowest capacity in ACUs while running, in steps of 0.5."
    )
    max_capacity: float = Field(
        default=4, allow_inf_nan=False, description="Highest capacity in ACUs, in steps of 0.5."
    )
    pause_after: PauseDelay = Field(
        default=None,
        description="Seconds without a session after which the cluster pauses, or `never`; null: the server's default.",
    )
    freeze_after: FreezeDelay = Field(
        default=None,
        description="Seconds of quiet after which the cluster freezes, or `never`; null: the server's default.",
    )
    allow: Networks | None = Field(
        default=None,
        description="Networks from which clients may connect, such as 10.0.0.0/8; null is this host alone, and is "
        "refused where the setting `bind` lets others reach the server.",
    )
    require_tls: bool = Field(default=False, strict=True, description="Refuse clients without TLS.")
    wake_on: WakeOn = Field(
        default=WakeOn.AUTHENTICATED,
        description="Who starts a stopped engine: `authenticated` (who has logged in) or `any` (who connects).",
    )
    max_clients: Most | None = Field(
        default=None, description="The most clients at once, at least 1; null is no limit of its own."
    )
    port: StrictInt | None = Field(
        default=None, ge=1, le=65535, description="Port of the endpoint; null takes a free one of the configured range."
    )

    def to_request(
        self, *, default_pause_after_s: int | None, default_freeze_after_s: float | None
    ) -> view.CreateRequest:
        """Answer the request in control's terms."""
        return view.CreateRequest(
            name=self.name,
            engine=self.engine,
            version=self.version,
            min_capacity=self.min_capacity,
            max_capacity=self.max_capacity,
            pause_after_s=_or_default(self.pause_after, default_pause_after_s),
            freeze_after_s=_or_default(self.freeze_after, default_freeze_after_s),
            allow=None if self.allow is None else tuple(self.allow),
            require_tls=self.require_tls,
            wake_on=self.wake_on,
            max_clients=self.max_clients,
            port=self.port,
        )


class ModifyCluster(_Body):
    """What of a cluster should be otherwise. What is absent or null stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"allow": ["10.0.0.0/8"], "require_tls": True},
                {"max_clients": "none", "pause_after": 60, "freeze_after": "never"},
            ]
        }
    )

    allow: Networks | None = Field(
        default=None, description="Networks from which clients may connect, in place of the present ones."
    )
    require_tls: bool | None = Field(default=None, strict=True, description="Whether clients without TLS are refused.")
    wake_on: WakeOn | None = Field(default=None, description="Who starts a stopped engine: `authenticated` or `any`.")
    max_clients: Most | Literal["none"] | None = Field(
        default=None, description="The most clients at once, at least 1, or `none` for no limit of its own."
    )
    pause_after: PauseDelay = Field(
        default=None, description="Seconds without a session after which the cluster pauses, or `never`."
    )
    freeze_after: FreezeDelay = Field(
        default=None, description="Seconds of quiet after which the cluster freezes, at least 0.01, or `never`."
    )

    def to_request(self) -> view.ModifyRequest:
        """Answer the request in control's terms."""
        return view.ModifyRequest(
            allow=view.UNCHANGED if self.allow is None else tuple(self.allow),
            require_tls=_or_unchanged(self.require_tls),
            wake_on=_or_unchanged(self.wake_on),
            max_clients=None if self.max_clients == "none" else _or_unchanged(self.max_clients),
            pause_after_s=None if self.pause_after == "never" else _or_unchanged(self.pause_after),
            freeze_after_s=None if self.freeze_after == "never" else _or_unchanged(self.freeze_after),
        )


Given = TypeVar("Given")


def _or_unchanged(given: Given | None) -> Given | view.Unchanged:
    """Answer a value in control's terms, where None means something."""
    return view.UNCHANGED if given is None else given


class PauseCluster(_Body):
    """How to pause a cluster."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"force": True}]})

    force: bool = Field(default=False, strict=True, description="End open sessions rather than refuse to pause.")


class StopServer(_Body):
    """How to stop the server."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"leave_running": True}]})

    leave_running: bool = Field(
        default=False, strict=True, description="Leave engines and their sessions running, for the next server."
    )


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
