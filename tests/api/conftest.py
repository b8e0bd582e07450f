"""The API of a fake server, served for real."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from api.fakes import TOKEN, FakeClusters, FakeServer
from api.served import Served
from zorya.api.serve import Api


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="zorya-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def served(short_path: Path) -> AsyncIterator[Served]:
    """The API, until the end of the test at the latest."""
    clusters = FakeClusters()
    server = FakeServer(short_path, clusters)
    path = short_path / "zorya.sock"
    api = Api(server=server, clusters=clusters, token=TOKEN, socket_path=path, port=0)
    task = asyncio.create_task(api.run(on_ready=server.ready), name="api")
    await asyncio.wait_for(server.is_ready.wait(), 10)
    bearer = {"Authorization": f"Bearer {TOKEN.value}"}
    async with (
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://localhost") as unix,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.api_port}", headers=bearer, trust_env=False) as tcp,
    ):
        yield Served(socket_path=path, server=server, clusters=clusters, unix=unix, tcp=tcp, task=task)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
