"""Six copies set up by hand: three engines and three receivers of log, as Zorya configures them. A baseline.

Only who starts them, and how clients reach them, is otherwise: their data, settings and certificate are a cluster's.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import LiteralString

import psycopg

from bench.sessions import first_row
from bench.stage import Stage, ZoryaServer, copy_folder, free_port
from bench.ways import Engine
from zorya.core import commands
from zorya.core.volume import ZONES
from zorya.engines.following import Source
from zorya.engines.postgres import configuration, installations
from zorya.engines.postgres.replication import STANDBY_FILE, PostgresReplication

_SETTINGS: LiteralString = """
SELECT name, setting FROM pg_settings WHERE name IN ('synchronous_standby_names', 'synchronous_commit', 'fsync',
    'shared_buffers', 'max_wal_size', 'wal_level', 'wal_buffers', 'full_page_writes') ORDER BY name
"""
"""What commits depend on."""

_FOLLOWERS = len(ZONES) * 2 - 1
_POLL_S = 0.01


class SixByHand:
    """The copies: in each zone an engine, and a receiver of log."""

    def __init__(self, stage: Stage, server: ZoryaServer) -> None:
        """Copy the cluster's primary, which has to be in the first zone, for each zone. Pauses the cluster."""
        server.pause("main")
        primary = server.folders("main")
        self._stage = stage
        self._server_url = server.url("main")
        self._folder = stage.folder / "by-hand"
        self._folder.mkdir(mode=0o711)
        self._folder.chmod(0o711)
        self._conf = self._folder / "conf"
        self._processes: list[subprocess.Popen[bytes]] = []
        copy_folder(primary.conf, self._conf)
        for zone in ZONES:
            copy_folder(primary.data, self._data(zone))
            for folder in (self._sockets(zone), self._tail(zone)):
                folder.mkdir(mode=0o700)
                self._own(folder)
        for zone in ZONES[1:]:
            standby = self._data(zone) / STANDBY_FILE
            standby.touch(mode=0o600)
            self._own(standby)
        self.engine = Engine(sockets=self._sockets(ZONES[0]), port=free_port())

    @property
    def url(self) -> str:
        """Its primary's URL, over TCP; the role has the cluster's password."""
        return re.sub(r"@[^/]+/", f"@127.0.0.1:{self.engine.port}/", self._server_url)

    def start(self) -> None:
        """Start all, the primary first; returns when all follow it."""
        primary, *standbys = ZONES
        self._start_engine(primary, self.engine.port, "")
        first_row(self.url)
        source = Source(socket=self.engine.sockets, port=self.engine.port)
        for zone in standbys:
            conninfo = psycopg.conninfo.make_conninfo(
                host=str(source.socket),
                port=source.port,
                user=configuration.REPLICA,
                application_name=f"{zone}_full",
            )
            self._start_engine(zone, free_port(), conninfo)
        replication, installation = (
            PostgresReplication(self._stage.user, self._stage.folder),
            installations.find(None)[0],
        )
        for zone in ZONES:
            argv, _ = replication.receiver(installation, source, copy=f"{zone}_tail", tail=self._tail(zone))
            self._start(argv, self._tail(zone))
        self._await_followers()

    def check_same(self, engine: Engine) -> None:
        """Raise RuntimeError if the engine, a primary of Zorya's, has other settings."""
        own, others = ask(self.engine, _SETTINGS), ask(engine, _SETTINGS)
        if own != others:
            raise RuntimeError(f"set up by hand, six copies have other settings than Zorya's: {own}, {others}")

    def stop(self) -> None:
        """End all, the primary first, and remove their files."""
        for process in self._processes:
            process.send_signal(signal.SIGINT)
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_engine(self, zone: str, port: int, conninfo: str) -> None:
        settings = {
            "config_file": self._conf / configuration.SETTINGS_FILE,
            "hba_file": self._conf / configuration.ACCESS_FILE,
            "ident_file": self._conf / configuration.IDENTITY_FILE,
            "ssl_cert_file": self._conf / configuration.CERTIFICATE_FILE,
            "ssl_key_file": self._conf / configuration.KEY_FILE,
            "unix_socket_directories": self._sockets(zone),
            "port": port,
            "primary_conninfo": conninfo,
            "primary_slot_name": f"{zone}_full",
        }
        argv = [str(self._stage.program_folder / "postgres"), "-D", str(self._data(zone))]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        self._start(argv, self._data(zone))

    def _start(self, argv: Sequence[str], folder: Path) -> None:
        with (self._folder / "log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    env=dict(commands.ENVIRONMENT),
                    start_new_session=True,
                    **self._stage.user.switch(),
                )
            )

    def _await_followers(self, within_s: float = 30) -> None:
        deadline = time.monotonic() + within_s
        streaming: LiteralString = (
            "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'"
        )
        while len(ask(self.engine, streaming)) < _FOLLOWERS:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not all copies follow: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(_POLL_S)

    def _data(self, zone: str) -> Path:
        return self._folder / zone

    def _sockets(self, zone: str) -> Path:
        return self._folder / f"{zone}-run"

    def _tail(self, zone: str) -> Path:
        return self._folder / f"{zone}-tail"

    def _own(self, path: Path) -> None:
        os.chown(path, self._stage.user.uid, self._stage.user.gid)


def ask(engine: Engine, statement: LiteralString) -> list[tuple[str, ...]]:
    """Answer the rows, asked as the administrator."""
    with psycopg.connect(
        host=str(engine.sockets), port=engine.port, user=configuration.ADMIN, dbname="postgres", autocommit=True
    ) as connection:
        return connection.execute(statement).fetchall()
