"""How many copies a commit is on, and how a volume is that lacks some."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.storage import placement, quorum
from zorya.storage.quorum import Health, Position

rules = st.sampled_from([quorum.rule(copies) for copies in placement.CHOICES])


@pytest.mark.parametrize(("copies", "write", "read"), [(6, 4, 3), (3, 2, 2), (1, 1, 1)])
def test_a_rule_is_the_documented_one_when_the_volume_has_so_many_copies(copies: int, write: int, read: int) -> None:
    rule = quorum.rule(copies)
    assert (rule.copies, rule.write, rule.read, rule.followers_needed) == (copies, write, read, write - 1)


@given(rules)
def test_any_copies_that_are_read_share_one_with_a_commit_when_the_rule_is_kept(rule: quorum.Rule) -> None:
    assert rule.write + rule.read > rule.copies


def test_positions_compare_by_the_epoch_first_when_epochs_differ() -> None:
    assert Position(epoch=1, position=900) < Position(epoch=2, position=100) < Position(epoch=2, position=101)


@pytest.mark.parametrize(
    ("copies", "current", "reachable", "health"),
    [
        (6, 6, 6, Health.WHOLE),
        (6, 5, 5, Health.DEGRADED),
        (6, 4, 6, Health.DEGRADED),
        (6, 3, 3, Health.WAITING),
        (6, 2, 3, Health.WAITING),
        (6, 2, 2, Health.LOST),
        (3, 3, 3, Health.WHOLE),
        (3, 2, 2, Health.DEGRADED),
        (3, 1, 2, Health.WAITING),
        (3, 1, 1, Health.LOST),
        (1, 1, 1, Health.WHOLE),
    ],
)
def test_health_is_said_when_copies_are_missing(copies: int, current: int, reachable: int, health: Health) -> None:
    found, reason = quorum.assess(quorum.rule(copies), current=current, reachable=reachable, established=True)
    assert found is health
    assert reason.endswith(".")


def test_a_volume_is_building_when_its_copies_were_never_all_there() -> None:
    found, reason = quorum.assess(quorum.rule(6), current=1, reachable=1, established=False)
    assert found is Health.BUILDING
    assert "do not wait" in reason


@given(rules, st.integers(1, 6), st.integers(1, 6))
def test_health_never_gets_worse_when_one_more_copy_is_current(rule: quorum.Rule, current: int, reachable: int) -> None:
    order = [Health.LOST, Health.WAITING, Health.DEGRADED, Health.WHOLE]
    less, _ = quorum.assess(rule, current=current, reachable=reachable, established=True)
    more, _ = quorum.assess(rule, current=current + 1, reachable=reachable, established=True)
    assert order.index(more) >= order.index(less)
