"""Real PostgreSQL servers with roles of every kind, and what the gateway would know of them while they are stopped."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from bare_postgres import initialised
from gateway.fakes import free_port
from zorya.core import commands
from zorya.core.identity import Database, Identities, Role
from zorya.core.model import Secret
from zorya.engines.base import Installation
from zorya.engines.postgres import configuration

ACCESS = f"""\
local all all trust
host all {configuration.ADMIN} all reject
host all all all md5
"""

PASSWORD = "right"
ODD_PASSWORD = "p\u00e4ssw\u00f6rd\u00a0\u2168 \u00ad,="
"""SASLprep turns the no-break space into a space and the Roman numeral into letters, and drops the soft hyphen."""

LONG = "l" * 63
LONG_ODD = "\u00e9" * 31

SETUP = f"""
CREATE ROLE ann LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE odd LOGIN PASSWORD '{ODD_PASSWORD}';
CREATE ROLE "na, me=" LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE {LONG} LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE "{LONG_ODD}" LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE bare LOGIN;
CREATE ROLE {configuration.ADMIN} LOGIN SUPERUSER PASSWORD '{PASSWORD}';
CREATE ROLE expired LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2001-01-01';
CREATE ROLE changing LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE lasting LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2901-01-01';
CREATE ROLE group_ PASSWORD '{PASSWORD}';
CREATE ROLE shut_out LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 0;
CREATE ROLE chief LOGIN SUPERUSER PASSWORD '{PASSWORD}' CONNECTION LIMIT 0;
CREATE ROLE broken LOGIN PASSWORD '{PASSWORD}';
UPDATE pg_authid SET rolpassword = 'SCRAM-SHA-256$4096:no verifier' WHERE rolname = 'broken';
CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}';
UPDATE pg_authid SET rolpassword = '{PASSWORD}' WHERE rolname = 'plain';
SET password_encryption = md5;
CREATE ROLE old LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE old_expired LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2001-01-01';
CREATE ROLE old_group PASSWORD '{PASSWORD}';
CREATE DATABASE shop;
CREATE DATABASE closed ALLOW_CONNECTIONS false CONNECTION LIMIT 0;
CREATE DATABASE crowded CONNECTION LIMIT 0;
CREATE DATABASE half_gone;
UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half_gone';
CREATE DATABASE {LONG};
"""


@dataclass(frozen=True, kw_only=True)
class RealPostgres:
    """A running server, listening at 127.0.0.1 and on a Unix socket where everybody is trusted."""

    major: int
    port: int
    socket: Path
    identities: Identities
    certificate: Path
    """The one that it shows for TLS, self-signed, and its key beside it."""

    @property
    def key(self) -> Path:
        return self.certificate.with_name("server.key")

    @property
    def end_point_hash(self) -> bytes:
        found = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return found.fingerprint(hashes.SHA256())

    def run(self, statement: str) -> None:
        """Run a statement as a superuser."""
        with psycopg.connect(host=str(self.socket), port=self.port, user="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


@contextlib.contextmanager
def serving(installation: Installation) -> Iterator[RealPostgres]:
    """Run a server of this installation for the block, in a folder of its own."""
    with initialised(installation) as bare:
        own, port = bare.folders.socket, free_port()
        bare.write_certificate(own)
        access = bare.folders.root / "pg_hba.conf"
        access.write_text(ACCESS)
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(own),
            "hba_file": str(access),
            "ssl": "on",
            "ssl_cert_file": str(own / "server.crt"),
            "ssl_key_file": str(own / "server.key"),
        }
        with bare.running(port, options):
            _set_up(own, port)
            asked: list[str | Path] = [bare.programs / "pg_controldata", "-D", bare.folders.data]
            control = commands.run_blocking(asked, account=bare.account, timeout_s=20)
            nonce = next(line.split()[-1] for line in control.splitlines() if line.startswith("Mock authentication"))
            yield RealPostgres(
                major=int(installation.version.partition(".")[0]),
                port=port,
                socket=own,
                identities=_read_identities(own, port, bytes.fromhex(nonce)),
                certificate=own / "server.crt",
            )


def _set_up(socket: Path, port: int) -> None:
    with psycopg.connect(host=str(socket), port=port, user="postgres", autocommit=True) as connection:
        for statement in SETUP.strip().split("\n"):
            connection.execute(statement.encode())


def _read_identities(socket: Path, port: int, nonce: bytes) -> Identities:
    with psycopg.connect(host=str(socket), port=port, user="postgres") as connection:
        roles = connection.execute(
            "SELECT rolname, rolpassword, rolcanlogin, rolsuper, rolconnlimit, rolvaliduntil FROM pg_authid"
        ).fetchall()
        databases = connection.execute("SELECT datname, datallowconn, datconnlimit FROM pg_database").fetchall()
    return Identities(
        roles={
            name: Role(
                verifier=Secret(verifier) if verifier is not None else None,
                may_log_in=may_log_in,
                is_superuser=is_superuser,
                connection_limit=limit,
                valid_until=until,
            )
            for name, verifier, may_log_in, is_superuser, limit, until in roles
        },
        databases={
            name: Database(allows_connections=allows, connection_limit=limit) for name, allows, limit in databases
        },
        mock_nonce=nonce,
    )
