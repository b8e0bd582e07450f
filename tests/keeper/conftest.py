"""A run folder, an engine, servers that join, on the event loop that the server uses."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from keeper import actors
from zorya.compute.freezer import Freezer
from zorya.keeper import link, wire
from zorya.keeper.client import Keeper


@pytest.hookimpl
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, type[asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.Loop}


@pytest.fixture
def run(new_folder: Callable[[], Path]) -> Path:
    return new_folder()


@pytest.fixture
def new_keeper(run: Path) -> Iterator[Callable[..., Keeper]]:
    """Make servers' sides of the keeper; whatever keeper there is at the end is dismissed."""
    made = []

    def make(*, keep_s: float = 600) -> Keeper:
        made.append(Keeper(run, log=run / "keeper.log", keep_s=keep_s))
        return made[-1]

    yield make
    for keeper in made:
        keeper.abandon()
    if (run / wire.SOCKET).exists():
        link.close_all(make().join())
        made[-1].dismiss()


@pytest.fixture
def engine(run: Path) -> Iterator[Freezer]:
    """An engine that runs, of three processes."""
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("the kernel has no CONFIG_PROC_CHILDREN")
    with actors.engine(run) as started:
        yield started
