"""A PostgreSQL that is made and started without Zorya, as the engines' user."""

import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from certificates import new_tls
from fix_home import make_folder
from waiting import wait_until
from zorya.core import commands
from zorya.core.account import Account, ensure
from zorya.core.home import ClusterFolders
from zorya.engines.base import Installation
from zorya.engines.postgres import lockfile


@dataclass(frozen=True, kw_only=True)
class Bare:
    """A data folder, and the programs and the user that run on it. Its superuser `postgres` is trusted at first."""

    programs: Path
    folders: ClusterFolders
    account: Account

    def give(self, path: Path) -> None:
        """Make the engine's user the owner of a file or a folder."""
        if self.account.is_other:
            shutil.chown(path, self.account.uid, self.account.gid)

    def write_certificate(self, folder: Path) -> None:
        """Write server.crt, which signs itself, and server.key, as PostgreSQL wants them."""
        made = new_tls()
        for name, text in (("server.crt", made.certificate), ("server.key", made.key.value)):
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(text)
            self.give(path)

    @contextmanager
    def running(
        self, port: int, options: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> Iterator[None]:
        """Run it for the block, with its output in the folder's log."""
        argv = [str(self.programs / "postgres"), "-D", str(self.folders.data), "-p", str(port), "-c", "fsync=off"]
        argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with self.folders.log.open("wb") as log:
            process = subprocess.Popen(
                argv,
                env={**commands.ENVIRONMENT, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                **self.account.switch(),
            )
        try:
            wait_until(lambda: process.poll() is not None or self._is_ready(), "PostgreSQL is ready")
            assert process.poll() is None, self.folders.log.read_text()
            yield
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait()

    def _is_ready(self) -> bool:
        try:
            found = lockfile.parse((self.folders.data / lockfile.NAME).read_text())
        except FileNotFoundError:
            return False
        return found is not None and found.status == "ready"


@contextmanager
def initialised(installation: Installation) -> Iterator[Bare]:
    """Have a new data folder of this installation for the block."""
    account = ensure("zorya")
    folder = make_folder()
    try:
        folders = ClusterFolders(
            root=folder,
            data=folder / "own" / "data",
            conf=folder,
            log=folder / "log",
            socket=folder / "own",
            identities=folder / "identities.json",
        )
        made = Bare(programs=_reachable(installation.folder, folder, account) / "bin", folders=folders, account=account)
        for own in (folders.socket, folders.given_up):
            own.mkdir(mode=0o700)
            made.give(own)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        argv: list[str | Path] = [made.programs / "initdb", "-D", folders.data, *options]
        commands.run_blocking(argv, account=account, timeout_s=60)
        yield made
    finally:
        shutil.rmtree(folder)


def _reachable(installation: Path, folder: Path, account: Account) -> Path:
    try:
        commands.run_blocking([installation / "bin" / "postgres", "--version"], account=account, timeout_s=20)
    except commands.CommandFailed:
        shutil.copytree(installation, folder / "postgres", symlinks=True)
        return folder / "postgres"
    return installation
