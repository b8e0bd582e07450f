"""Who may do what in a cluster, as statements. Pure.

**The user** has all rights in every database but `mysql`, may pass them on, and may create users. MariaDB has no such
right as "all but one": a right in all databases includes `mysql`, whose tables are the accounts; and of two patterns
that cover a database the more specific one counts, but only for using it: who may pass on rights in `%` may pass them
on in `mysq_`, and so to an account of his own those in `mysql`. So the user has rights in patterns that do not match
`mysql` and cannot be narrowed to one that does: those of each length but five, and of five letters those with one
letter that `mysql` does not have in that place. To pass rights on in a pattern, one has to have them in one that
covers all of it (`wild_compare` with `str_is_pattern`, sql/sql_acl.cc and strings/). Names of five letters that differ
from `mysql` in nothing but signs other than letters, digits and `_`, or in capitals after the first letter, such as
`my-ql`, are covered by none; nobody but Zorya can make databases of these names.

**The administrator** is Zorya. Who may create users may alter, rename and drop any account of whose name he knows
(sql/sql_acl.cc, `handle_grant_data`), whether it is in the table or only in memory: renamed to one of his own and
reached from elsewhere, the administrator's would give him everything. So its name is a secret, and is told to nobody:
the account is not in the table but only in memory, where the server puts it at each start before it lets anybody in
(`init_statements`). What shows other people's sessions shows them only to who has PROCESS, which nobody has.
"""

import string
from collections.abc import Iterator

_WORD = string.ascii_lowercase + string.digits + "_"
_GUARDED = "mysql"
_LONGEST_COUNTED = 4
"""Lengths below that of `mysql` have a pattern each; one covers all lengths above it."""

CREATE_USER = 1 << 25
"""The one right that an account may have in all databases (CREATE_USER_ACL, sql/privilege.h)."""

_OF_ACCOUNTS = ("global_priv", "db", "tables_priv", "proxies_priv")

READY_TABLE = "zorya_ready"
"""A table that nobody reads; see `init_statements`."""

_READABLE = ("proc",)
"""Tables of `mysql` that the user may read: mariadb-dump takes the bodies of routines from there."""


def escape(name: str) -> str:
    """Answer a database's name as a pattern that matches it alone."""
    return name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")


def patterns() -> Iterator[str]:
    """Answer the patterns of the databases that are the user's."""
    for length in range(1, _LONGEST_COUNTED + 1):
        yield "_" * length
    yield "_" * (len(_GUARDED) + 1) + "%"
    for place, guarded in enumerate(_GUARDED):
        letters = _WORD + string.ascii_uppercase if place == 0 else _WORD
        for letter in letters.replace(guarded, ""):
            yield "_" * place + escape(letter) + "_" * (len(_GUARDED) - place - 1)


def template_statements(username: str) -> list[str]:
    """Answer what makes of a new data folder one that has no account but the user's, which nobody can use yet."""
    user = quote_account(username, "%")
    return [
        "USE mysql",
        "FLUSH PRIVILEGES",
        *(f"DELETE FROM mysql.{table}" for table in _OF_ACCOUNTS),  # noqa: S608 - constants
        # All it shows is the performance schema, which is off; and its objects' owner may read passwords' verifiers.
        "DROP DATABASE IF EXISTS sys",
        "FLUSH PRIVILEGES",
        f"CREATE USER {user} IDENTIFIED VIA mysql_native_password USING 'invalid' ACCOUNT LOCK",
        f"GRANT CREATE USER ON *.* TO {user}",
        *(f"GRANT ALL PRIVILEGES ON {quote(one)}.* TO {user} WITH GRANT OPTION" for one in patterns()),
        *(f"GRANT SELECT ON mysql.{table} TO {user}" for table in _READABLE),
    ]


def cluster_statements(username: str, database: str, verifier: str) -> list[str]:
    """Answer what makes of a template's copy a cluster's own."""
    user = quote_account(username, "%")
    return [
        "FLUSH PRIVILEGES",
        f"ALTER USER {user} IDENTIFIED VIA mysql_native_password USING '{verifier}' ACCOUNT UNLOCK",
        f"CREATE DATABASE {quote(database)}",
        # The patterns cover it; with a row of its own it is also found by who looks for its name.
        f"GRANT ALL PRIVILEGES ON {quote(escape(database))}.* TO {user} WITH GRANT OPTION",
    ]


def init_statements(name: str, verifier: str, version_id: int) -> list[str]:
    """Answer the statements of the init file: they give the server its administrator, in memory only.

    Nobody else has a right in all databases but CREATE USER; should a table say so, it is taken back.
    """
    account = (
        f'{{"access":18446744073709551615,"version_id":{version_id},'
        f'"plugin":"mysql_native_password","authentication_string":"{verifier}"}}'
    )
    access = "CAST(JSON_VALUE(Priv, '$.access') AS UNSIGNED)"
    remove = f"DELETE FROM mysql.global_priv WHERE User = '{name}'"  # noqa: S608 - made of hexadecimal digits
    return [
        "SET SESSION sql_log_bin = 0",
        f"UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.access', {access} & {CREATE_USER})"  # noqa: S608
        f" WHERE {access} & ~{CREATE_USER} <> 0",
        remove,
        f"INSERT INTO mysql.global_priv (Host, User, Priv)"  # noqa: S608
        f" VALUES ('localhost', '{name}', '{account}')",
        "FLUSH PRIVILEGES",
        remove,
        # Its file is new at each start: it says that the server has come to the end of these.
        f"CREATE OR REPLACE TABLE mysql.{READY_TABLE} (id INT) ENGINE = MEMORY",
    ]


def quote(name: str) -> str:
    """Answer a name as an identifier."""
    return "`" + name.replace("`", "``") + "`"


def quote_account(user: str, host: str) -> str:
    """Answer an account's name as statements have it."""
    return f"{quote(user)}@{quote(host)}"
