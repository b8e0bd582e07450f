"""Fixtures of the compute tests."""

from collections.abc import Iterator

import pytest

from compute.workers import Worker, enclosed
from zorya.compute import group
from zorya.compute.group import Grouping, ProcessGroup


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.end()


@pytest.fixture
def grouping() -> Grouping:
    """Control groups for everything, or the test is skipped."""
    found = group.examine(None)
    if found.cpu is None or found.memory is None:
        pytest.skip(f"{found.cpu_reason} {found.memory_reason}")
    return found


@pytest.fixture
def bare() -> Grouping:
    """A host without control groups."""
    return group.examine(None, [])


@pytest.fixture
def limited(worker: Worker, grouping: Grouping) -> Iterator[ProcessGroup]:
    """The worker in control groups."""
    with enclosed(worker, grouping) as found:
        yield found
