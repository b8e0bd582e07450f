"""Make a cluster's data folder from a template, so that a new cluster costs a copy and a short run of the server.

A template is an initialised data folder of one version in which there is the user's account alone, locked, together
with what a server of that version says in its greeting. The copy gets its own password and database while it serves
nobody (`mariadbd --bootstrap`). Folders are made under a name of their own and renamed when they are whole and durable,
so that one that exists is never half-made.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from zorya.core import commands, failpoints, files
from zorya.core.account import Account
from zorya.core.model import Secret
from zorya.engines import making
from zorya.engines.base import Installation, Instance
from zorya.engines.mariadb import (
    binlog,
    configuration,
    greeting,
    identities,
    installations,
    privileges,
    sizes,
    verifiers,
)
from zorya.engines.mariadb.greeting import Greeting

_SAID = r"(?:\[ERROR\]|ERROR:|ERROR) +(.+)"
"""What MariaDB's programs print of an error."""

_TEMPLATE_FORM = 1
"""Rises when templates are made differently, so that older ones are not used."""

_SMALL_LOG = 4 * 1024**2
"""The least that MariaDB takes; a copy gets a log of its own size when its server first runs."""

_GREET_WITHIN_S = 30.0
_HEADER_BYTES = 4

FILES = ("ibdata1", "ib_logfile0", "aria_log_control", "mysql")
"""What every data folder has."""

_UPGRADE_FILES = ("mariadb_upgrade_info", "mysql_upgrade_info")
"""Where the installation program, and mariadb-upgrade, write the version that the data is of."""


class Templates:
    """The templates of one home. One is made at a time for each version."""

    def __init__(self, folder: Path, account: Account, *, username: str) -> None:
        """Keep templates in `folder`, owned by `account`, with the user's account `username` in them."""
        self._folder = folder
        self._account = account
        self._username = username
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ensure(self, installation: Installation) -> tuple[Path, Greeting]:
        """Answer the template for this installation, made if missing, and what its server says in its greeting."""
        path = self._folder / f"mariadb-{installation.version}-{_TEMPLATE_FORM}"
        async with self._locks[installation.version]:
            if not path.exists():
                await asyncio.to_thread(self._remove_stale, installation, path.name)
                await self._make(installation, path)
        values = json.loads((path / "greeting.json").read_text())
        return path / "data", Greeting(**values)

    async def _make(self, installation: Installation, path: Path) -> None:
        partial = making.partial_folder(path, self._account)
        data = files.ensure_folder(partial / "data", mode=0o700, owner=self._account)
        try:
            await commands.run(
                [
                    installations.program(installation, "mariadb-install-db"),
                    "--no-defaults",
                    f"--basedir={installation.folder}",
                    f"--datadir={data}",
                    f"--tmpdir={data}",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--skip-name-resolve",
                    "--character-set-server=utf8mb4",
                    f"--innodb-log-file-size={_SMALL_LOG}",
                ],
                account=self._account,
            )
            statements = privileges.template_statements(self._username)
            await _bootstrap(installation, data, statements, self._account, log_bytes=_SMALL_LOG)
            said = await asyncio.to_thread(_hear_greeting, installation, partial, self._account)
            (partial / "greeting.json").write_text(json.dumps(asdict(said)))
            for name in ("ib_buffer_pool", "ibtmp1"):
                (data / name).unlink(missing_ok=True)
            await asyncio.to_thread(_sync, partial)
            making.publish(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _remove_stale(self, installation: Installation, keep: str) -> None:
        """Remove what an interrupted making left, and templates of the same series that were replaced."""
        for old in self._folder.glob(f"mariadb-{installation.major}.*"):
            if old.name != keep:
                shutil.rmtree(old, ignore_errors=True)


async def build(templates: Templates, instance: Instance, verifier: Secret) -> None:
    """Make the cluster's data folder; see Engine.build."""
    verifiers.check(verifier)
    target = instance.folders.data
    if target.exists():
        return
    making.remove_partial_folders(target)
    try:
        template, said = await templates.ensure(instance.installation)
        await failpoints.reached("create.template")
        partial = making.partial_folder(target, instance.account)
        await making.copy(template, partial, instance.account)
        await failpoints.reached("create.copy")
        await _bootstrap(
            instance.installation,
            partial,
            privileges.cluster_statements(instance.username, instance.database, verifier.value),
            instance.account,
            log_bytes=sizes.at_start(instance.bounds, instance.acu)["innodb_log_file_size"],
        )
        # Its beginning is what `ended_cleanly` and `stamp` go by; no start has begun a binary log yet.
        _write_empty(partial / configuration.BINLOG_INDEX, instance.account)
        await failpoints.reached("create.provision")
        await asyncio.to_thread(_sync, partial)
        _write_identities(instance, partial, verifier, said)
        await failpoints.reached("create.identities")
        making.publish(partial, target)
    except commands.CommandFailed as error:
        raise making.failed(error, instance, _SAID) from error
    except OSError as error:
        raise files.explain(error, "Making the data folder", target.parent) from error


def _write_identities(instance: Instance, data: Path, verifier: Secret, said: Greeting) -> None:
    known = identities.first(
        instance.username,
        instance.database,
        verifier,
        said,
        speaks_tls=instance.tls is not None,
        # It does not change with the folder's name.
        stamp=binlog.stamp(data),
    )
    files.write_atomically(instance.folders.identities, known.to_json(), mode=0o600)


def check(instance: Instance) -> None:
    """Raise DataDamaged when the data folder is visibly damaged or of another version; see Engine.check_data."""
    data = instance.folders.data
    for needed in FILES:
        if not (data / needed).exists():
            raise making.damaged(instance, f"{data / needed} is missing")
    if (data / "ibdata1").stat().st_size == 0:
        raise making.damaged(instance, f"{data / 'ibdata1'} is empty")
    version = _version(data)
    if version is None:
        raise making.damaged(instance, f"{data / _UPGRADE_FILES[0]} does not say its version")
    if version != instance.installation.major:
        raise making.damaged(instance, f"{data} is of version {version!r}, not {instance.installation.major!r}")


def _version(data: Path) -> str | None:
    """Answer the series that the data is of, such as "10.11"."""
    for name in _UPGRADE_FILES:
        try:
            found = re.match(r"(\d+\.\d+)\.", (data / name).read_text(errors="replace"))
        except OSError:
            continue
        return found[1] if found else None
    return None


def _sync(folder: Path) -> None:
    """Make all files below a folder, and the folders, durable."""
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(root) / name, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        files.sync_folder(Path(root))


def _write_empty(path: Path, account: Account) -> None:
    path.touch(mode=0o660)
    if account.is_other:
        os.chown(path, account.uid, account.gid)


async def _bootstrap(
    installation: Installation, data: Path, statements: Sequence[str], account: Account, *, log_bytes: int
) -> None:
    """Run statements on a data folder whose server serves nobody; each must be on one line. Raises CommandFailed."""
    await commands.run(
        [
            installations.program(installation, installations.SERVER),
            "--no-defaults",
            "--bootstrap",
            f"--basedir={installation.folder}",
            f"--datadir={data}",
            # A server that starts removes what others have in their folder of temporary files, if it is the same one.
            f"--tmpdir={data}",
            "--character-set-server=utf8mb4",
            "--skip-name-resolve",
            f"--innodb-log-file-size={log_bytes}",
            "--skip-innodb-buffer-pool-dump-at-shutdown",
            "--skip-innodb-buffer-pool-load-at-startup",
        ],
        account=account,
        stdin="".join(f"{statement};\n" for statement in statements),
    )


def _hear_greeting(installation: Installation, folder: Path, account: Account) -> Greeting:
    """Start a server on `folder`/data, with what its greeting depends on, and hear what it says. Blocking."""
    path = folder / "greeting.sock"
    process = subprocess.Popen(
        [
            # It ends by itself if this process dies.
            "timeout",
            f"{_GREET_WITHIN_S:g}",
            installations.program(installation, installations.SERVER),
            "--no-defaults",
            f"--basedir={installation.folder}",
            f"--datadir={folder / 'data'}",
            f"--tmpdir={folder / 'data'}",
            f"--log-bin={folder / 'binlog'}",
            # A Unix socket's path must be short.
            "--socket=../greeting.sock",
            "--skip-networking",
            "--skip-grant-tables",
            "--character-set-server=utf8mb4",
            f"--innodb-log-file-size={_SMALL_LOG}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=commands.ENVIRONMENT,
        **account.switch(),
    )
    try:
        packet = _first_packet(path, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        for left in folder.glob("binlog.*"):
            left.unlink()
    try:
        return greeting.parse(packet)
    except ValueError as error:
        raise commands.CommandFailed([installations.SERVER], "no greeting", str(error)) from error


def _first_packet(path: Path, process: "subprocess.Popen[bytes]") -> bytes:
    """Answer the first packet of the server that is starting, without its header; nothing if it ends before."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while process.poll() is None:
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(f"/proc/self/fd/{folder}/{path.name}")
                except OSError:
                    time.sleep(0.01)
                    continue
                packet = client.recv(65536)
                # It is one write of some hundred bytes at the most.
                return packet[_HEADER_BYTES:]
    finally:
        os.close(folder)
    return b""
