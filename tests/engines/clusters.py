"""Clusters with real engines, made and started as Zorya does it, without a server around them."""

import asyncio
import os
import pwd
import threading
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from engines.base_cluster import DATABASE, PASSWORD, USER, BaseCluster, make_folders, new_instance
from zorya.core import account
from zorya.core.capacity import Bounds
from zorya.core.home import Home
from zorya.engines.base import TlsFiles
from zorya.engines.postgres import installations
from zorya.engines.postgres.engine import Postgres

MAJORS = sorted({one.major for one in installations.find(None)})


@dataclass
class Cluster(BaseCluster[Postgres]):
    """A cluster whose engine can be started and stopped."""

    options: tuple[str, ...] = ()
    """What the engine is started with besides."""

    @property
    def major(self) -> int:
        return int(self.instance.installation.major)

    def start(self, tls: TlsFiles | None = None, *, listen: str = "127.0.0.1") -> None:
        """Start the engine and wait until it is ready."""
        self.instance = replace(self.instance, tls=tls)
        self.launch("-c", f"listen_addresses={listen}", *self.options)

    def reload(self) -> None:
        """Have the engine read its files again. It does so some time later."""
        process = self.process
        assert process is not None
        # A test may have an event loop of its own.
        thread = threading.Thread(target=lambda: asyncio.run(self.engine.reload(self.instance, process.send_signal)))
        thread.start()
        thread.join()

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
        instance = new_instance(
            next(one for one in self.engine.find() if one.major == major),
            make_folders(self.home, self.account, cluster_id),
            self.account,
            bounds=Bounds(least=0.5, most=8),
            capacity=1.0,
        )
        made = Cluster(engine=self.engine, instance=instance, verifier=self.engine.new_verifier(PASSWORD))
        asyncio.run(self.engine.build(instance, made.verifier))
        return made
