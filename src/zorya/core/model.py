"""The values that several rooms share. All are frozen; none does I/O."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class EngineKind(StrEnum):
    """The database engines that Zorya can run."""

    POSTGRES = "postgres"
    MARIADB = "mariadb"

    @property
    def product(self) -> str:
        """The name as its makers write it."""
        return {EngineKind.POSTGRES: "PostgreSQL", EngineKind.MARIADB: "MariaDB"}[self]

    @property
    def scheme(self) -> str:
        """That of its clients' URLs."""
        return {EngineKind.POSTGRES: "postgresql", EngineKind.MARIADB: "mysql"}[self]


class Mode(StrEnum):
    """Whether a cluster pauses and scales by itself."""

    SERVERLESS = "serverless"
    PROVISIONED = "provisioned"
    """It always runs, with one capacity."""


class Status(StrEnum):
    """What a cluster is, whether or not its engine runs. Pausing does not change it (as on AWS)."""

    CREATING = "creating"
    AVAILABLE = "available"
    DELETING = "deleting"
    DELETED = "deleted"


class Compute(StrEnum):
    """What a cluster's engine process group is doing."""

    STOPPED = "stopped"
    RESUMING = "resuming"
    RUNNING = "running"
    FROZEN = "frozen"
    PAUSING = "pausing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Secret:
    """A password or token that does not show itself in logs or tracebacks."""

    value: str

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class WakeOn(StrEnum):
    """Who may start the engine of a stopped cluster."""

    AUTHENTICATED = "authenticated"
    """A client that has proved to Zorya who it is."""
    ANY = "any"
    """Whoever asks for a session; the engine then asks who it is."""


LOOPBACK = ("127.0.0.0/8", "::1/128")
"""The networks from which clients may come unless a cluster says otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Who may come to a cluster, and how; checked before anything is woken."""

    allow: tuple[str, ...] = LOOPBACK
    """Networks in CIDR notation from which clients may come."""
    require_tls: bool = False
    wake_on: WakeOn = WakeOn.AUTHENTICATED
    max_clients: int | None = None
    """The most clients at once; None leaves it to the engine and to the server's own limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Handoff:
    """Whether an engine takes clients' connections from Zorya, and where."""

    inlet: Path | None
    """The datagram socket that native/handoff.c opens in the engine; None where clients cannot be handed over."""
    reason: str
    """Why, as a sentence for the operator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrance:
    """How clients get into an engine that is up."""

    address: Address
    """Where it listens on this host, for the relay."""
    handoff: Handoff


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """Which process this is, beyond its reusable number.

    `start_ticks` is field 22 of /proc/PID/stat (clock ticks after boot), `boot_id` the kernel's id of this boot: the
    three together never name two processes.
    """

    pid: int
    start_ticks: int
    boot_id: str
