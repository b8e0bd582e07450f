"""The ways to freeze: a test that takes one is run with each that this host has; the others are skipped."""

import pytest

from zorya.compute import group
from zorya.compute.freezer import Way

_USUAL = "usual"

usual_way = pytest.mark.parametrize("way", [_USUAL], indirect=True)
"""Has a test run only with the way that Zorya itself would take here, since nothing that it looks at depends on it."""


@pytest.fixture(params=Way)
def way(request: pytest.FixtureRequest) -> Way:
    """One way after the other."""
    if request.param == _USUAL:
        chosen = group.examine(None).freezer
        return next((way for way in Way if chosen is not None and group.examine(way).freezer == chosen), Way.SIGNALS)
    found = Way(request.param)
    offered = group.examine(found)
    if found is not Way.SIGNALS and offered.freezer is None:
        pytest.skip(f"{found}: {offered.freezer_reason}")
    return found
