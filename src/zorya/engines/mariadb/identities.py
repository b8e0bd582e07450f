"""Who may log in to a cluster: read from a running MariaDB and kept so, or known because it was just made.

What the columns and the JSON of mysql.global_priv mean: Knowledge Base, "mysql.global_priv Table"; sql/sql_acl.cc,
`User_table_json`.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pymysql import err

from zorya.core import errors
from zorya.core.accounts import Account, Accounts, Method
from zorya.core.home import ClusterFolders
from zorya.core.model import Secret
from zorya.engines.mariadb import admin, greeting, privileges
from zorya.engines.mariadb.greeting import Greeting

HOLD_WITHIN_S = 10.0
"""How long an engine may take to answer; it waits for other sessions' statements for a second at most."""

_EVERYWHERE = "%"
_ALWAYS = "information\\_schema"
"""The database that every account may enter."""
_NATIVE = "mysql_native_password"

_TLS = 1
_X509 = 2
"""From these values on of `ssl_type` (enum SSL_type, sql/structs.h): ANY, X509, SPECIFIED."""

_DAY_S = 86400

_DATABASE_RIGHTS = (0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 16, 17, 20, 21, 22, 23, 24, 26, 27, 29)
"""The bits of `access` that are rights in a database (DB_ACLS, sql/privilege.h)."""

_ANY_DATABASE_RIGHT = sum(1 << bit for bit in _DATABASE_RIGHTS)

_HOLD = ("SET SESSION lock_wait_timeout = 1", "FLUSH TABLES WITH READ LOCK")
"""Whatever makes, alters or drops an account, a right or a database waits for it (Knowledge Base, "FLUSH")."""

_ACCOUNTS = "SELECT Host, User, Priv FROM mysql.global_priv"
_PATTERNS = "SELECT DISTINCT User, Db FROM mysql.db"
_NAMED = (
    "SELECT User, Db FROM mysql.tables_priv UNION SELECT User, Db FROM mysql.columns_priv"
    " UNION SELECT User, Db FROM mysql.procs_priv"
)
_ROLES = "SELECT DISTINCT User, Role FROM mysql.roles_mapping"
_DATABASES = "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA"
_NOW = "SELECT UNIX_TIMESTAMP(), @@GLOBAL.default_password_lifetime"


class Held:
    """Implements `engines.base.HeldIdentities`: a connection that keeps everybody from writing."""

    def __init__(self, identities: Accounts, connection: admin.Connection) -> None:
        """Keep `connection`, whose lock keeps `identities` from changing."""
        self.identities: Final = identities
        self._connection = connection

    async def close(self) -> None:
        """See HeldIdentities.close."""
        await self._connection.leave()


async def hold(folders: ClusterFolders) -> Held:
    """See Engine.hold_identities."""
    try:
        async with asyncio.timeout(HOLD_WITHIN_S):
            connection = await admin.connect(folders)
            try:
                return Held(await _read(connection), connection)
            except BaseException:
                connection.close()
                raise
    except err.MySQLError as error:
        raise admin.explain(error) from error
    except TimeoutError as error:
        raise errors.EngineProblem(f"The engine has not said for {HOLD_WITHIN_S:g} s who may log in.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.EngineProblem(f"The engine does not say who may log in: {error}.") from error


async def _read(connection: admin.Connection) -> Accounts:
    for statement in _HOLD:
        await connection.tell(statement)
    rows, patterns, named, roles, databases, now = await connection.ask_all(
        [_ACCOUNTS, _PATTERNS, _NAMED, _ROLES, _DATABASES, _NOW]
    )
    now_s, lifetime = now[0]
    stored = [(str(host), str(user), json.loads(priv)) for host, user, priv in rows]
    opens = defaultdict(set)
    for user, pattern in patterns:
        opens[user].add(str(pattern))
    for user, database in named:
        opens[user].add(privileges.escape(str(database)))
    for _, user, priv in stored:
        if int(priv.get("access", 0)) & _ANY_DATABASE_RIGHT:
            opens[user].add(_EVERYWHERE)
    granted = defaultdict(set)
    for user, role in roles:
        granted[user].add(role)
    said = greeting.parse(connection.greeting)
    return Accounts(
        accounts=tuple(
            _account(
                host,
                user,
                priv,
                opens=_opens(user, opens, granted),
                is_expired=_is_expired(priv, int(now_s), int(lifetime)),
            )
            for host, user, priv in stored
            if not priv.get("is_role")
        ),
        databases=tuple(sorted(str(name) for (name,) in databases)),
        version=said.version,
        capabilities=said.capabilities,
        collation=said.collation,
    )


def _account(host: str, user: str, priv: Mapping[str, Any], *, opens: tuple[str, ...], is_expired: bool) -> Account:
    requires = int(priv.get("ssl_type", 0))
    return Account(
        user=user,
        host=host,
        methods=tuple(_methods(priv)),
        is_locked=bool(priv.get("account_locked", False)),
        password_expired=is_expired,
        needs_tls=requires >= _TLS,
        needs_certificate=requires >= _X509,
        opens=opens,
    )


def _methods(priv: Mapping[str, Any]) -> Iterable[Method]:
    """Answer the ways in which an account may prove who it is; the empty one of several stands for the first."""
    for one in priv.get("auth_or") or [{}]:
        chosen = one or priv
        yield Method(
            plugin=str(chosen.get("plugin", _NATIVE)) or _NATIVE,
            verifier=Secret(str(chosen.get("authentication_string", ""))),
        )


def _is_expired(priv: Mapping[str, Any], now_s: int, default_lifetime: int) -> bool:
    changed_s = priv.get("password_last_changed")
    if changed_s is None:
        return False
    # So PASSWORD EXPIRE marks it.
    if int(changed_s) == 0:
        return True
    lifetime = int(priv.get("password_lifetime", -1))
    days = default_lifetime if lifetime < 0 else lifetime
    return days > 0 and int(changed_s) + days * _DAY_S <= now_s


def _opens(user: str, opens: Mapping[str, set[str]], granted: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Answer what an account opens, by itself, as everybody, or by roles, which may have roles themselves."""
    seen: set[str] = set()
    left = {user, "", "PUBLIC"}
    while left:
        one = left.pop()
        seen.add(one)
        left |= granted.get(one, set()) - seen
    return tuple(sorted({_ALWAYS}.union(*(opens.get(one, set()) for one in seen))))


def first(username: str, database: str, verifier: Secret, said: Greeting, *, speaks_tls: bool, stamp: str) -> Accounts:
    """Answer who may log in to a cluster that was just made with this user and its database."""
    tls = greeting.TLS if speaks_tls else 0
    user = Account(
        user=username,
        host="%",
        methods=(Method(plugin=_NATIVE, verifier=verifier),),
        is_locked=False,
        password_expired=False,
        needs_tls=False,
        needs_certificate=False,
        opens=tuple(sorted({_ALWAYS, "mysql", privileges.escape(database), *privileges.patterns()})),
    )
    return Accounts(
        accounts=(user,),
        databases=tuple(sorted({database, "information_schema", "mysql", "performance_schema"})),
        version=said.version,
        capabilities=said.capabilities & ~greeting.TLS | tls,
        collation=said.collation,
        stamp=stamp,
    )
