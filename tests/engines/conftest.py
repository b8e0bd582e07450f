"""Real engines of every installed major version."""

import shutil
from collections.abc import Iterator

import pytest

from engines.clusters import MAJORS, Cluster, Workshop
from fix_home import make_folder
from zorya.core import account
from zorya.core.home import Home


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """Where this session's clusters are made."""
    folder = make_folder()
    yield Workshop(Home(folder / "home"), account.ensure("zorya"))
    shutil.rmtree(folder)


@pytest.fixture(params=MAJORS)
def cluster(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Cluster]:
    """The cluster of one major version, stopped. What a test changes in its data it takes back."""
    found = workshop.cluster(request.param)
    yield found
    found.kill()


@pytest.fixture
def running(cluster: Cluster) -> Cluster:
    """The same, with its engine started, without TLS."""
    cluster.start()
    return cluster
