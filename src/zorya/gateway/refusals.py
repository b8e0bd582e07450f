"""What a client is told when it cannot be served, whatever it speaks. Pure.

Each protocol has its own code for a reason, and its own way to say it: see `postgres.refusals`, `mariadb.refusals`.
"""

from dataclasses import dataclass
from enum import Enum, auto

from zorya.core import errors


class Reason(Enum):
    """Why a client cannot be served."""

    PROTOCOL_VIOLATION = auto()
    NO_SUCH_CLUSTER = auto()
    NOT_ALLOWED = auto()
    TLS_REQUIRED = auto()
    TOO_MANY = auto()
    TOO_MANY_FAILURES = auto()
    DISK_FULL = auto()
    CANNOT_START = auto()
    NOT_NOW = auto()
    """It passes: a client may try again soon."""
    CUT_OFF = auto()
    INTERNAL = auto()


_REASONS: tuple[tuple[type[errors.ZoryaError], Reason], ...] = (
    (errors.ProtocolViolation, Reason.PROTOCOL_VIOLATION),
    (errors.NotFound, Reason.NO_SUCH_CLUSTER),
    (errors.DiskFull, Reason.DISK_FULL),
    (errors.StartFailed, Reason.CANNOT_START),
    (errors.EngineProblem, Reason.NOT_NOW),
    (errors.Conflict, Reason.NOT_NOW),
    (errors.ZoryaError, Reason.CANNOT_START),
)
"""The first row that fits an error counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnedAway:
    """What a client is told before it is cut off."""

    reason: Reason
    message: str
    hint: str = ""


INTERNAL_ERROR = TurnedAway(reason=Reason.INTERNAL, message="internal error")

TOO_MANY_CLIENTS = TurnedAway(
    reason=Reason.TOO_MANY,
    message="sorry, too many clients already",
    hint="The server holds as many connections as it may, all clusters together. Try again later.",
)

TOO_MANY_FAILURES = TurnedAway(
    reason=Reason.TOO_MANY_FAILURES,
    message="too many failed logins from this address",
    hint="Wait a minute, and see that the password is right.",
)

CUT_OFF = TurnedAway(reason=Reason.CUT_OFF, message="terminating connection due to administrator command")


def explain(error: errors.ZoryaError) -> TurnedAway:
    """Answer what the client whose connection met `error` is told.

    Only `client_message` goes out: `message` and `hint` are for the person who runs Zorya and may name paths.
    """
    reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
    hint = "The database is still starting. Try again." if isinstance(error, errors.WakeTimeout) else ""
    return TurnedAway(reason=reason, message=error.client_message, hint=hint)


def not_allowed(address: str, cluster: str) -> TurnedAway:
    """Answer the refusal of a client whose address may not come."""
    return TurnedAway(
        reason=Reason.NOT_ALLOWED,
        message=f'cluster "{cluster}" allows no connections from {address}',
        hint="Whoever runs it can allow the address with `zorya modify --allow`.",
    )


def tls_required(cluster: str, hint: str) -> TurnedAway:
    """Answer the refusal of a client that comes without TLS; `hint` says how its programs ask for it."""
    return TurnedAway(
        reason=Reason.TLS_REQUIRED, message=f'cluster "{cluster}" allows no connections without TLS', hint=hint
    )


def too_many_of(cluster: str, most: int) -> TurnedAway:
    """Answer the refusal of one client more than a cluster may have."""
    return TurnedAway(
        reason=Reason.TOO_MANY,
        message=f'sorry, too many clients already: cluster "{cluster}" may have {most}',
        hint="Try again later.",
    )


def no_cluster_named(hint: str) -> TurnedAway:
    """Answer the refusal of a client of a shared port that says no cluster's name; `hint` says how it could."""
    return TurnedAway(
        reason=Reason.NO_SUCH_CLUSTER, message="this port serves several clusters: say which one", hint=hint
    )
