"""Small file systems of the tests' own, that can be filled, and servers on them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fix_home import prepare_home
from harness import Server, started

MEGABYTE = 1024 * 1024


class Disk:
    """A file system that can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, left_megabytes: int) -> None:
        """Leave so much space, and none for small files either if that is 0."""
        with self._ballast.open("ab") as file:
            while (free := shutil.disk_usage(self.folder).free - left_megabytes * MEGABYTE) > 0:
                with suppress(OSError):  # the server has written something in between
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)

    def free(self) -> None:
        """Give all space back. May be repeated."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def mounted(folder: Path, *, megabytes: int) -> Iterator[Disk]:
    """Have a small disk of its own at `folder` for the block; skips the test where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder.mkdir()
    options = f"size={megabytes}m,mode=0711"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"this host does not let root mount a file system: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def running_on(disk: Disk, templates: Path) -> Iterator[Server]:
    """Run a server whose home is on the disk; its log lies elsewhere. Its warnings of a full disk are expected."""
    made = Server(prepare_home(disk.folder, templates))
    made.log = disk.folder.parent / "server.log"
    made.allow("what clusters use cannot be written down", "the engine's settings do not follow")
    with started(made):
        yield made
