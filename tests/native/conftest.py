"""Programs with native/handoff.c in them. What awaits runs on both event loops."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import uvloop

from fix_home import make_folder
from native import acceptors
from zorya.core.account import Account
from zorya.engines import handoff

SOURCE = Path(__file__).with_name("acceptor.c")

Run = Callable[..., AbstractContextManager[acceptors.Acceptor]]


@pytest.hookimpl
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, type[asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.Loop, "asyncio": asyncio.SelectorEventLoop}


@pytest.fixture(scope="session")
def programs() -> Iterator[acceptors.Programs]:
    """The acceptor, compiled, and the library that the installation has built."""
    found = handoff.examine()
    if "not built" in found.reason:
        pytest.skip(found.reason)
    assert found.path is not None, found.reason
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("There is no C compiler for the acceptor.")
    folder = make_folder()
    made = acceptors.Programs(acceptor=folder / "acceptor", library=folder / "handoff.so")
    subprocess.run([compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(made.acceptor), str(SOURCE)], check=True)
    shutil.copyfile(found.path, made.library)
    for file in (made.acceptor, made.library):
        file.chmod(0o755)
    yield made
    shutil.rmtree(folder)


@pytest.fixture(params=acceptors.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which engine the acceptor behaves like."""
    return str(request.param)


@pytest.fixture
def run(programs: acceptors.Programs, new_folder: Callable[[], Path], engine_account: Account, kind: str) -> Run:
    """Run an acceptor with these settings, in this folder or a new one."""

    def start(
        settings: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> AbstractContextManager[acceptors.Acceptor]:
        return acceptors.running(programs, folder or new_folder(), kind, engine_account, settings)

    return start


@pytest.fixture
def acceptor(run: Run) -> Iterator[acceptors.Acceptor]:
    with run() as started:
        yield started


@pytest.fixture
def own_descriptors() -> Iterator[Callable[[], int]]:
    """Count the descriptors of this process; no more of them may be left at the end."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count of names, nothing more

    # libuv opens a pipe for signals with the first loop and keeps it.
    uvloop.new_event_loop().close()
    before = count()
    yield count
    assert count() == before
