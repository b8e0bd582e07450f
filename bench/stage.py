"""What every benchmark needs: a server on a home of its own, the same engine bare, PgBouncer before it, and clients."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from zorya.core import account
from zorya.core.account import Account
from zorya.core.home import Home
from zorya.engines.postgres import installations


class ZoryaServer:
    """A real server; its command line is used as a user would."""

    def __init__(self, home: Path) -> None:
        self.home = home
        first = random.randrange(30000, 31000)
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ZORYA_", "PG"))},
            "ZORYA_HOME": str(home),
            "ZORYA_PORT_RANGE": f"{first}-{first + 100}",
            "ZORYA_API_PORT": "0",
        }
        self.cli("up", "--detach")

    def cli(self, *args: str) -> str:
        """Run a command and answer its output."""
        done = subprocess.run(
            [sys.executable, "-m", "zorya", *args], env=self._env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"zorya {' '.join(args)}: {done.stderr}")
        return done.stdout

    def url(self, name: str) -> str:
        """Answer a cluster's URL."""
        return self.cli("url", name).strip()

    def stop(self) -> None:
        """Put everything to sleep."""
        self.cli("down")


class BareEngine:
    """PostgreSQL as Zorya configures it, started by hand: the baseline. Its data is a copy of a cluster's."""

    def __init__(self, *, program: Path, folder: Path, user: Account) -> None:
        self.port = free_port()
        self._user = user
        self._log = folder / "bare.log"
        socket_folder = folder / "bare-run"
        socket_folder.mkdir(mode=0o700)
        os.chown(socket_folder, user.uid, user.gid)
        self.data = folder / "bare-data"
        self._argv = [
            str(program),
            "-D",
            str(self.data),
            "-c",
            f"config_file={folder / 'bare-conf' / 'postgresql.conf'}",
            "-c",
            f"hba_file={folder / 'bare-conf' / 'pg_hba.conf'}",
            "-c",
            f"unix_socket_directories={socket_folder}",
            "-p",
            str(self.port),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the engine; returns before it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdout=log, stderr=log, cwd=self.data, start_new_session=True, **self._user.switch()
            )

    def stop(self) -> None:
        """Stop it cleanly."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything set up, with the cluster "main" and its bare twin holding the same data."""

    server: ZoryaServer
    bare: BareEngine
    folder: Path
    user: Account
    program_folder: Path

    def bare_url(self) -> str:
        """Answer the bare twin's URL; its role has the cluster's own password."""
        return re.sub(r"@[^/]+/", f"@127.0.0.1:{self.bare.port}/", self.server.url("main"))

    def pgbench(self, *args: str, url: str) -> str:
        """Run pgbench and answer its report."""
        done = subprocess.run(
            [str(self.program_folder / "pgbench"), *args, url], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"pgbench {' '.join(args)}: {done.stderr}")
        return done.stdout


@contextmanager
def stage(*, scale: int = 0) -> Iterator[Stage]:
    """Set everything up, with pgbench's tables of this scale where it is above 0; take it down afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="zb-", dir="/tmp"))
    folder.chmod(0o711)
    server: ZoryaServer | None = None
    bare: BareEngine | None = None
    try:
        server = ZoryaServer(folder / "home")
        installation = installations.find(None)[0]
        program_folder = installation.folder / "bin"
        url = server.url("main")
        first_row(url)
        if scale:
            command = [str(program_folder / "pgbench"), "--initialize", "--quiet", f"--scale={scale}", url]
            subprocess.run(command, check=True, capture_output=True)
        server.cli("pause", "main")
        user = account.ensure("zorya")
        (cluster,) = Home(server.home).clusters.iterdir()
        for part in ("data", "conf"):
            subprocess.run(["cp", "--archive", str(cluster / part), str(folder / f"bare-{part}")], check=True)
        bare = BareEngine(program=program_folder / "postgres", folder=folder, user=user)
        yield Stage(server=server, bare=bare, folder=folder, user=user, program_folder=program_folder)
    finally:
        if bare is not None:
            bare.stop()
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def pgbouncer(stage: Stage) -> Iterator[str | None]:
    """Run PgBouncer in session mode before the bare engine and answer the URL through it; None where it is missing."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    parts = psycopg.conninfo.conninfo_to_dict(stage.bare_url())
    users = stage.folder / "userlist.txt"
    users.write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    config = stage.folder / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"* = host=127.0.0.1 port={stage.bare.port}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\n"
        "pool_mode = session\nmax_client_conn = 1000\ndefault_pool_size = 100\nlogfile =\n"
    )
    for path in (users, config):
        os.chown(path, stage.user.uid, stage.user.gid)
    process = subprocess.Popen(
        [program, "--quiet", str(config)], cwd="/", stderr=subprocess.DEVNULL, **stage.user.switch()
    )
    url = re.sub(r"@[^/]+/", f"@127.0.0.1:{port}/", stage.bare_url())
    try:
        first_row(url)
        yield url
    finally:
        process.terminate()
        process.wait()


def first_row(url: str, *, within_s: float = 30) -> None:
    """Connect until a row comes back, as a client does that is in a hurry."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SELECT 1").fetchone()
                return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def free_port() -> int:
    """Answer a free TCP port of 127.0.0.1."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
