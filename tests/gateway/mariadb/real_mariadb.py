"""A real MariaDB server with accounts of every kind, and what the gateway would know of it while it is stopped."""

import contextlib
import getpass
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from pymysql.cursors import Cursor

from fix_home import make_folder
from gateway.fakes import free_port
from gateway.mariadb.raw_client import RawClient
from waiting import wait_until
from zorya.core import commands
from zorya.core.accounts import Account, Accounts, Method
from zorya.core.model import Secret
from zorya.engines.mariadb.configuration import RELAY_ADDRESS
from zorya.gateway.mariadb.wire import Greeting

PASSWORD = "right"

SETUP = f"""
CREATE DATABASE shop
CREATE DATABASE `sh_p`
CREATE DATABASE other
CREATE DATABASE `b\u00e9b\u00e9`
CREATE TABLE shop.goods (id INT PRIMARY KEY, name VARCHAR(40))
INSTALL SONAME 'auth_ed25519'
CREATE USER ann@'%' IDENTIFIED BY '{PASSWORD}'
GRANT ALL ON shop.* TO ann@'%'
GRANT ALL ON `b\u00e9b\u00e9`.* TO ann@'%'
CREATE USER `ren\u00e9`@'%' IDENTIFIED BY '{PASSWORD}'
CREATE USER `a@b`@'%' IDENTIFIED BY '{PASSWORD}'
CREATE USER chief@'%' IDENTIFIED BY '{PASSWORD}'
GRANT ALL ON *.* TO chief@'%' WITH GRANT OPTION
CREATE USER pattern@'%' IDENTIFIED BY '{PASSWORD}'
GRANT SELECT ON `sh\\_%`.* TO pattern@'%'
CREATE USER bare@'%'
CREATE USER locked@'%' IDENTIFIED BY '{PASSWORD}' ACCOUNT LOCK
CREATE USER only_tls@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL
CREATE USER certified@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE X509
CREATE USER expired@'%' IDENTIFIED BY '{PASSWORD}' PASSWORD EXPIRE
CREATE USER second@'%' IDENTIFIED VIA unix_socket OR mysql_native_password USING PASSWORD('{PASSWORD}')
CREATE USER local_only@'%' IDENTIFIED VIA unix_socket
CREATE USER modern@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')
CREATE USER either@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('old') OR ed25519 USING PASSWORD('right')
CREATE USER broken@'%' IDENTIFIED VIA mysql_native_password USING 'invalid'
CREATE USER here@localhost IDENTIFIED BY '{PASSWORD}'
CREATE USER near@'127.0.0.%' IDENTIFIED BY '{PASSWORD}'
CREATE USER masked@'127.0.4.0/255.255.252.0' IDENTIFIED BY '{PASSWORD}'
CREATE USER six@'::1' IDENTIFIED BY '{PASSWORD}'
CREATE USER many@'%' IDENTIFIED BY 'anywhere'
CREATE USER many@'127.%' IDENTIFIED BY 'loop'
CREATE USER many@'127.0.0.1' IDENTIFIED BY 'exact'
CREATE USER many@'127.0.0._' IDENTIFIED BY 'digit'
CREATE USER many@'127.0.0.0/255.255.255.0' IDENTIFIED BY 'mask'
CREATE USER ''@'127.0.9.9' IDENTIFIED BY 'nobody'
"""


@dataclass(frozen=True, kw_only=True)
class RealMariaDb:
    """A running server, listening at the loopback addresses."""

    port: int
    path: Path
    """Of its Unix socket."""
    accounts: Accounts
    folder: Path
    process: "subprocess.Popen[bytes]"

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the administrator."""
        with connected(self.path) as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())


@contextlib.contextmanager
def connected(path: Path) -> Iterator[Cursor]:
    with contextlib.closing(
        pymysql.connect(unix_socket=str(path), user=getpass.getuser(), charset="utf8mb4", autocommit=True)
    ) as session:
        yield session.cursor()


@contextlib.contextmanager
def serving(environment: Callable[[int], dict[str, str]] = lambda _: {}) -> Iterator[RealMariaDb]:
    """Run a server for the block, in a folder of its own. `environment` adds to its own, given its port."""
    folder = make_folder()
    try:
        user = getpass.getuser()
        data = folder / "data"
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-test-db"]
        install += ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}"]
        commands.run_blocking(install, account=None, timeout_s=60)
        _make_certificate(folder)
        port, path = free_port(), folder / "s"
        with _running(folder, port, path, environment(port)) as process:
            with connected(path) as cursor:
                for statement in SETUP.strip().split("\n"):
                    cursor.execute(statement)
                accounts = _read_accounts(cursor, path)
            yield RealMariaDb(port=port, path=path, accounts=accounts, folder=folder, process=process)
    finally:
        shutil.rmtree(folder)


def _make_certificate(folder: Path) -> None:
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += [
        "-keyout",
        str(folder / "key"),
        "-out",
        str(folder / "certificate"),
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    commands.run_blocking(argv, account=None, timeout_s=60)


@contextlib.contextmanager
def _running(folder: Path, port: int, path: Path, environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    argv = [
        "mariadbd",
        "--no-defaults",
        f"--user={getpass.getuser()}",
        f"--datadir={folder / 'data'}",
        f"--socket={path}",
        f"--pid-file={folder / 'pid'}",
        "--bind-address=127.0.0.1,::1",
        f"--port={port}",
        "--skip-name-resolve",
        f"--proxy-protocol-networks={RELAY_ADDRESS}",
        f"--ssl-cert={folder / 'certificate'}",
        f"--ssl-key={folder / 'key'}",
        "--character-set-server=utf8mb4",
        "--innodb-buffer-pool-size=16M",
        "--innodb-flush-log-at-trx-commit=0",
        "--performance-schema=on",
        "--local-infile=on",
        "--max-allowed-packet=64M",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, env={**commands.ENVIRONMENT, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
        )
    try:
        wait_until(lambda: process.poll() is not None or _is_ready(path), "MariaDB is ready")
        assert process.poll() is None, (folder / "log").read_text()
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _is_ready(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _read_accounts(cursor: Cursor, path: Path) -> Accounts:
    with RawClient(path) as client:
        greeting = Greeting.from_body(client.receive().body)
    cursor.execute("SELECT User, Host, Db FROM mysql.db")
    opened: dict[tuple[str, str], list[str]] = {}
    for user, host, database in cursor.fetchall():
        opened.setdefault((user, host), []).append(database)
    cursor.execute("SELECT User, Host, Priv FROM mysql.global_priv WHERE Host <> ''")
    accounts = [
        _account(user, host, json.loads(privileges), opened.get((user, host), []))
        for user, host, privileges in cursor.fetchall()
    ]
    cursor.execute("SHOW DATABASES")
    return Accounts(
        accounts=tuple(accounts),
        databases=tuple(name for (name,) in cursor.fetchall()),
        version=greeting.version,
        capabilities=greeting.capabilities,
        collation=greeting.collation,
    )


def _account(user: str, host: str, privileges: dict[str, Any], opened: list[str]) -> Account:
    alternatives = privileges.get("auth_or") or [{}]
    methods = tuple(
        Method(
            plugin=(one or privileges).get("plugin", "mysql_native_password"),
            verifier=Secret((one or privileges).get("authentication_string", "")),
        )
        for one in alternatives
    )
    return Account(
        user=user,
        host=host,
        methods=methods,
        is_locked=privileges.get("account_locked", False),
        password_expired=privileges.get("password_last_changed") == 0,
        needs_tls=privileges.get("ssl_type", 0) >= 1,
        needs_certificate=privileges.get("ssl_type", 0) >= 2,
        opens=("%",) if privileges.get("access") else tuple(opened),
    )
