"""MariaDB as an `Engine`: finding, starting, asking and explaining put together."""

import signal
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path

from zorya.core import commands, errors, files, ports
from zorya.core.account import Account
from zorya.core.home import ClusterFolders, Home
from zorya.core.identity import FailedLogin
from zorya.core.model import Address, EngineKind, Secret
from zorya.engines import handoff
from zorya.engines.base import Installation, Instance, Phase, Readiness, Replication
from zorya.engines.mariadb import (
    activity,
    admin,
    administrator,
    binlog,
    certificate,
    configuration,
    data_folder,
    identities,
    installations,
    privileges,
    server_log,
    verifiers,
)

_PROC = Path("/proc")

_TEMPORARY = "tmp"
_EXCHANGE = "files"


class MariaDb:
    """MariaDB on this host, for one home. Implements `engines.base.Engine`."""

    kind = EngineKind.MARIADB
    oldest = ".".join(map(str, installations.OLDEST))
    # Knowledge Base, "mariadbd", signals: SIGTERM is SHUTDOWN. Nothing ends it at once but the kernel.
    stop_signal = signal.SIGTERM
    abort_signal = signal.SIGKILL
    # All of it is one process.
    spares_first = False

    def __init__(
        self,
        *,
        home: Home,
        account: Account,
        zorya_user: str,  # noqa: ARG002 - the administrator is nobody whom the host knows; see `privileges`
        username: str,
        setting: Path | None,
        login_timeout_s: float,
    ) -> None:
        """Run engines as `account`. A client may take `login_timeout_s` to log in."""
        self._account = account
        self._setting = setting
        self._login_timeout_s = login_timeout_s
        self._templates = data_folder.Templates(home.templates, account, username=username)

    @property
    def replication(self) -> Replication | None:
        """See Engine.replication."""
        return None

    def find(self) -> Sequence[Installation]:
        """See Engine.find."""
        return installations.find(self._setting)

    def workers(self, pids: Set[int], first: int) -> Set[int]:  # noqa: ARG002
        """See Engine.workers: the threads of the first process."""
        try:
            return {int(entry.name) for entry in (_PROC / str(first) / "task").iterdir()}
        except OSError:
            return set()

    def speaks_tls(self, installation: Installation) -> bool:
        """See Engine.speaks_tls."""
        return installation.speaks_tls

    def speaks_direct_tls(self, installation: Installation) -> bool:  # noqa: ARG002
        """See Engine.speaks_direct_tls: the server speaks first."""
        return False

    def new_verifier(self, password: Secret) -> Secret:
        """See Engine.new_verifier. It has no salt, so it is the same each time."""
        return verifiers.new(password)

    def has_files(self, folders: ClusterFolders) -> bool:
        """See Engine.has_files."""
        return all((folders.data / name).exists() for name in data_folder.FILES)

    async def build(self, instance: Instance, verifier: Secret) -> None:
        """See Engine.build."""
        await data_folder.build(self._templates, instance, verifier)

    def release(self, data: Path) -> None:
        """See Engine.release: it holds nothing."""

    def check_data(self, instance: Instance) -> None:
        """See Engine.check_data."""
        data_folder.check(instance)

    async def write_configuration(self, instance: Instance) -> None:
        """See Engine.write_configuration."""
        folders = instance.folders
        places = configuration.Places(
            data=folders.data,
            conf=folders.conf,
            socket=folders.socket,
            temporary=folders.root / _TEMPORARY,
            exchange=folders.root / _EXCHANGE,
        )
        with files.disk_errors("Writing the engine's configuration", folders.conf):
            files.ensure_folder(folders.conf, mode=0o750, group=instance.account)
            for folder in (places.temporary, places.exchange):
                files.ensure_folder(folder, mode=0o700, owner=instance.account)
            settings = configuration.render_settings(
                places,
                bounds=instance.bounds,
                acu=instance.acu,
                login_timeout_s=self._login_timeout_s,
                tls_min_version=instance.tls.min_version if instance.tls else None,
                requires_tls=instance.requires_tls and instance.tls is not None,
                plugins=_link_plugins(instance),
            )
            own = administrator.ensure(folders.conf)
            init = privileges.init_statements(
                own.name.value, verifiers.new(own.password).value, _version_id(instance.installation)
            )
            for name, text in (
                (configuration.SETTINGS_FILE, settings),
                (configuration.INIT_FILE, configuration.render_init(init)),
            ):
                files.write_if_different(folders.conf / name, text, mode=0o640, group=instance.account)
            _write_capacity(instance)
            if instance.tls is not None:
                certificate.write(folders.conf, instance.tls, instance.account)
            else:
                certificate.remove(folders.conf)

    async def write_capacity(self, instance: Instance) -> bool:
        """See Engine.write_capacity."""
        with files.disk_errors("Writing the engine's configuration", instance.folders.conf):
            return _write_capacity(instance)

    async def reload(self, instance: Instance, tell: Callable[[signal.Signals], None]) -> None:  # noqa: ARG002
        """See Engine.reload. No signal does it: SIGHUP would have the server forget its administrator."""
        conf = instance.folders.conf
        try:
            settings = configuration.parse((conf / configuration.SETTINGS_FILE).read_text())
            wanted = configuration.parse((conf / configuration.CAPACITY_FILE).read_text())
        except OSError as error:
            raise errors.EngineProblem(f"The engine's configuration in {conf} cannot be read: {error}.") from error
        wanted["require_secure_transport"] = settings["require_secure_transport"]
        await admin.reload(instance.folders, wanted, renew_tls="ssl_cert" in settings)

    def command(self, instance: Instance, port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        """See Engine.command.

        With the library the server's own port is never listened on: the inlet takes its place. What the relay connects
        to is then its other one, which MariaDB has for administrators (Knowledge Base, "Thread Pool", extra_port).
        """
        folders = instance.folders
        inlet_port = ports.reserve() if instance.library is not None else port
        argv = [
            str(installations.program(instance.installation, installations.SERVER)),
            f"--defaults-file={folders.conf / configuration.SETTINGS_FILE}",
            f"--basedir={instance.installation.folder}",
            f"--datadir={folders.data}",
            f"--port={inlet_port}",
        ]
        env = {
            **commands.ENVIRONMENT,
            **configuration.environment(instance.tls.min_version if instance.tls else None),
        }
        if instance.library is not None:
            argv.append(f"--extra-port={port}")
            env |= handoff.environment(instance.library, folders=folders, listener=str(inlet_port))
        return argv, env

    def ended_cleanly(self, folders: ClusterFolders) -> bool:
        """See Engine.ended_cleanly: it has removed its lock, and closed the last file of its binary log."""
        newest = binlog.last(folders.data)
        return newest is not None and binlog.is_closed(newest) and self.recorded_pid(folders) is None

    def stamp(self, folders: ClusterFolders) -> str:
        """See Engine.stamp."""
        return binlog.stamp(folders.data)

    def recorded_pid(self, folders: ClusterFolders) -> int | None:
        """See Engine.recorded_pid."""
        try:
            return int((folders.data / configuration.PID_FILE).read_text())
        except (OSError, ValueError):
            return None

    def forget_recorded_pid(self, folders: ClusterFolders) -> None:
        """See Engine.forget_recorded_pid."""
        (folders.data / configuration.PID_FILE).unlink(missing_ok=True)

    def readiness(self, folders: ClusterFolders, pid: int) -> Readiness:
        """See Engine.readiness.

        The server writes its process number when all is ready but the init file, whose last statement makes a file
        anew. It must not be told to stop before: a server that gets SIGTERM within its init file, or shortly before,
        may wait for itself for ever. When it stops it removes its socket first.
        """
        if self.recorded_pid(folders) != pid or not _has_read_init_file(folders):
            return Readiness(phase=Phase.STARTING, address=None)
        port = _relay_port(pid)
        if port is None or not (folders.socket / configuration.SOCKET).exists():
            return Readiness(phase=Phase.STOPPING, address=None)
        return Readiness(phase=Phase.READY, address=Address(host="127.0.0.1", port=port))

    def watcher(self, folders: ClusterFolders) -> activity.Watcher:
        """See Engine.watcher."""
        return activity.Watcher(folders)

    async def checkpoint(self, folders: ClusterFolders) -> None:
        """See Engine.checkpoint."""
        await admin.checkpoint(folders)

    async def hold_identities(self, folders: ClusterFolders) -> identities.Held:
        """See Engine.hold_identities."""
        return await identities.hold(folders)

    async def set_password(self, folders: ClusterFolders, role: str, verifier: Secret) -> None:
        """See Engine.set_password."""
        await admin.set_password(folders, role, verifier)

    async def bound_log(self, folders: ClusterFolders, keep_bytes: int) -> None:
        """See Engine.bound_log. MariaDB itself bounds its binary log by age alone."""
        oldest = binlog.oldest_within(folders.data, keep_bytes)
        if oldest is not None:
            await admin.forget_log_before(folders, oldest)

    def failed_logins(self, log: str) -> Sequence[FailedLogin]:
        """See Engine.failed_logins."""
        return server_log.failed_logins(log)

    def explain_exit(self, log: str) -> str:
        """See Engine.explain_exit."""
        return server_log.explain_exit(log)

    def killed_processes(self, log: str, first: int) -> Sequence[str]:  # noqa: ARG002
        """See Engine.killed_processes: there is no other process than the first."""
        return ()


def _write_capacity(instance: Instance) -> bool:
    text = configuration.render_capacity(instance.capacity, instance.bounds, instance.acu)
    path = instance.folders.conf / configuration.CAPACITY_FILE
    # Not durable: it is written anew before each start, and must not wait for a disk that the load keeps busy.
    return files.write_if_different(path, text, mode=0o640, group=instance.account, durable=False)


def _link_plugins(instance: Instance) -> Sequence[str] | None:
    """Make the folder in which the server looks for plugins: links to those that it may load. Raises OSError."""
    source = installations.plugin_folder(instance.installation)
    if source is None:
        return None
    folder = files.ensure_folder(
        instance.folders.conf / configuration.PLUGIN_FOLDER, mode=0o750, group=instance.account
    )
    there = [name for name in configuration.PLUGINS if (source / f"{name}.so").exists()]
    wanted = {f"{name}.so": source / f"{name}.so" for name in there}
    for entry in folder.iterdir():
        if entry.name not in wanted or not entry.is_symlink() or entry.readlink() != wanted[entry.name]:
            entry.unlink()
    for name, target in wanted.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    return there


def _version_id(installation: Installation) -> int:
    """Answer the version as the server writes it into accounts, such as 101106 for 10.11.6."""
    major, minor, patch = installations.version_key(installation.version)
    return major * 10000 + minor * 100 + patch


def _has_read_init_file(folders: ClusterFolders) -> bool:
    """Whether the server whose number is recorded has come to the end of its init file."""
    try:
        made = (folders.data / "mysql" / f"{privileges.READY_TABLE}.frm").stat().st_mtime_ns
        return made >= (folders.data / configuration.PID_FILE).stat().st_mtime_ns
    except OSError:
        return False


def _relay_port(pid: int) -> int | None:
    """Answer the port that a live server was told for the relay; None when it is gone."""
    try:
        argv = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    told = dict(part.split("=", 1) for part in argv if part.startswith(("--port=", "--extra-port=")))
    found = told.get("--extra-port", told.get("--port", ""))
    return int(found) if found.isdecimal() else None
