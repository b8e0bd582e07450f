"""SCRAM-SHA-256 verifiers: what PostgreSQL keeps of passwords, made here so that it need not be told a password.

Form: `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`, the last three in Base64 (PostgreSQL manual, "pg_authid";
the keys are those of RFC 5802).
"""

import re

from psycopg import pq

from zorya.core.model import Secret

_BASE64 = "[A-Za-z0-9+/]+={0,2}"
_VERIFIER = re.compile(rf"SCRAM-SHA-256\$\d+:{_BASE64}\${_BASE64}:{_BASE64}")


def new(password: Secret) -> Secret:
    """Answer a verifier for the password, with a salt of its own. Takes some milliseconds; connects to nothing.

    libpq makes it (PQencryptPasswordConn), and so prepares what is not ASCII exactly as PostgreSQL and its clients do.
    """
    # It wants a connection, if only for the number of iterations: one that was given up for its impossible port.
    nowhere = pq.PGconn.connect_start(b"port=-")
    try:
        return Secret(nowhere.encrypt_password(password.value.encode(), b"", b"scram-sha-256").decode())
    finally:
        nowhere.finish()


def check(verifier: Secret) -> None:
    """Raise ValueError when it is no verifier. One that is can stand in an SQL literal, and on a line."""
    if not _VERIFIER.fullmatch(verifier.value):
        raise ValueError("not a SCRAM-SHA-256 verifier")
