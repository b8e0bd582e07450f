"""Real MariaDB servers of the installed version."""

import shutil
from collections.abc import Iterator

import pytest

from engines.mariadb.clusters import INSTALLED, Cluster, Workshop
from fix_home import make_folder
from zorya.core import account
from zorya.core.home import Home


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """Where this session's clusters are made."""
    if not INSTALLED:
        pytest.skip("this host has no MariaDB")
    folder = make_folder()
    yield Workshop(Home(folder / "home"), account.ensure("zorya"))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cluster(workshop: Workshop, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The cluster of one module of tests, stopped. What a test changes in its data it takes back."""
    made = workshop.make(f"m{abs(hash(request.node.nodeid)) % 10**7:07}")
    yield made
    made.kill()


@pytest.fixture
def running(cluster: Cluster) -> Iterator[Cluster]:
    """The same, with its engine started, without TLS."""
    cluster.start()
    yield cluster
    cluster.kill()
