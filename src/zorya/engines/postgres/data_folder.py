"""Make a cluster's data folder from a template, so that a new cluster costs a copy and not an initdb.

A template is an initialised data folder of one version with the user's role and a database in it. The copy gets its
own password, database name, system identifier and mock nonce while no server runs on it. Folders are made under a name
of their own and renamed when they are whole and durable, so that one that exists is never half-made.
"""

import asyncio
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from zorya.core import commands, failpoints, files
from zorya.core.account import Account
from zorya.core.model import Secret
from zorya.engines import making
from zorya.engines.base import Installation, Instance
from zorya.engines.postgres import configuration, control_file, identities, verifiers

_SAID = r"(?:FATAL|PANIC|ERROR|error): +(.+)"
"""What PostgreSQL's programs print of an error."""

_TEMPLATE_FORM = 2
"""Rises when templates are made differently, so that older ones are not used."""

NEEDED = ("PG_VERSION", "global/pg_control", "base", "pg_wal")
"""What there is in every data folder."""

# Before PostgreSQL 16 whoever may create roles may also grant these, and with them every file and program that the
# engine's account can reach. A role that is not there cannot be granted; superusers do not need it.
_HOST_ROLES = ("pg_read_server_files", "pg_write_server_files", "pg_execute_server_program")


class Templates:
    """The templates of one home. One is made at a time for each version."""

    def __init__(self, folder: Path, account: Account, *, username: str) -> None:
        """Keep templates in `folder`, owned by `account`, with the user's role `username` in them."""
        self._folder = folder
        self._account = account
        self._username = username
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ensure(self, installation: Installation) -> Path:
        """Answer the template for this installation, made if missing."""
        path = self._folder / f"postgres-{installation.version}-{_TEMPLATE_FORM}"
        async with self._locks[installation.version]:
            if not path.exists():
                await asyncio.to_thread(self._remove_stale, path.name)
                await self._make(installation, path)
        return path

    async def _make(self, installation: Installation, path: Path) -> None:
        partial = making.partial_folder(path, self._account)
        try:
            await commands.run(
                [
                    installation.program("initdb"),
                    f"--pgdata={partial}",
                    *configuration.initdb_options(int(installation.major)),
                ],
                account=self._account,
            )
            await _run_single_user(installation, partial, self._provisioning(installation), self._account)
            # Each copy gets a log of its own; this one need not be copied.
            for segment in (partial / "pg_wal").glob("0*"):
                segment.unlink()
            await _sync(installation, partial, self._account)
            making.publish(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _provisioning(self, installation: Installation) -> list[str]:
        role = self._username
        guard = [
            "SET allow_system_table_mods = on",
            *(f"DELETE FROM pg_catalog.pg_authid WHERE rolname = '{name}'" for name in _HOST_ROLES),  # noqa: S608
        ]
        return [
            *(guard if int(installation.major) < 16 else []),
            f'CREATE ROLE "{role}" LOGIN CREATEDB CREATEROLE',
            f'GRANT pg_monitor, pg_signal_backend TO "{role}" WITH ADMIN OPTION',
            f'CREATE DATABASE "{role}" OWNER "{role}"',
        ]

    def _remove_stale(self, keep: str) -> None:
        """Remove what an interrupted making left, and templates of the same major version that were replaced."""
        family = keep.partition(".")[0]
        for old in self._folder.glob(f"{family}.*"):
            shutil.rmtree(old, ignore_errors=True)


async def build(templates: Templates, instance: Instance, verifier: Secret) -> None:
    """Make the cluster's data folder; see Engine.build."""
    verifiers.check(verifier)
    target = instance.folders.data
    if target.exists():
        return
    making.remove_partial_folders(target)
    try:
        template = await templates.ensure(instance.installation)
        await failpoints.reached("create.template")
        partial = making.partial_folder(target, instance.account)
        await making.copy(template, partial, instance.account)
        await failpoints.reached("create.copy")
        await asyncio.to_thread(control_file.renew, partial / identities.CONTROL_FILE)
        await commands.run(
            [instance.installation.program("pg_resetwal"), "--pgdata", partial], account=instance.account
        )
        await _run_single_user(
            instance.installation,
            partial,
            _own(instance, verifier),
            instance.account,
        )
        await failpoints.reached("create.provision")
        await _sync(instance.installation, partial, instance.account)
        _write_identities(instance, partial, verifier)
        await failpoints.reached("create.identities")
        making.publish(partial, target)
    except commands.CommandFailed as error:
        raise making.failed(error, instance, _SAID) from error
    except OSError as error:
        raise files.explain(error, "Making the data folder", target.parent) from error


def _own(instance: Instance, verifier: Secret) -> list[str]:
    """Answer the statements that make of a template's copy a cluster's own."""
    statements = [f"ALTER ROLE \"{instance.username}\" PASSWORD '{verifier.value}'"]
    if instance.database != instance.username:
        statements.append(f'ALTER DATABASE "{instance.username}" RENAME TO "{instance.database}"')
    if instance.following is not None:
        statements += [configuration.CREATE_REPLICA, configuration.GRANT_REPLICA]
    return statements


def _write_identities(instance: Instance, data: Path, verifier: Secret) -> None:
    nonce = control_file.read_mock_nonce(data / identities.CONTROL_FILE)
    known = identities.first(instance.username, instance.database, verifier, nonce)
    # It does not change with the folder's name.
    known = replace(known, stamp=control_file.stamp(data / identities.CONTROL_FILE))
    files.write_atomically(instance.folders.identities, known.to_json(), mode=0o600)


def check(instance: Instance) -> None:
    """Raise DataDamaged when the data folder is visibly damaged or of another version; see Engine.check_data."""
    data = instance.folders.data
    for needed in NEEDED:
        if not (data / needed).exists():
            raise making.damaged(instance, f"{data / needed} is missing")
    version = (data / "PG_VERSION").read_text(errors="replace").strip()
    if version != instance.installation.major:
        raise making.damaged(instance, f"{data / 'PG_VERSION'} says {version!r}, not {instance.installation.major!r}")
    if (data / "global/pg_control").stat().st_size < control_file.SMALLEST_CONTROL_FILE:
        raise making.damaged(instance, f"{data / 'global/pg_control'} is cut off")


async def _sync(installation: Installation, folder: Path, account: Account) -> None:
    await commands.run([installation.program("initdb"), "--sync-only", f"--pgdata={folder}"], account=account)


async def _run_single_user(installation: Installation, folder: Path, statements: list[str], account: Account) -> None:
    """Run statements on a data folder without a server; each must be on one line."""
    await commands.run(
        [
            installation.program("postgres"),
            "--single",
            "-D",
            folder,
            *("-c", "exit_on_error=on"),
            *("-c", "fsync=off"),
            *("-c", "password_encryption=scram-sha-256"),
            *("-c", "log_min_messages=warning"),
            *("-c", "log_min_error_statement=panic"),
            *("-c", "log_checkpoints=off"),
            "postgres",
        ],
        account=account,
        stdin="".join(f"{statement}\n" for statement in statements),
    )
