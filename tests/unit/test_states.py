import pytest

from zorya.control import states
from zorya.control.events import EventKind
from zorya.control.states import Cause
from zorya.core.model import Compute, Status


def test_a_change_that_the_table_lacks_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="no change"):
        states.change_of_compute(Compute.STOPPED, Cause.READY)
    with pytest.raises(AssertionError, match="no change"):
        states.change_of_status(Status.DELETED, Cause.BUILT)


def test_every_state_can_be_reached_and_left() -> None:
    for kinds, table, last in ((Status, states.STATUS, {Status.DELETED}), (Compute, states.COMPUTE, set[Compute]())):
        targets = {change.target for change in table.values()}
        sources = {source for source, _ in table}
        first = next(iter(kinds))
        assert targets | {first} == set(kinds)
        assert sources | last == set(kinds)


def test_event_numbers_are_unique() -> None:
    ids = [kind.id for kind in EventKind]
    assert len(ids) == len(set(ids))
    assert EventKind.RESUMED.id == "ZORYA-EVENT-0148"
