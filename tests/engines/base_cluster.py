"""What clusters with real engines have in common, whatever their kind: started and stopped as Zorya does it."""

import asyncio
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from waiting import wait_until
from zorya.core import files
from zorya.core.account import Account
from zorya.core.capacity import Acu, Bounds
from zorya.core.home import ClusterFolders, Home
from zorya.core.model import Address, Secret
from zorya.core.volume import Copy, CopyKind
from zorya.engines.base import Engine, Installation, Instance, Phase

PASSWORD = Secret("correct horse")
USER = "zorya"
DATABASE = "shop"
ACU = Acu(memory_bytes=2 * 1024**3, cores=0.25)

EngineT = TypeVar("EngineT", bound=Engine)


@dataclass
class BaseCluster(Generic[EngineT]):
    """A cluster whose engine can be started and stopped."""

    engine: EngineT
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

    @property
    def address(self) -> Address:
        address = self.engine.readiness(self.folders, self.pid).address
        assert address is not None
        return address

    def launch(self, *options: str) -> None:
        """Start the engine with these options besides, its log appended to, and wait until it is ready."""
        asyncio.run(self.engine.write_configuration(self.instance))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv, env = self.engine.command(self.instance, port)
        with self.folders.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, *options],
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
        return self.engine.readiness(self.folders, self.pid).phase is wanted

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


def make_folders(home: Home, account: Account, cluster_id: str) -> ClusterFolders:
    """Make the folders of a cluster in a home, but for its data folder."""
    folders = home.of_copy(cluster_id, Copy(zone="a", kind=CopyKind.FULL, folder=Path("clusters", cluster_id)))
    files.ensure_folder(folders.root, mode=0o710 if account.is_other else 0o700, group=account)
    files.ensure_folder(folders.log.parent, mode=0o700)
    for folder in (folders.socket, folders.given_up):
        files.ensure_folder(folder, mode=0o700, owner=account)
    return folders


def new_instance(
    installation: Installation, folders: ClusterFolders, account: Account, *, bounds: Bounds, capacity: float
) -> Instance:
    """Answer a cluster of one copy without TLS."""
    return Instance(
        cluster="shop",
        installation=installation,
        folders=folders,
        account=account,
        username=USER,
        database=DATABASE,
        bounds=bounds,
        capacity=capacity,
        acu=ACU,
        library=None,
        tls=None,
        following=None,
        requires_tls=False,
    )
