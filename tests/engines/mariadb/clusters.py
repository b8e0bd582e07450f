"""Clusters with real MariaDB servers, made and started as Zorya does it, without a server around them."""

import asyncio
import os
import pwd
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymysql

from engines.base_cluster import DATABASE, PASSWORD, USER, BaseCluster, make_folders, new_instance
from zorya.core import account
from zorya.core.capacity import Bounds
from zorya.core.home import Home
from zorya.engines.base import Activity, TlsFiles, Watcher
from zorya.engines.mariadb import administrator, configuration, installations
from zorya.engines.mariadb.engine import MariaDb

INSTALLED = installations.find(None)


@dataclass
class Cluster(BaseCluster[MariaDb]):
    """A cluster whose engine can be started and stopped."""

    def start(self, tls: TlsFiles | None = None, *, library: Path | None = None, requires_tls: bool = False) -> None:
        """Start the engine and wait until it is ready."""
        self.instance = replace(self.instance, tls=tls, library=library, requires_tls=requires_tls)
        self.folders.inlet.unlink(missing_ok=True)
        self.engine.forget_recorded_pid(self.folders)
        self.launch()

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
        instance = new_instance(
            self.engine.find()[0],
            make_folders(self.home, self.account, cluster_id),
            self.account,
            bounds=Bounds(least=0.25, most=2),
            capacity=0.5,
        )
        instance = replace(instance, **changes)
        made = Cluster(engine=self.engine, instance=instance, verifier=self.engine.new_verifier(PASSWORD))
        asyncio.run(self.engine.build(instance, made.verifier))
        return made
