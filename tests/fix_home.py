"""Home folders for tests: reachable for the engines' user, with ready templates, and gone afterwards."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import Server, remove_when_left, running
from zorya.core import account
from zorya.engines.mariadb import installations as mariadb_installations

DISK = Path("/tmp")
"""For tests to which it matters that files are in the page cache and can leave it."""
_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 6 * 1024**3


def _fastest() -> Path:
    """Answer where homes cost least: most of what they take is waiting for a disk, which proves nothing of Zorya.

    Memory has to have room for some homes at once, and let engines load the libraries that lie in them.
    """
    if not _MEMORY.is_dir() or os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC:
        return DISK
    found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    available = int(found[1]) * 1024 if found else 0
    return _MEMORY if min(available, shutil.disk_usage(_MEMORY).free) >= _ENOUGH_BYTES else DISK


FASTEST = _fastest()


def make_folder(base: Path = FASTEST) -> Path:
    # Short, since Unix socket paths are; passable, since as root the engines run as another user.
    folder = Path(tempfile.mkdtemp(prefix="zt-", dir=base))
    folder.chmod(0o711)
    return folder


@pytest.fixture
def base() -> Path:
    """Where the folders of single tests are made; a file whose tests want a disk overrides it with DISK."""
    return FASTEST


@pytest.fixture
def new_folder(base: Path) -> Iterator[Callable[[], Path]]:
    """Make empty folders; at the end of the test they are removed, and no process may be left in them."""
    made: list[Path] = []

    def make() -> Path:
        made.append(make_folder(base))
        return made[-1]

    yield make
    for folder in made:
        remove_when_left(folder)


@pytest.fixture(scope="session")
def templates() -> Iterator[Path]:
    """A folder that holds what a server makes once for all clusters, so that each test's first need not wait for it."""
    folder = make_folder()
    home = folder / "home"
    with running(home) as server:
        if mariadb_installations.find(None):
            server.api.create({"name": "first", "engine": "mariadb"})
            server.api.delete("first")
    yield home
    shutil.rmtree(folder)


def prepare_home(folder: Path, templates: Path) -> Path:
    """Answer a home in `folder` that no server has been started on yet, but that has the templates."""
    home = folder / "home"
    home.mkdir(mode=0o711)
    # Nobody writes into a template, so that no home needs a copy of its own.
    how = "--link" if folder.stat().st_dev == templates.stat().st_dev else "--reflink=auto"
    for shared in ("templates", "engines"):
        subprocess.run(["cp", "--archive", how, str(templates / shared), str(home)], check=True)
    return home


@contextmanager
def running_for_a_file(templates: Path, base: Path = FASTEST, /, **env: str) -> Iterator[Server]:
    """Run a server for all tests of a file. Fixtures for single tests come too late to prepare the environment."""
    folder = make_folder(base)
    try:
        with pytest.MonkeyPatch.context() as patch:
            clear_environment(patch)
            with running(prepare_home(folder, templates), **env) as started:
                yield started
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def new_home(new_folder: Callable[[], Path], templates: Path) -> Callable[[], Path]:
    """Make homes that no server has been started on yet, but that have the templates."""
    return lambda: prepare_home(new_folder(), templates)


@pytest.fixture
def home(new_home: Callable[[], Path]) -> Path:
    """One such home."""
    return new_home()


@pytest.fixture
def engine_account() -> account.Account:
    """The user that engines run as."""
    return account.ensure("zorya")


def clear_environment(patch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own ZORYA_* and PG* variables out of the tests."""
    for name in list(os.environ):
        if name.startswith(("ZORYA_", "PG")):
            patch.delenv(name)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)
