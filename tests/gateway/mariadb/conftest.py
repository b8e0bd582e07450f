"""A real server for all tests of a process, and a cluster that the gateway takes for stopped, with that behind it."""

from collections.abc import Iterator

import pytest

from gateway.fakes import FakeEndpoint
from gateway.mariadb.real_mariadb import RealMariaDb, serving
from zorya.core.model import Address, EngineKind, Entrance, Handoff


@pytest.fixture(scope="session")
def real() -> Iterator[RealMariaDb]:
    with serving() as server:
        yield server


@pytest.fixture
def relayed(real: RealMariaDb) -> Entrance:
    """How to get into the server, by the relay alone."""
    return Entrance(
        address=Address(host="127.0.0.1", port=real.port), handoff=Handoff(inlet=None, reason="The test says so.")
    )


@pytest.fixture
def cluster(real: RealMariaDb) -> FakeEndpoint:
    """A stopped cluster; `starts` has it wake to the server."""
    endpoint = FakeEndpoint("shop")
    endpoint.engine = EngineKind.MARIADB
    endpoint.engine_major = "10.11"
    endpoint.identities = real.accounts
    return endpoint
