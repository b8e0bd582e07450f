"""A cluster of six copies is broken in every way while writers go on, and no acknowledged commit is lost.

By hand, and for longer: `python tests/destruction.py --minutes 60`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

import destruction


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1])
def test_no_acknowledged_commit_is_lost_when_everything_breaks_once(new_home: Callable[[], Path], seed: int) -> None:
    with destruction.breaking(new_home(), seed) as under_way:
        under_way.run(until=lambda faults: faults == len(under_way.faults))
        assert set(under_way.done) == set(under_way.faults)
        assert under_way.events["failovers"] > 0
        assert under_way.events["rebuilds"] > 0
