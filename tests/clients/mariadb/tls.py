"""Real clients, each asked for TLS in its own words: did they get it?"""

import asyncio
import gc
import json
import os
import shutil
import ssl
import subprocess
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mysql.connector
import pymysql
import pytest

from clients.mariadb.shop import Shop

CIPHER = "SHOW STATUS LIKE 'Ssl_cipher'"
"""What the engine answers is empty where it did no TLS."""


class Refused(Exception):
    """The client did not get a session; what it says."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to, as whom, and whose certificates to trust."""

    shop: Shop
    root: Path

    def named(self, host: str) -> "Target":
        """Answer the same by another name for the host."""
        return replace(self, shop=replace(self.shop, host=host))


def agreed(*, client_encrypts: bool, cipher: str) -> bool:
    """Answer whether a session is encrypted; fails when the client and the engine see it differently."""
    assert client_encrypts == (cipher != "")
    return client_encrypts


Connect = Callable[[Target], bool]
"""Opens a session and answers whether it is encrypted, or raises Refused."""


def with_connector(**options: Any) -> Connect:
    """Answer what connects with MySQL Connector/Python; of the options, `ssl_ca` is put in where it is named."""

    def connect(target: Target) -> bool:
        told = {**options, **({"ssl_ca": str(target.root)} if "ssl_ca" in options else {})}
        try:
            connection = mysql.connector.connect(use_pure=True, **target.shop.told(**told))
        except mysql.connector.Error as error:
            raise Refused(str(error)) from error
        try:
            with connection.cursor() as cursor:
                cursor.execute(CIPHER)
                [[_name, cipher]] = cursor.fetchall()
            return agreed(client_encrypts=connection.is_secure, cipher=str(cipher))
        finally:
            connection.close()

    return connect


def with_pymysql(**options: Any) -> Connect:
    """Answer what connects with PyMySQL; of the options, `ssl_ca` is put in where it is named."""

    def connect(target: Target) -> bool:
        told = {**options, **({"ssl_ca": str(target.root)} if "ssl_ca" in options else {})}
        try:
            connection = pymysql.connect(**target.shop.told(**told))
        except (pymysql.Error, OSError) as error:
            raise Refused(str(error)) from error
        with connection, connection.cursor() as cursor:
            cursor.execute(CIPHER)
            [[_name, cipher]] = cursor.fetchall()
            return agreed(client_encrypts=isinstance(connection._sock, ssl.SSLSocket), cipher=cipher)

    return connect


def with_mysqlclient(**options: Any) -> Connect:
    """Answer what connects with mysqlclient; the root is told where `ssl` is named."""

    def connect(target: Target) -> bool:
        client = pytest.importorskip("MySQLdb", reason="mysqlclient is not installed")
        told = {**options, **({"ssl": {"ca": str(target.root)}} if "ssl" in options else {})}
        try:
            connection = client.connect(**target.shop.told(**told))
        except client.Error as error:
            raise Refused(str(error)) from error
        with connection.cursor() as cursor:
            cursor.execute(CIPHER)
            [[_name, cipher]] = cursor.fetchall()
        connection.close()
        return bool(cipher)

    return connect


def with_asyncio(driver: str, *, verifies: bool | None) -> Connect:
    """Answer what connects with asyncmy or aiomysql, verifying the certificate or not, or with None without TLS."""

    def connect(target: Target) -> bool:
        client = pytest.importorskip(driver)
        context = None
        if verifies is not None:
            context = ssl.create_default_context(cafile=target.root)
            if not verifies:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
        told = {("db" if name == "database" else name): value for name, value in target.shop.told(ssl=context).items()}

        async def ask() -> bool:
            connection = await client.connect(**told)
            async with connection.cursor() as cursor:
                await cursor.execute(CIPHER)
                [[_name, cipher]] = await cursor.fetchall()
            await connection.ensure_closed()
            return bool(cipher)

        # aiomysql raises PyMySQL's errors.
        errors = pymysql if driver == "aiomysql" else client.errors
        said, encrypts = "", False
        try:
            encrypts = asyncio.run(ask())
        except (errors.Error, OSError) as error:
            said = str(error)
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            # Neither waits until a connection with TLS is closed, nor closes one whose TLS has failed.
            gc.collect()
        if said:
            raise Refused(said)
        return encrypts

    return connect


def with_program(*options: str) -> Connect:
    """Answer what connects with the program `mariadb`; of the options, `--ssl-ca` is completed where it is named."""

    def connect(target: Target) -> bool:
        if shutil.which("mariadb") is None:
            pytest.skip("this host has no mariadb")
        shop = target.shop
        told = [f"--ssl-ca={target.root}" if option == "--ssl-ca" else option for option in options]
        done = subprocess.run(
            [
                *("mariadb", "--no-defaults", "--protocol=tcp", f"--host={shop.host}", f"--port={shop.port}"),
                *(f"--user={shop.user}", "--batch", "--skip-column-names", *told, shop.database),
            ],
            input=f"{CIPHER};\nstatus\n",
            env={**os.environ, "MYSQL_PWD": shop.password},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise Refused(done.stderr)
        cipher = done.stdout.splitlines()[0].split("\t")[1]
        return agreed(client_encrypts="Cipher in use is" in done.stdout, cipher=cipher)

    return connect


NODE_MODES: Mapping[str, Callable[[Target], Any]] = {
    "none": lambda _: False,
    "unverified": lambda _: {"rejectUnauthorized": False},
    "verified": lambda target: {"ca": target.root.read_text(), "rejectUnauthorized": True, "verifyIdentity": True},
}


def with_node(package: Path, driver: str, mode: str) -> Connect:
    """Answer what connects with one of Node's two drivers, installed in `package`."""

    def connect(target: Target) -> bool:
        done = subprocess.run(
            ["node", "tls.mjs", driver],
            cwd=package,
            input=json.dumps(target.shop.told(ssl=NODE_MODES[mode](target))),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise Refused(done.stderr)
        seen = json.loads(done.stdout)
        return agreed(client_encrypts=seen["encrypts"], cipher=seen["cipher"])

    return connect


PLAIN, TLS, NO_TRUST, NO_NAME = "plain", "TLS", "TLS where it trusts the root", "TLS where the name is right too"
"""What a mode gives: what it refuses is the wrong root, and the wrong name."""

WRONG_NAME = "127.1"
"""Another way to write 127.0.0.1, which no certificate has."""
OTHER_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")

CONNECTOR: dict[str, tuple[Connect, str]] = {
    "DISABLED": (with_connector(ssl_disabled=True), PLAIN),
    "PREFERRED": (with_connector(), TLS),
    "REQUIRED": (with_connector(ssl_disabled=False, ssl_ca=True), TLS),
    "VERIFY_CA": (with_connector(ssl_ca=True, ssl_verify_cert=True), NO_TRUST),
    "VERIFY_IDENTITY": (with_connector(ssl_ca=True, ssl_verify_cert=True, ssl_verify_identity=True), NO_NAME),
}
"""MySQL's own connector, with MySQL's names for the modes."""

OTHERS: dict[str, tuple[Connect, str]] = {
    "PyMySQL, ssl_disabled": (with_pymysql(ssl_disabled=True), PLAIN),
    "PyMySQL": (with_pymysql(), TLS),
    "PyMySQL, ssl_verify_identity": (
        with_pymysql(ssl_ca=True, ssl_verify_cert=True, ssl_verify_identity=True),
        NO_NAME,
    ),
    "mysqlclient": (with_mysqlclient(), PLAIN),
    "mysqlclient, REQUIRED": (with_mysqlclient(ssl_mode="REQUIRED"), TLS),
    "mysqlclient, VERIFY_IDENTITY": (with_mysqlclient(ssl_mode="VERIFY_IDENTITY", ssl=True), NO_NAME),
    "asyncmy": (with_asyncio("asyncmy", verifies=True), NO_NAME),
    "aiomysql": (with_asyncio("aiomysql", verifies=True), NO_NAME),
    "mariadb --skip-ssl": (with_program("--skip-ssl"), PLAIN),
    "mariadb --ssl": (with_program("--ssl"), TLS),
    "mariadb --ssl-ca": (with_program("--ssl", "--ssl-ca"), NO_TRUST),
    "mariadb --ssl-verify-server-cert": (with_program("--ssl", "--ssl-ca", "--ssl-verify-server-cert"), NO_NAME),
}
NODE = [(driver, mode) for driver in ("mysql2", "mariadb") for mode in NODE_MODES]
NODE_GETS = {"none": PLAIN, "unverified": TLS, "verified": NO_NAME}
