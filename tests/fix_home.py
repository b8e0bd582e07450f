"""Home folders for tests: reachable for the engines' user, with ready templates, and gone afterwards."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from harness import Server, running
from waiting import wait_until
from zorya.core import account


def make_folder() -> Path:
    # Short, since Unix socket paths are; passable, since as root the engines run as another user.
    folder = Path(tempfile.mkdtemp(prefix="zt-", dir="/tmp"))
    folder.chmod(0o711)
    return folder


def _processes_below(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                cwd = str((entry / "cwd").readlink())
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if cwd.startswith(str(folder)) or os.fsencode(str(folder)) in command:
                found.append(f"{entry.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


def _is_left(folder: Path) -> bool:
    return not _processes_below(folder)


@pytest.fixture
def new_folder() -> Iterator[Callable[[], Path]]:
    """Make empty folders; at the end of the test they are removed, and no process may be left in them."""
    made: list[Path] = []

    def make() -> Path:
        made.append(make_folder())
        return made[-1]

    yield make
    for folder in made:
        try:
            wait_until(partial(_is_left, folder), "no process is left in the home", 15)
        finally:
            shutil.rmtree(folder)


@pytest.fixture(scope="session")
def templates() -> Iterator[Path]:
    """A folder that holds what a server makes once for all clusters, so that each test's first need not wait for it."""
    folder = make_folder()
    home = folder / "home"
    with running(home):
        pass
    yield home
    shutil.rmtree(folder)


def prepare_home(folder: Path, templates: Path) -> Path:
    """Answer a home in `folder` that no server has been started on yet, but that has the templates."""
    home = folder / "home"
    home.mkdir(mode=0o711)
    for shared in ("templates", "engines"):
        subprocess.run(["cp", "--archive", "--reflink=auto", str(templates / shared), str(home)], check=True)
    return home


@contextmanager
def running_for_a_file(templates: Path, **env: str) -> Iterator[Server]:
    """Run a server for all tests of a file. Fixtures for single tests come too late to prepare the environment."""
    folder = make_folder()
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
