"""Real PostgreSQL servers with roles of every kind, and what the gateway would know of them while they are stopped."""

import contextlib
import datetime
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fix_home import make_folder
from gateway.fakes import free_port
from waiting import wait_until
from zorya.core import commands
from zorya.core.account import Account, ensure
from zorya.core.identity import Database, Identities, Role
from zorya.core.model import Secret
from zorya.engines.base import Installation
from zorya.engines.postgres import configuration, lockfile

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
    account = ensure("zorya")
    folder = make_folder()
    try:
        programs = _reachable(installation.folder, account, folder)
        own, data = folder / "own", folder / "own" / "data"
        own.mkdir(mode=0o700)
        _give(own, account)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        commands.run_blocking([programs / "initdb", "-D", data, *options], account=account, timeout_s=60)
        _make_certificate(own, account)
        (folder / "pg_hba.conf").write_text(ACCESS)
        with _running(programs, folder, account) as port:
            _set_up(own, port)
            control = commands.run_blocking([programs / "pg_controldata", "-D", data], account=account, timeout_s=20)
            nonce = next(line.split()[-1] for line in control.splitlines() if line.startswith("Mock authentication"))
            yield RealPostgres(
                major=int(installation.version.partition(".")[0]),
                port=port,
                socket=own,
                identities=_read_identities(own, port, bytes.fromhex(nonce)),
                certificate=own / "server.crt",
            )
    finally:
        shutil.rmtree(folder)


def _reachable(installation: Path, account: Account, folder: Path) -> Path:
    try:
        commands.run_blocking([installation / "bin" / "postgres", "--version"], account=account, timeout_s=20)
    except commands.CommandFailed:
        shutil.copytree(installation, folder / "postgres", symlinks=True)
        installation = folder / "postgres"
    return installation / "bin"


def _give(path: Path, account: Account) -> None:
    if account.is_other:
        shutil.chown(path, account.uid, account.gid)


def _make_certificate(folder: Path, account: Account) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name_, content in (
        ("server.crt", certificate.public_bytes(serialization.Encoding.PEM)),
        ("server.key", pem),
    ):
        path = folder / name_
        path.write_bytes(content)
        path.chmod(0o600)
        _give(path, account)


@contextlib.contextmanager
def _running(programs: Path, folder: Path, account: Account) -> Iterator[int]:
    own, port = folder / "own", free_port()
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(own),
        "hba_file": str(folder / "pg_hba.conf"),
        "fsync": "off",
        "ssl": "on",
        "ssl_cert_file": str(own / "server.crt"),
        "ssl_key_file": str(own / "server.key"),
    }
    argv = [str(programs / "postgres"), "-D", str(own / "data"), "-p", str(port)]
    argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            env=dict(commands.ENVIRONMENT),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            **account.switch(),
        )
    try:
        wait_until(lambda: process.poll() is not None or _is_ready(own / "data"), "PostgreSQL is ready")
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait()


def _is_ready(data: Path) -> bool:
    try:
        found = lockfile.parse((data / lockfile.NAME).read_text())
    except FileNotFoundError:
        return False
    return found is not None and found.status == "ready"


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
