"""What a client is told when it cannot be served, and under which SQLSTATE. Pure."""

from zorya.core import errors
from zorya.gateway.pgwire import Refusal, Sqlstate

_SQLSTATES: tuple[tuple[type[errors.ZoryaError], Sqlstate], ...] = (
    (errors.ProtocolViolation, Sqlstate.PROTOCOL_VIOLATION),
    # As PostgreSQL answers for a database that is not there: drivers take it for final and do not try again.
    (errors.NotFound, Sqlstate.INVALID_CATALOG_NAME),
    (errors.DiskFull, Sqlstate.DISK_FULL),
    (errors.StartFailed, Sqlstate.SYSTEM_ERROR),
    # As PostgreSQL answers while it starts or stops: drivers and pools take it for passing and try again.
    (errors.EngineProblem, Sqlstate.CANNOT_CONNECT_NOW),
    (errors.Conflict, Sqlstate.CANNOT_CONNECT_NOW),
    (errors.ZoryaError, Sqlstate.SYSTEM_ERROR),
)
"""The first row that fits an error counts."""

INTERNAL_ERROR = Refusal(sqlstate=Sqlstate.INTERNAL_ERROR, message="internal error", hint="")

TOO_MANY_CLIENTS = Refusal(
    sqlstate=Sqlstate.TOO_MANY_CONNECTIONS,
    message="sorry, too many clients already",
    hint="The server holds as many connections as it may, all clusters together. Try again later.",
)

TOO_MANY_FAILURES = Refusal(
    sqlstate=Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
    message="too many failed logins from this address",
    hint="Wait a minute, and see that the password is right.",
)

CUT_OFF = Refusal(
    sqlstate=Sqlstate.ADMIN_SHUTDOWN, message="terminating connection due to administrator command", hint=""
)


def explain(error: errors.ZoryaError) -> Refusal:
    """Answer what the client whose connection met `error` is told.

    Only `client_message` goes out: `message` and `hint` are for the person who runs Zorya and may name paths.
    """
    sqlstate = next(state for kind, state in _SQLSTATES if isinstance(error, kind))
    hint = "The database is still starting. Try again." if isinstance(error, errors.WakeTimeout) else ""
    return Refusal(sqlstate=sqlstate, message=error.client_message, hint=hint)


def not_allowed(address: str, cluster: str) -> Refusal:
    """Answer the refusal of a client whose address may not come."""
    return Refusal(
        sqlstate=Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
        message=f'cluster "{cluster}" allows no connections from {address}',
        hint="Whoever runs it can allow the address with `zorya modify --allow`.",
    )


def tls_required(cluster: str) -> Refusal:
    """Answer the refusal of a client that comes without TLS."""
    return Refusal(
        sqlstate=Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
        message=f'cluster "{cluster}" allows no connections without TLS',
        hint="Connect with sslmode=require or a stricter one.",
    )


def too_many_of(cluster: str, most: int) -> Refusal:
    """Answer the refusal of one client more than a cluster may have."""
    return Refusal(
        sqlstate=Sqlstate.TOO_MANY_CONNECTIONS,
        message=f'sorry, too many clients already: cluster "{cluster}" may have {most}',
        hint="Try again later.",
    )


def no_cluster_named(domain: str) -> Refusal:
    """Answer the refusal of a client of the shared port that says no cluster's name."""
    return Refusal(
        sqlstate=Sqlstate.INVALID_CATALOG_NAME,
        message="this port serves several clusters: say which one",
        hint=f"Connect with TLS to CLUSTER.{domain}, or with options='-c zorya.cluster=CLUSTER'.",
    )
