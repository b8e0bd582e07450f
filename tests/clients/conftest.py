"""One server for each file of tests and way to attach, with cluster "main" asleep: the first client wakes it.

The clients meet each way: handed over, relayed, and with an engine that freezes between their statements. The relay
carries bytes whoever sends them, so that not every client has to meet it.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fix_home import running_for_a_file
from harness import Server
from zorya.engines.postgres import installations

FREEZES = {"1008", "1009"}
WAYS = {
    "handoff": {"ZORYA_FREEZE_AFTER": "never"},
    "relay": {"ZORYA_FREEZE_AFTER": "never", "ZORYA_ATTACH": "relay"},
    "freezing": {"ZORYA_FREEZE_AFTER": "0.01"},
}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How the clients meet the engine."""
    return str(request.param)


@pytest.fixture(scope="module")
def server(way: str, templates: Path) -> Iterator[Server]:
    """A server whose cluster "main" sleeps when the file's first test begins, and starts once for all of them."""
    with running_for_a_file(templates, **WAYS[way]) as started:
        assert started.show()["compute"] == "stopped"
        assert started.show()["attach"] == ("relay" if way == "relay" else "handoff")
        yield started
        events = started.besides_scaling()
        assert [event for event in events if event not in FREEZES] in (["0170"], ["0170", "0147", "0148"])
        assert way == "freezing" or not FREEZES.intersection(events)


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    """The URL of cluster "main"."""
    return server.url()


@pytest.fixture(scope="module")
def program() -> Callable[[str], str]:
    """Answer the path of one of PostgreSQL's own clients: that of the engine's installation, else that in PATH."""

    def find(name: str) -> str:
        own = installations.find(None)[0].program(name)
        path = str(own) if own.exists() else shutil.which(name)
        if path is None:
            pytest.skip(f"this host has no {name}")
        return path

    return find


@pytest.fixture
def run(program: Callable[[str], str]) -> Callable[..., str]:
    """Run one of PostgreSQL's own clients and answer what it printed; fails when it failed."""

    def call(name: str, *args: str, stdin: str = "") -> str:
        done = subprocess.run(
            [program(name), *args], input=stdin, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, f"{name} {' '.join(args)}: {done.stderr}"
        return done.stdout

    return call
