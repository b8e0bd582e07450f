"""A gateway that runs until the end of the test, on the event loop that the server uses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from gateway.fakes import FakeEndpoint, FakeEngine, FakeKeep, RunningGateway, running
from zorya.core.model import Entrance
from zorya.core.settings import Settings
from zorya.gateway.attach import Way


@pytest.hookimpl
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, type[asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.Loop}


@pytest.fixture
def settings() -> Settings:
    """Deadlines that no client misses on a machine that does other things as well."""
    return Settings(startup_timeout_s=60, wake_timeout_s=60, max_clients=1000)


@pytest.fixture
def keep() -> Iterator[FakeKeep]:
    keep = FakeKeep()
    yield keep
    keep.close()


@pytest_asyncio.fixture
async def gateway(settings: Settings, keep: FakeKeep) -> AsyncIterator[RunningGateway]:
    async with running(settings, keep=keep) as gateway:
        yield gateway


@pytest_asyncio.fixture
async def engine(new_folder: Callable[[], Path]) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(new_folder())
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture(params=list(Way))
def way(request: pytest.FixtureRequest) -> Way:
    """How the engine can be entered."""
    return Way(request.param)


@pytest.fixture
def entrance(engine: FakeEngine, way: Way) -> Entrance:
    """How to get into the engine, in each way."""
    return engine.entrance(way)


@pytest.fixture
def endpoint() -> FakeEndpoint:
    """A sleeping cluster."""
    return FakeEndpoint("shop")
