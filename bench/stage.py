"""What every benchmark needs: servers on homes of their own, the same engine bare, PgBouncer before it, and clients.

Engines differ in nothing but how clients reach them: the bare one and the one behind the relay work on copies of the
data of the first server's cluster "main", with its configuration and environment.
"""

import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg

from bench import mariadb
from bench.sessions import first_row
from zorya.cli.client import Api, Refused
from zorya.core import account, commands
from zorya.core.account import Account
from zorya.core.home import ClusterFolders, Home
from zorya.core.model import EngineKind
from zorya.core.volume import Copy, CopyKind
from zorya.engines.base import Installation
from zorya.engines.mariadb import installations as mariadb_installations
from zorya.engines.postgres import configuration, installations, lockfile

RECLAIM_AFTER_S = 2
"""How long a cluster is frozen until its memory is given back; the default is too long to wait for."""

PGBENCH_TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")

MOST_ACU = 4.0
"""The highest capacity of clusters that are made here: the server's default."""

ACU_CORES = len(os.sched_getaffinity(0)) / MOST_ACU
"""Of an ACU. A cluster is kept to the cores of its highest capacity: here to all that there are, as the engines beside
it. With the default, a quarter, that would be a single one, and the cap would be what is measured."""


class ZoryaServer:
    """A real server; its command line is used as a user would. Its clusters stay awake unless a benchmark asks."""

    def __init__(self, home: Path, engine: EngineKind = EngineKind.POSTGRES, **settings: str) -> None:
        """Start it with these settings; its clusters are of this kind, "main" as well."""
        self.home = home
        self.engine = engine
        self.api = Api(home)
        first = random.randrange(20000, 32000, 100)
        self.shared_port = free_port()
        given = {
            "port_range": f"{first}-{first + 99}",
            "shared_port": str(self.shared_port),
            "api_port": "0",
            "pause_after": "never",
            "freeze_after": "never",
            "reclaim_after_s": str(RECLAIM_AFTER_S),
            "acu_cores": str(ACU_CORES),
            "copies": "1",
            **settings,
        }
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ZORYA_", "PG"))},
            "ZORYA_HOME": str(home),
            **{f"ZORYA_{name.upper()}": value for name, value in given.items()},
        }
        self.up()
        if engine is not EngineKind.POSTGRES:
            # The first cluster of a home is always PostgreSQL.
            self.cli("delete", "main", "--yes")
            self.create("main")

    def up(self) -> None:
        """Start the server's process; returns when it is up."""
        self.cli("up", "--detach")

    def cli(self, *args: str) -> str:
        """Run a command and answer its output."""
        done = subprocess.run(
            [sys.executable, "-m", "zorya", *args], env=self._env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"zorya {' '.join(args)}: {done.stderr}")
        return done.stdout

    def create(self, name: str, *options: str) -> str:
        """Make a cluster and answer what the command says."""
        return self.cli("create", name, "--engine", self.engine, *options)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.api.status()["pid"]

    def url(self, name: str, **parameters: str) -> str:
        """Answer a cluster's URL with these parameters; see `with_parameters`."""
        return with_parameters(self.api.credentials(name)["url"], **parameters)

    def engine_pid(self, name: str) -> int:
        """Answer the first process of a cluster's engine, which has to be up."""
        pid = self.api.cluster(name)["engine_pid"]
        if pid is None:
            raise RuntimeError(f"the engine of {name} is not up")
        return pid

    def folders(self, name: str) -> ClusterFolders:
        """Answer where a cluster's files are."""
        cluster = self.api.cluster(name)
        zone, _, _ = cluster["volume"]["primary"].partition("_")
        home = Home(self.home)
        folder = home.zone_folder(cluster["id"], zone, None)
        return home.of_copy(cluster["id"], Copy(zone=zone, kind=CopyKind.FULL, folder=folder))

    def engine_port(self, name: str) -> int:
        """Answer the port at which a cluster's engine itself listens."""
        if self.engine is EngineKind.MARIADB:
            return mariadb.engine_port(self.engine_pid(name))
        found = lockfile.parse((self.folders(name).data / lockfile.NAME).read_text())
        if found is None or found.port is None:
            raise RuntimeError(f"the engine of {name} is not up")
        return found.port

    def await_frozen(self, name: str, *, within_s: float = 30) -> None:
        """Wait until a cluster is frozen, and a little longer: what was asked last no longer warms the server."""
        deadline = time.monotonic() + within_s
        while self.api.cluster(name)["compute"] != "frozen":
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not freeze: {json.dumps(self.api.cluster(name))}")
            time.sleep(0.01)
        time.sleep(0.02)

    def kill(self) -> Callable[[], None]:
        """End the server as a crash would, without waiting for it; answer what waits until its process is gone."""
        pidfd = os.pidfd_open(self.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)

        def wait() -> None:
            select.select([pidfd], [], [])
            os.close(pidfd)

        return wait

    def pause(self, name: str, *, within_s: float = 10) -> None:
        """Stop a cluster's engine. A session that has just been closed may still be counted for a moment."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                self.api.pause(name, force=False)
            except Refused:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def complaints(self) -> list[str]:
        """Answer what it has warned of so far: the lines of its log."""
        lines = Home(self.home).server_log.read_text().splitlines()
        return [line for line in lines if "level=warning" in line or "level=error" in line]

    def stop(self) -> None:
        """Put everything to sleep."""
        self.cli("down")


class BareEngine:
    """The engine as Zorya configures it, started by hand: the baseline. Its data and certificate are a cluster's."""

    def __init__(self, *, installation: Installation, folder: Path, user: Account) -> None:
        self.port = free_port()
        self._user = user
        self._log = folder / "bare.log"
        self.sockets = folder / "bare-run"
        self.sockets.mkdir(mode=0o700)
        os.chown(self.sockets, user.uid, user.gid)
        self._root = folder / "bare"
        self._root.mkdir(mode=0o711)
        self.data = self._root / "data"
        # Both kinds' files have these names.
        self.certificate = self._root / "conf" / configuration.CERTIFICATE_FILE
        self.key = self._root / "conf" / configuration.KEY_FILE
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_signal, self._argv = signal.SIGINT, self._postgres(installation)
        if installation.kind is EngineKind.MARIADB:
            self._stop_signal = signal.SIGTERM
            self._argv = mariadb.bare_command(installation, self._root, self.port)

    def _postgres(self, installation: Installation) -> Sequence[str]:
        conf = self._root / "conf"
        settings = {
            "config_file": conf / configuration.SETTINGS_FILE,
            "hba_file": conf / configuration.ACCESS_FILE,
            "unix_socket_directories": self.sockets,
            "ssl_cert_file": self.certificate,
            "ssl_key_file": self.key,
        }
        argv = [str(installation.program("postgres")), "-D", str(self.data), "-p", str(self.port)]
        return [*argv, *(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))]

    def take(self, original: ClusterFolders, kind: EngineKind) -> None:
        """Take a copy of a cluster, whose engine does not run."""
        copy_folder(original.data, self.data)
        copy_folder(original.conf, self._root / "conf")
        if kind is EngineKind.MARIADB:
            places = {original.root: self._root, original.socket: self.sockets}
            mariadb.adopt(self._root, places, self._user)

    def start(self) -> None:
        """Start the engine; returns before it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data,
                env=dict(commands.ENVIRONMENT),
                start_new_session=True,
                **self._user.switch(),
            )

    @property
    def pid(self) -> int:
        """The engine's first process, which has to be up."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stop it cleanly."""
        if self._process is not None:
            self._process.send_signal(self._stop_signal)
            self._process.wait()
            self._process = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything set up, with the cluster "main" and its bare twin holding the same data."""

    server: ZoryaServer
    bare: BareEngine
    folder: Path
    user: Account
    installation: Installation

    @property
    def engine(self) -> EngineKind:
        """The kind of all engines here."""
        return self.installation.kind

    @property
    def program_folder(self) -> Path:
        """Where PostgreSQL's programs are."""
        return self.installation.folder / "bin"

    def bare_url(self, **parameters: str) -> str:
        """Answer the bare twin's URL; its role has the cluster's own password."""
        return self.main_url(self.bare.port, **parameters)

    def main_url(self, port: int, *, host: str = "127.0.0.1", **parameters: str) -> str:
        """Answer the URL of cluster "main", or of a copy of it, at this port; see `with_parameters`."""
        return re.sub(r"@[^/]+/", f"@{host}:{port}/", self.server.url("main", **parameters))

    def pgbench(self, *args: str, url: str) -> str:
        """Run pgbench and answer its report."""
        done = subprocess.run(
            [str(self.program_folder / "pgbench"), *args, url], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"pgbench {' '.join(args)}: {done.stderr}")
        return done.stdout

    def make_tables(self, scale: int, url: str) -> None:
        """Make pgbench's tables, or sysbench's. No autovacuum disturbs them: whoever changes them vacuums."""
        if self.engine is EngineKind.MARIADB:
            mariadb.make_tables(scale, url)
            return
        self.pgbench("--initialize", "--quiet", f"--scale={scale}", url=url)
        with psycopg.connect(url, autocommit=True) as connection:
            for table in PGBENCH_TABLES:
                connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")


@contextmanager
def stage(*, engine: EngineKind = EngineKind.POSTGRES, scale: int = 0) -> Iterator[Stage]:
    """Set everything up for this kind of engine; take it down afterwards.

    Where the scale is above 0 there are tables of it: pgbench's, or sysbench's for MariaDB.
    """
    folder = Path(tempfile.mkdtemp(prefix="zb-", dir="/tmp"))
    folder.chmod(0o711)
    server: ZoryaServer | None = None
    bare: BareEngine | None = None
    try:
        server = ZoryaServer(folder / "home", engine)
        find = mariadb_installations.find if engine is EngineKind.MARIADB else installations.find
        installation = find(None)[0]
        user = account.ensure("zorya")
        first_row(server.url("main"))
        bare = BareEngine(installation=installation, folder=folder, user=user)
        made = Stage(server=server, bare=bare, folder=folder, user=user, installation=installation)
        if scale:
            made.make_tables(scale, server.url("main"))
        server.pause("main")
        bare.take(server.folders("main"), engine)
        yield made
    finally:
        if bare is not None:
            bare.stop()
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def relay_server(stage: Stage) -> Iterator[ZoryaServer]:
    """Run a second server that relays, its cluster "main" with a copy of the first one's, password and all.

    The first one's cluster is paused for the copy. The second one's is left running: until it has run once, its server
    would ask clients for the password that it had before.
    """
    home = stage.folder / "relay"
    server = ZoryaServer(home, stage.engine, attach="relay")
    try:
        for one in (stage.server, server):
            one.pause("main")
        original, own = stage.server.folders("main"), server.folders("main")
        shutil.rmtree(own.data)
        copy_folder(original.data, own.data)
        if stage.engine is EngineKind.MARIADB:
            mariadb.adopt(own.root, {original.root: own.root}, stage.user)
        server.api.resume("main")
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def copy_folder(original: Path, copy: Path) -> None:
    """Copy with owners, modes and times."""
    subprocess.run(["cp", "--archive", str(original), str(copy)], check=True)


@contextmanager
def pgbouncer(stage: Stage, *, sslmode: str = "disable") -> Iterator[str | None]:
    """Run PgBouncer in session mode before the bare engine and answer the URL through it; None where it is missing.

    With the `sslmode` "require" clients have to come with TLS. It never uses TLS towards the engine.
    """
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
        f"server_tls_sslmode = disable\nclient_tls_sslmode = {sslmode}\n"
        f"client_tls_cert_file = {stage.bare.certificate}\nclient_tls_key_file = {stage.bare.key}\n"
    )
    for path in (users, config):
        os.chown(path, stage.user.uid, stage.user.gid)
    process = subprocess.Popen(
        [program, "--quiet", str(config)],
        cwd="/",
        stderr=subprocess.DEVNULL,
        # As a daemon has: the kernel's scheduler shares processors out between sessions (sched(7), autogroups).
        start_new_session=True,
        **stage.user.switch(),
    )
    url = stage.main_url(port, sslmode=sslmode)
    try:
        first_row(url)
        yield url
    finally:
        process.terminate()
        process.wait()


def with_parameters(url: str, **parameters: str) -> str:
    """Answer the URL with these parameters of libpq, and `sslmode=disable` where they do not say otherwise.

    libpq's own default would use TLS wherever the server has it.
    """
    return f"{url}{'&' if '?' in url else '?'}{urlencode({'sslmode': 'disable', **parameters}, quote_via=quote)}"


def administer(sockets: Path, port: int, *statements: str) -> None:
    """Run statements as the administrator in the database "main" of the engine whose Unix socket is in `sockets`."""
    with psycopg.connect(
        host=str(sockets), port=port, user=configuration.ADMIN, dbname="main", autocommit=True
    ) as connection:
        for statement in statements:
            connection.execute(statement)


def free_port() -> int:
    """Answer a free TCP port of 127.0.0.1."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
