"""A cluster of six copies is broken in every way while writers go on, and no acknowledged commit is lost.

By hand, and for longer: `python tests/destruction.py --minutes 60`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

import destruction
from harness import Server
from waiting import wait_until


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1])
def test_no_acknowledged_commit_is_lost_when_everything_breaks_once(new_home: Callable[[], Path], seed: int) -> None:
    with destruction.breaking(new_home(), seed) as under_way:
        under_way.run(until=lambda faults: faults == len(under_way.faults))
        assert set(under_way.done) == set(under_way.faults)
        assert under_way.events["failovers"] > 0
        assert under_way.events["rebuilds"] > 0


LOSSES = [
    ("UPDATE account SET balance = balance + 1 - 2 * id WHERE id < 2", "balances are not"),
    ("UPDATE account SET balance = balance + 1 WHERE id = 0", "money is lost or made"),
    ("DELETE FROM element WHERE n = (SELECT max(n) FROM element)", "ends at .* was acknowledged"),
    ("DELETE FROM element WHERE n = 1", "has a hole"),
    ("DELETE FROM transfer WHERE n = 1", r"acknowledged transfers .* are missing: \[1\]"),
]
"""What is lost, and what is said of it: each comes before those above it, so that one run shows them all."""


def test_each_loss_is_told_when_it_is_looked_for(server: Server) -> None:
    writers = destruction.Writers(server)
    with writers.going():
        # A list needs some elements to have a hole.
        for _ in range(4):
            writers.wait_commits()
    writers.check()
    for loss, told in LOSSES:
        server.query(loss)
        with pytest.raises(AssertionError, match=told):
            writers.check()


def test_loss_is_told_at_the_next_look_when_writers_go_on(server: Server) -> None:
    writers = destruction.Writers(server)
    with writers.going():
        for _ in range(4):
            writers.wait_commits()
        server.query("DELETE FROM element WHERE n = 1")
        wait_until(writers.signals.alarm.is_set, "a writer has seen it")
    with pytest.raises(AssertionError, match="the list has"):
        writers.raise_lost()
