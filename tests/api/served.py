"""What a test gets of an API that is served for real."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx

from api.fakes import FakeClusters, FakeServer


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running API with a client for each of its sockets, and the task that serves it."""

    socket_path: Path
    server: FakeServer
    clusters: FakeClusters
    unix: httpx.AsyncClient
    tcp: httpx.AsyncClient
    task: asyncio.Task[None]
