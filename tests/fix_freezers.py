"""The ways to freeze: a test that takes one is run with each that this host has; the others are skipped."""

import pytest

from zorya.compute import group
from zorya.compute.freezer import Way


@pytest.fixture(params=Way)
def way(request: pytest.FixtureRequest) -> Way:
    """One way after the other."""
    found = Way(request.param)
    offered = group.examine(found)
    if found is not Way.SIGNALS and offered.freezer is None:
        pytest.skip(f"{found}: {offered.freezer_reason}")
    return found
