"""Servers for tests; see harness.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server, end, running


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """A running server with cluster "main", asleep."""
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
