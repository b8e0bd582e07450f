"""A volume's copies with real engines and receivers, without a server around them: a primary, a standby, a tail."""

import asyncio
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from engines.base_cluster import ACU, DATABASE, PASSWORD, USER
from engines.clusters import Cluster
from zorya.core import account, files
from zorya.core.capacity import Bounds
from zorya.core.home import Home
from zorya.core.volume import Copy, CopyKind
from zorya.engines.base import Installation, Instance, PrimarySeen
from zorya.engines.following import Following, Source
from zorya.engines.postgres import log_files
from zorya.engines.postgres.engine import Postgres
from zorya.engines.postgres.replication import PostgresReplication

T = TypeVar("T")

WITHIN_S = 30.0
KEEP_BYTES = 1024**3
ALL = ("a_full", "b_full", "b_tail")

_numbers = itertools.count()


async def come(condition: Callable[[], T], what: str) -> T:
    """Answer the first true value of `condition`, without keeping the loop; fail when there is none in time."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        value = condition()
        if value:
            return value
        assert asyncio.get_running_loop().time() < deadline, f"not within {WITHIN_S:g} s: {what}"
        await asyncio.sleep(0.01)


async def come_to(condition: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Do as `come`, with a condition that has to be waited for itself."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        value = await condition()
        if value:
            return value
        assert asyncio.get_running_loop().time() < deadline, f"not within {WITHIN_S:g} s: {what}"
        await asyncio.sleep(0.01)


def newest(folder: Path) -> Path:
    """Answer the segment in which a folder's log ends."""
    return log_files.segments(folder)[-1].path


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@dataclass
class Copies:
    """The copies of one volume."""

    home: Home
    account: account.Account
    installation: Installation
    needed: int = 1
    keep_bytes: int = KEEP_BYTES
    id: str = field(default_factory=lambda: f"copies{next(_numbers)}")

    def __post_init__(self) -> None:
        self.home.ensure(self.account)
        # One for each volume: its connections belong to the loop of the test.
        self.engine = Postgres(
            home=self.home,
            account=self.account,
            zorya_user=pwd.getpwuid(os.geteuid()).pw_name,
            username=USER,
            setting=None,
            login_timeout_s=10,
        )
        self.primary = self._cluster("a_full", leads=True)
        self.standby = self._cluster("b_full", leads=False)
        self.receiver: subprocess.Popen[bytes] | None = None
        self.tail = files.ensure_folder(self.standby.folders.root / "tail", mode=0o700, owner=self.account)

    @property
    def replication(self) -> PostgresReplication:
        return self.engine.replication

    @property
    def collected(self) -> Path:
        return self.standby.folders.root / "collected"

    def _cluster(self, name: str, *, leads: bool) -> Cluster:
        zone = name[0]
        copy = Copy(zone=zone, kind=CopyKind.FULL, folder=self.home.zone_folder(self.id, zone, None))
        folders = self.home.of_copy(self.id, copy)
        passage = 0o710 if self.account.is_other else 0o700
        for folder in (self.home.of_cluster(self.id), folders.root.parent, folders.root):
            files.ensure_folder(folder, mode=passage, group=self.account)
        files.ensure_folder(folders.log.parent, mode=0o700)
        for folder in (folders.socket, folders.given_up):
            files.ensure_folder(folder, mode=0o700, owner=self.account)
        others = tuple(other for other in ALL if other != name)
        following = Following(
            copy=name,
            others=others,
            counted=others,
            needed=self.needed,
            leads=leads,
            source=None,
            collected=None,
            keep_bytes=self.keep_bytes,
        )
        instance = Instance(
            cluster="shop",
            installation=self.installation,
            folders=folders,
            account=self.account,
            username=USER,
            database=DATABASE,
            bounds=Bounds(least=0.5, most=8),
            capacity=1.0,
            acu=ACU,
            library=None,
            tls=None,
            following=following,
            requires_tls=False,
        )
        return Cluster(engine=self.engine, instance=instance, verifier=self.engine.new_verifier(PASSWORD))

    async def build(self) -> None:
        """Make all copies, none of which runs."""
        await self.engine.build(self.primary.instance, self.primary.verifier)
        await self.replication.seed(self.standby.instance, self.primary.folders.data)
        await self.replication.begin_tail(self.primary.instance, self.tail)

    # What runs.

    async def start_all(self) -> None:
        """Start all copies, the primary keeping log for the others, and wait until these follow it."""
        await self.start(self.primary)
        await self.replication.ensure_kept(self.primary.folders, {"b_full", "b_tail"})
        await self.start(self.standby, source=self.source)
        self.receive()
        await self.come_to_follow("b_full", "b_tail")

    async def start(self, cluster: Cluster, *, source: Source | None = None, collected: Path | None = None) -> None:
        """Start a full copy, and wait until it serves."""
        self.place(cluster, source=source, collected=collected)
        await asyncio.to_thread(cluster.start)

    def place(
        self,
        cluster: Cluster,
        *,
        source: Source | None = None,
        collected: Path | None = None,
        leads: bool | None = None,
    ) -> None:
        """Say where a full copy is to get its log, from its next configuration on."""
        following = cluster.instance.following
        assert following is not None
        leads = following.leads if leads is None else leads
        cluster.instance = replace(
            cluster.instance, following=replace(following, source=source, collected=collected, leads=leads)
        )

    async def turn(self, cluster: Cluster, *, source: Source | None = None, collected: Path | None = None) -> None:
        """Have a full copy that runs get its log from elsewhere."""
        self.place(cluster, source=source, collected=collected)
        await self.engine.write_configuration(cluster.instance)
        cluster.reload()

    @property
    def source(self) -> Source:
        return self.source_of(self.primary)

    @staticmethod
    def source_of(cluster: Cluster) -> Source:
        return Source(socket=cluster.folders.socket, port=cluster.address.port)

    def receive(self, source: Source | None = None) -> None:
        """Start the tail's receiver."""
        argv, env = self.replication.receiver(self.installation, source or self.source, copy="b_tail", tail=self.tail)
        with (self.standby.folders.log.parent / "receiver.log").open("ab") as log:
            self.receiver = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.tail, **self.account.switch()
            )

    def end_receiver(self, number: signal.Signals = signal.SIGINT) -> None:
        if self.receiver is not None:
            self.receiver.send_signal(number)
            self.receiver.wait(WITHIN_S)
            self.receiver = None

    def receiver_log(self) -> str:
        return (self.standby.folders.log.parent / "receiver.log").read_text()

    async def look(self) -> PrimarySeen:
        return await self.replication.look(self.primary.folders)

    async def come_to_follow(self, *names: str) -> None:
        """Wait until these copies have all that the primary has on its disk now."""
        wanted = (await self.look()).flushed
        deadline = asyncio.get_running_loop().time() + WITHIN_S
        while True:
            followers = (await self.look()).followers
            if all(name in followers and followers[name].is_streaming for name in names) and all(
                followers[name].flushed >= wanted for name in names
            ):
                return
            assert asyncio.get_running_loop().time() < deadline, (followers, self.receiver_log(), self.standby.log())
            await asyncio.sleep(0.01)

    async def come_to_replay(self, position: int) -> None:
        """Wait until the standby has replayed its log up to there."""
        deadline = asyncio.get_running_loop().time() + WITHIN_S
        while await self.replication.replayed(self.standby.folders) < position:
            assert asyncio.get_running_loop().time() < deadline, self.standby.log()
            await asyncio.sleep(0.01)

    async def come_to_rest(self) -> None:
        """Stop all copies, each with all of the log."""
        await asyncio.to_thread(self.primary.stop)
        end = self.replication.rest(self.primary.folders)
        assert end is not None
        if self.standby.process is not None:
            await self.come_to_replay(end.position)
            await asyncio.to_thread(self.standby.stop)
        if self.receiver is not None:
            # It ends with its source.
            await asyncio.to_thread(self.receiver.wait, WITHIN_S)
            self.receiver = None

    async def end(self) -> None:
        """End whatever runs, and remove all copies."""
        self.end_receiver(signal.SIGKILL)
        for cluster in (self.primary, self.standby):
            await self.replication.let_go(cluster.folders)
            cluster.kill()
        for folder in (self.primary.folders.root, self.standby.folders.root, self.tail.parent):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
