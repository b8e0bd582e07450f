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
