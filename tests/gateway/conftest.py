"""A gateway that runs until the end of the test, on the event loop that the server uses."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio
import uvloop

from gateway.fakes import FakeEndpoint, FakeEngine, RunningGateway, running
from zorya.core.settings import Settings


@pytest.hookimpl
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, type[asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.Loop}


@pytest.fixture
def settings() -> Settings:
    """Deadlines short enough to wait for."""
    return Settings(startup_timeout_s=0.5, wake_timeout_s=20, max_clients=1000)


@pytest_asyncio.fixture
async def gateway(settings: Settings) -> AsyncIterator[RunningGateway]:
    async with running(settings) as gateway:
        yield gateway


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def endpoint() -> FakeEndpoint:
    """A sleeping cluster."""
    return FakeEndpoint("shop")
