"""The ways to freeze that this host has, as parameters for tests; the others are skipped with their reason."""

import pytest

from zorya.compute import group
from zorya.compute.freezer import Way

WAYS = tuple(Way)


def skip_unless_there(way: Way) -> None:
    """Skip the test where the host cannot freeze this way."""
    found = group.examine(way)
    if way is not Way.SIGNALS and found.freezer is None:
        pytest.skip(f"no freezer of this kind here ({way}): {found.freezer_reason}")
