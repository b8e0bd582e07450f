"""Servers for tests; see harness.py and lending.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server, end, running
from lending import Lender
from zorya.engines.mariadb import installations as mariadb_installations


@pytest.fixture(scope="session")
def lender(templates: Path) -> Iterator[Lender]:
    """The server that tests use one after the other."""
    with Lender(templates) as made:
        yield made


@pytest.fixture
def server(lender: Lender) -> Iterator[Server]:
    """A running server with cluster "main", new and asleep. Other tests have used it, and will."""
    with lender.lend() as lent:
        yield lent


@pytest.fixture
def shop(server: Server) -> Server:
    """The same server, with a MariaDB cluster "shop", new and asleep."""
    if not mariadb_installations.find(None):
        pytest.skip("this host has no MariaDB 10.6 or newer (Debian: mariadb-server)")
    server.api.create({"name": "shop", "engine": "mariadb"})
    return server


@pytest.fixture
def fresh_server(home: Path) -> Iterator[Server]:
    """A running server with cluster "main", asleep, for one test that changes what the server has in its home."""
    with running(home) as started:
        yield started


@pytest.fixture
def stopped_server(home: Path) -> Iterator[Server]:
    """A server that the test starts itself."""
    prepared = Server(home)
    try:
        yield prepared
        prepared.stop()
        prepared.check_log()
    finally:
        end(prepared)
