"""The `zorya` command, and a fake server for it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.fakes import serving
from cli.command import ROOT, Command

FAKE_SERVER = ROOT / "tests" / "api" / "fakes.py"


@pytest.fixture
def lonely() -> Iterator[Command]:
    """The command on a home without a server."""
    home = Path(tempfile.mkdtemp(prefix="zorya-"))
    yield Command(home=home)
    shutil.rmtree(home)


@pytest.fixture
def server(lonely: Command) -> Iterator[subprocess.Popen[str]]:
    """A server with a process of its own, on the home of `lonely`; its clusters are those of `zorya`."""
    (lonely.home / "run").mkdir()
    with subprocess.Popen(
        [sys.executable, str(FAKE_SERVER), str(lonely.home)], env=lonely.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.terminate()


@pytest.fixture
def zorya(lonely: Command) -> Iterator[Command]:
    """The command on the home of a server with clusters `main` (asleep), `busy` (with a session), `cold` (frozen)."""
    (lonely.home / "run").mkdir()
    with serving(lonely.home):
        yield lonely
