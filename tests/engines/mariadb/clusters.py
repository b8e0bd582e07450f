"""Clusters with real MariaDB servers, made and started as Zorya does it, without a server around them."""

import asyncio
import os
import pwd
import signal
import socket
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymysql

from waiting import wait_until
from zorya.core import account, files
from zorya.core.capacity import Acu, Bounds
from zorya.core.home import ClusterFolders, Home
from zorya.core.model import Address, Secret
from zorya.core.volume import Copy, CopyKind
from zorya.engines.base import Activity, Instance, Phase, TlsFiles, Watcher
from zorya.engines.mariadb import administrator, configuration, installations
from zorya.engines.mariadb.engine import MariaDb

PASSWORD = Secret("correct horse")
USER = "zorya"
DATABASE = "shop"
ACU = Acu(memory_bytes=2 * 1024**3, cores=0.25)

INSTALLED = installations.find(None)


@dataclass
class Cluster:
    """A cluster whose engine can be started and stopped."""

    engine: MariaDb
    instance: Instance
    verifier: Secret
    process: subprocess.Popen[bytes] | None = None

    @property
    def folders(self) -> ClusterFolders:
        return self.instance.folders

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, tls: TlsFiles | None = None, *, library: Path | None = None, requires_tls: bool = False) -> None:
        """Start the engine, with its log appended to, and wait until it is ready."""
        self.instance = replace(self.instance, tls=tls, library=library, requires_tls=requires_tls)
        self.folders.inlet.unlink(missing_ok=True)
        self.engine.forget_recorded_pid(self.folders)
        asyncio.run(self.engine.write_configuration(self.instance))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv, env = self.engine.command(self.instance, port)
        with self.folders.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folders.data,
                **self.instance.account.switch(),
            )
        wait_until(self._is_ready, "the engine is ready")

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        return self.engine.readiness(self.folders, self.pid).phase is Phase.READY

    @property
    def address(self) -> Address:
        address = self.engine.readiness(self.folders, self.pid).address
        assert address is not None
        return address

    def stop(self) -> None:
        """Stop the engine cleanly, if it runs."""
        if self.process is not None:
            self.process.send_signal(self.engine.stop_signal)
            assert self.process.wait(60) == 0
            self.process = None

    def kill(self) -> None:
        """End the engine whatever it does, if it runs."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(self.engine.abort_signal)
            self.process.wait(30)
            self.process = None

    def log(self, mark: int = 0) -> str:
        """Answer what the engine has logged after `mark`, a length that the log has had."""
        return self.folders.log.read_bytes()[mark:].decode(errors="replace")

    def log_mark(self) -> int:
        return self.folders.log.stat().st_size

    def connect(self, **options: Any) -> "pymysql.connections.Connection[Any]":
        """Connect over TCP, as the cluster's user unless something else is asked for."""
        return pymysql.connect(
            **{
                "host": self.address.host,
                "port": self.address.port,
                "user": USER,
                "password": PASSWORD.value,
                "database": DATABASE,
                "autocommit": True,
                "ssl_disabled": True,
                **options,
            }
        )

    def connect_as_admin(self) -> "pymysql.connections.Connection[Any]":
        """Connect over the Unix socket, as Zorya does."""
        own = administrator.read(self.folders.conf)
        return pymysql.connect(
            unix_socket=str(self.folders.socket / configuration.SOCKET),
            user=own.name.value,
            password=own.password.value,
            autocommit=True,
        )

    async def observe(self, watcher: Watcher) -> Activity:
        return await watcher.observe(self.engine.workers({self.pid}, self.pid), self.pid)


def rows(connection: Any, statement: str) -> list[tuple[Any, ...]]:
    """Answer what a statement answers."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


class Workshop:
    """A home, and the clusters that are made in it."""

    def __init__(self, home: Home, engine_account: account.Account) -> None:
        home.ensure(engine_account)
        self.home = home
        self.account = engine_account
        self.engine = MariaDb(
            home=home,
            account=engine_account,
            zorya_user=pwd.getpwuid(os.geteuid()).pw_name,
            username=USER,
            setting=None,
            login_timeout_s=10,
        )

    def make(self, cluster_id: str, **changes: Any) -> Cluster:
        folders = self.home.of_copy(cluster_id, Copy(zone="a", kind=CopyKind.FULL, folder=Path("clusters", cluster_id)))
        files.ensure_folder(folders.root, mode=0o710 if self.account.is_other else 0o700, group=self.account)
        files.ensure_folder(folders.log.parent, mode=0o700)
        for folder in (folders.socket, folders.given_up):
            files.ensure_folder(folder, mode=0o700, owner=self.account)
        instance = Instance(
            cluster="shop",
            installation=self.engine.find()[0],
            folders=folders,
            account=self.account,
            username=USER,
            database=DATABASE,
            bounds=Bounds(least=0.25, most=2),
            capacity=0.5,
            acu=ACU,
            library=None,
            tls=None,
            following=None,
            requires_tls=False,
        )
        instance = replace(instance, **changes)
        made = Cluster(engine=self.engine, instance=instance, verifier=self.engine.new_verifier(PASSWORD))
        asyncio.run(self.engine.build(instance, made.verifier))
        return made
