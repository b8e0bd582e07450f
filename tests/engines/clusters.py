"""Clusters with real engines, made and started as Zorya does it, without a server around them."""

import asyncio
import os
import pwd
import socket
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from waiting import wait_until
from zorya.core import account, files
from zorya.core.capacity import Acu, Bounds
from zorya.core.home import ClusterFolders, Home
from zorya.core.model import Address, Secret
from zorya.core.volume import Copy, CopyKind
from zorya.engines.base import Instance, Phase, TlsFiles
from zorya.engines.postgres import installations
from zorya.engines.postgres.engine import Postgres

PASSWORD = Secret("correct horse")
USER = "zorya"
DATABASE = "shop"
ACU = Acu(memory_bytes=2 * 1024**3, cores=0.25)

MAJORS = sorted({one.major for one in installations.find(None)})


@dataclass
class Cluster:
    """A cluster whose engine can be started and stopped."""

    engine: Postgres
    instance: Instance
    verifier: Secret
    process: subprocess.Popen[bytes] | None = None
    options: tuple[str, ...] = ()
    """What the engine is started with besides."""

    @property
    def major(self) -> int:
        return int(self.instance.installation.major)

    @property
    def folders(self) -> ClusterFolders:
        return self.instance.folders

    def start(self, tls: TlsFiles | None = None, *, listen: str = "127.0.0.1") -> None:
        """Start the engine, with its log appended to, and wait until it is ready."""
        self.instance = replace(self.instance, tls=tls)
        asyncio.run(self.engine.write_configuration(self.instance))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv, env = self.engine.command(self.instance, port)
        with self.folders.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, "-c", f"listen_addresses={listen}", *self.options],
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
        following = self.instance.following
        wanted = Phase.READY if following is None or following.leads else Phase.FOLLOWING
        return self.engine.readiness(self.folders, self.process.pid).phase is wanted

    @property
    def address(self) -> Address:
        assert self.process is not None
        address = self.engine.readiness(self.folders, self.process.pid).address
        assert address is not None
        return address

    def reload(self) -> None:
        """Have the engine read its files again. It does so some time later."""
        process = self.process
        assert process is not None
        # A test may have an event loop of its own.
        thread = threading.Thread(target=lambda: asyncio.run(self.engine.reload(self.instance, process.send_signal)))
        thread.start()
        thread.join()

    def stop(self) -> None:
        """Stop the engine cleanly, if it runs."""
        if self.process is not None:
            self.process.send_signal(self.engine.stop_signal)
            assert self.process.wait(30) == 0
            self.process = None

    def kill(self) -> None:
        """End the engine whatever it does, if it runs."""
        if self.process is not None:
            self.process.send_signal(self.engine.abort_signal)
            self.process.wait(30)
            self.process = None

    def log(self, mark: int = 0) -> str:
        """Answer what the engine has logged after `mark`, a length that the log has had."""
        return self.folders.log.read_bytes()[mark:].decode(errors="replace")

    def log_mark(self) -> int:
        return self.folders.log.stat().st_size

    def connect(self, **options: Any) -> psycopg.Connection:
        """Connect over TCP, as the cluster's user unless something else is asked for."""
        return psycopg.connect(
            **{
                "host": self.address.host,
                "port": self.address.port,
                "user": USER,
                "password": PASSWORD.value,
                "dbname": DATABASE,
                "autocommit": True,
                "connect_timeout": 30,
                "sslmode": "disable",
                **options,
            }
        )

    def connect_as_admin(self, **options: Any) -> psycopg.Connection:
        """Connect over the Unix socket, as a person at the host would."""
        return self.connect(host=str(self.folders.socket), user="zorya_admin", dbname="postgres", **options)


class Workshop:
    """A home, and the clusters that have been made in it, one for each major version that was asked for."""

    def __init__(self, home: Home, engine_account: account.Account) -> None:
        home.ensure(engine_account)
        self.home = home
        self.account = engine_account
        self._made: dict[str, Cluster] = {}
        self.engine = Postgres(
            home=home,
            account=engine_account,
            zorya_user=pwd.getpwuid(os.geteuid()).pw_name,
            username=USER,
            setting=None,
            login_timeout_s=10,
        )

    def cluster(self, major: str) -> Cluster:
        if major not in self._made:
            self._made[major] = self.make(f"v{major}", major)
        return self._made[major]

    def make(self, cluster_id: str, major: str) -> Cluster:
        folders = self.home.of_copy(cluster_id, Copy(zone="a", kind=CopyKind.FULL, folder=Path("clusters", cluster_id)))
        files.ensure_folder(folders.root, mode=0o710 if self.account.is_other else 0o700, group=self.account)
        files.ensure_folder(folders.log.parent, mode=0o700)
        for folder in (folders.socket, folders.given_up):
            files.ensure_folder(folder, mode=0o700, owner=self.account)
        instance = Instance(
            cluster="shop",
            installation=next(one for one in self.engine.find() if one.major == major),
            folders=folders,
            account=self.account,
            username=USER,
            database=DATABASE,
            bounds=Bounds(least=0.5, most=8),
            capacity=1.0,
            acu=ACU,
            library=None,
            tls=None,
            following=None,
            requires_tls=False,
        )
        made = Cluster(engine=self.engine, instance=instance, verifier=self.engine.new_verifier(PASSWORD))
        asyncio.run(self.engine.build(instance, made.verifier))
        return made
