"""The SQLSTATE under which a client of PostgreSQL is told why it cannot be served. Pure."""

from collections.abc import Mapping

from zorya.gateway.postgres.pgwire import Refusal, Sqlstate
from zorya.gateway.refusals import Reason, TurnedAway

SQLSTATES: Mapping[Reason, Sqlstate] = {
    Reason.PROTOCOL_VIOLATION: Sqlstate.PROTOCOL_VIOLATION,
    # As PostgreSQL answers for a database that is not there: drivers take it for final and do not try again.
    Reason.NO_SUCH_CLUSTER: Sqlstate.INVALID_CATALOG_NAME,
    Reason.NOT_ALLOWED: Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
    Reason.TLS_REQUIRED: Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
    Reason.TOO_MANY: Sqlstate.TOO_MANY_CONNECTIONS,
    Reason.TOO_MANY_FAILURES: Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
    Reason.DISK_FULL: Sqlstate.DISK_FULL,
    Reason.CANNOT_START: Sqlstate.SYSTEM_ERROR,
    # As PostgreSQL answers while it starts or stops: drivers and pools take it for passing and try again.
    Reason.NOT_NOW: Sqlstate.CANNOT_CONNECT_NOW,
    Reason.CUT_OFF: Sqlstate.ADMIN_SHUTDOWN,
    Reason.INTERNAL: Sqlstate.INTERNAL_ERROR,
}


def of(told: TurnedAway) -> Refusal:
    """Answer the same in PostgreSQL's terms."""
    return Refusal(sqlstate=SQLSTATES[told.reason], message=told.message, hint=told.hint)
