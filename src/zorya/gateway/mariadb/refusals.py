"""The error under which a client of MariaDB is told why it cannot be served. Pure.

Numbers, SQLSTATEs and words are MariaDB's own (include/mysqld_error.h, sql/share/errmsg-utf8.txt) wherever MariaDB has
something to say of its own. There is no field for a hint in an error packet, so that a hint stands behind the message.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from zorya.gateway.refusals import Reason, TurnedAway


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """What an error packet says."""

    number: int
    sqlstate: str
    message: str


BAD_HANDSHAKE = Refusal(number=1043, sqlstate="08S01", message="Bad handshake")
OUT_OF_ORDER = Refusal(number=1156, sqlstate="08S01", message="Got packets out of order")
TOO_OLD = Refusal(
    number=1251,
    sqlstate="08004",
    message="Client does not support authentication protocol requested by server; consider upgrading MariaDB client",
)
LOCKED = Refusal(number=4151, sqlstate="HY000", message="Access denied, this account is locked")

_SHOWN_CHARACTERS = 100

_ACCESS_DENIED = 1045
_CODES: Mapping[Reason, tuple[int, str]] = {
    Reason.PROTOCOL_VIOLATION: (1043, "08S01"),
    # As MariaDB answers for a database that is not there: drivers take it for final and do not try again.
    Reason.NO_SUCH_CLUSTER: (1049, "42000"),
    Reason.NOT_ALLOWED: (1130, "HY000"),
    Reason.TLS_REQUIRED: (3159, "HY000"),
    Reason.TOO_MANY: (1040, "08004"),
    # ER_HOST_IS_BLOCKED: MariaDB's own for an address of which too much has gone wrong.
    Reason.TOO_MANY_FAILURES: (1129, "HY000"),
    Reason.DISK_FULL: (1021, "HY000"),
    Reason.CANNOT_START: (1105, "HY000"),
    # ER_SERVER_SHUTDOWN: of class 08, so that pools take it for a lost connection and try again.
    Reason.NOT_NOW: (1053, "08S01"),
    Reason.CUT_OFF: (1053, "08S01"),
    Reason.INTERNAL: (1815, "HY000"),
}


def of(told: TurnedAway) -> Refusal:
    """Answer the same in MariaDB's terms, which tells nobody what is wrong with his handshake."""
    if told.reason is Reason.PROTOCOL_VIOLATION:
        return OUT_OF_ORDER if told.message == OUT_OF_ORDER.message else BAD_HANDSHAKE
    number, sqlstate = _CODES[told.reason]
    return Refusal(
        number=number, sqlstate=sqlstate, message=f"{told.message}. {told.hint}" if told.hint else told.message
    )


def no_such_cluster(name: str) -> Refusal:
    """Answer what a client of a shared port is told that names a cluster which is not there."""
    return Refusal(number=1049, sqlstate="42000", message=f'cluster "{name}" does not exist')


def access_denied(user: str, host: str, *, used_password: bool) -> Refusal:
    """Answer ER_ACCESS_DENIED_ERROR: who one is has not been proved, be there such a user or not."""
    return Refusal(
        number=_ACCESS_DENIED,
        sqlstate="28000",
        message=f"Access denied for user '{user}'@'{host}' (using password: {'YES' if used_password else 'NO'})",
    )


def host_not_privileged(address: str) -> Refusal:
    """Answer ER_HOST_NOT_PRIVILEGED: no account may come from this address."""
    return Refusal(
        number=1130,
        sqlstate="HY000",
        message=f"Host '{address}' is not allowed to connect to this MariaDB server",
    )


def database_denied(user: str, host: str, database: str) -> Refusal:
    """Answer ER_DBACCESS_DENIED_ERROR; user and host are those of the account, not of the client."""
    return Refusal(
        number=1044,
        sqlstate="42000",
        message=f"Access denied for user '{user}'@'{host}' to database '{database}'",
    )


def unknown_database(database: str) -> Refusal:
    """Answer ER_BAD_DB_ERROR."""
    return Refusal(number=1049, sqlstate="42000", message=f"Unknown database '{database}'")


def incorrect_database(database: str) -> Refusal:
    """Answer ER_WRONG_DB_NAME: no database can have this name, of which no more than 100 characters are shown."""
    if len(database) > _SHOWN_CHARACTERS:
        database = f"{database[: _SHOWN_CHARACTERS - 3]}..."
    return Refusal(number=1102, sqlstate="42000", message=f"Incorrect database name '{database}'")


def wrong_charset(charset: str) -> Refusal:
    """Answer ER_WRONG_VALUE_FOR_VAR: no client can speak in this character set."""
    return Refusal(
        number=1231,
        sqlstate="42000",
        message=f"Variable 'character_set_client' can't be set to the value of '{charset}'",
    )
