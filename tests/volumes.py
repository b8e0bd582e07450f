"""A cluster of several copies as tests see it: from outside, at its files and processes."""

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psycopg

from harness import Server, is_gone
from waiting import wait_until
from zorya.core.volume import parse_position
from zorya.engines.postgres import lockfile

ADMIN = "zorya_admin"


class Volume:
    """The volume of one cluster of a server."""

    def __init__(self, server: Server, name: str = "main") -> None:
        self.server = server
        self.name = name
        self.id = str(server.show(name)["id"])

    # What Zorya says.

    @property
    def copies(self) -> dict[str, Any]:
        """What `zorya copies` says of each copy, by its name."""
        return {one["name"]: one for one in self.server.api.copies(self.name)}

    @property
    def shown(self) -> Any:
        """What `zorya show` says of the volume."""
        return self.server.show(self.name)["volume"]

    @property
    def primary(self) -> str:
        """The name of the copy that is the primary."""
        return str(self.shown["primary"])

    def wait_whole(self, within_s: float = 60) -> None:
        """Wait until all copies are current."""

        def is_whole() -> bool:
            return all(one["state"] == "current" for one in self.copies.values())

        try:
            wait_until(is_whole, "all copies are current", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.copies}") from error

    # What the host shows.

    def folder(self, copy: str) -> Path:
        """Where the copy's files are."""
        zone, _, kind = copy.partition("_")
        root = self.server.home / (f"clusters/{self.id}" if zone == "a" else f"zones/{zone}/{self.id}")
        return root / ("data" if kind == "full" else "tail")

    def zone(self, zone: str) -> Path:
        """The cluster's folder in a zone."""
        return self.folder(f"{zone}_full").parent

    def pid(self, copy: str) -> int | None:
        """The first process of a copy, if it has one."""
        folder = self.folder(copy)
        if copy.endswith("_full"):
            with contextlib.suppress(OSError):
                found = lockfile.parse((folder / lockfile.NAME).read_text())
                if found is not None and not is_gone(found.pid):
                    return found.pid
            return None
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "cwd").readlink() == folder and not is_gone(int(entry.name)):
                        return int(entry.name)
        return None

    def pids(self, copy: str) -> list[int]:
        """All processes of a copy."""
        folder = str(self.folder(copy))
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if str((entry / "cwd").readlink()).removesuffix(" (deleted)") == folder:
                        found.append(int(entry.name))
        return found

    def signal(self, copy: str, number: signal.Signals) -> None:
        """Signal all processes of a copy, of which there must be some."""
        pids = self.pids(copy)
        assert pids, f"{copy} does not run"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, copy: str) -> None:
        """End the first process of a copy with SIGKILL."""
        pid = self.pid(copy)
        assert pid is not None, f"{copy} does not run"
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_gone(pid), f"{copy} is gone")

    def destroy(self, copy: str) -> None:
        """Remove a copy's files under its processes, as a disk that dies does."""
        shutil.rmtree(self.folder(copy), ignore_errors=True)

    def destroy_zone(self, zone: str) -> None:
        """Remove all that the cluster has in a zone, and end its processes there."""
        pids = [pid for kind in ("full", "tail") for pid in self.pids(f"{zone}_{kind}")]
        shutil.rmtree(self.zone(zone), ignore_errors=True)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def ask(self, copy: str, sql: str) -> Any:
        """Ask a full copy's engine, as its administrator, and answer the first value."""
        found = lockfile.parse((self.folder(copy) / lockfile.NAME).read_text())
        assert found is not None
        zone = copy.partition("_")[0]
        socket = self.server.home / "run" / (self.id if zone == "a" else f"{self.id}-{zone}")
        with psycopg.connect(
            host=str(socket), port=found.port, user=ADMIN, dbname="postgres", application_name="zorya", autocommit=True
        ) as connection:
            row = connection.execute(sql).fetchone()
            return row[0] if row is not None else None

    def received(self, copy: str) -> int:
        """How far the log goes that a following full copy has on its disk."""
        return parse_position(str(self.ask(copy, "SELECT pg_last_wal_receive_lsn()")))


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))
