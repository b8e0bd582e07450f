"""Since when an engine has been at rest, by value."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from resting import RESTING
from zorya.control import quiet
from zorya.control.quiet import Quiet
from zorya.engines.base import Activity


def seen(*, busy: str = "", mark: str = "1 noon", idle_s: float | None = 0, work: int = 7) -> Activity:
    return replace(
        RESTING,
        clients={10},
        helpers={2},
        busy=busy,
        mark=mark,
        idle_s=idle_s,
        at_work=1 if busy else 0,
        own_work=work,
    )


def follow(*looks: tuple[float, Activity]) -> Quiet:
    found: Quiet | None = None
    for now_s, activity in looks:
        found = quiet.follow(found, activity, now_s)
    assert found is not None
    return found


def test_rest_begins_with_the_first_look() -> None:
    assert follow((100, seen(idle_s=90))).since_s == 100


def test_rest_goes_on_while_nothing_is_done() -> None:
    assert follow((100, seen()), (105, seen(idle_s=5)), (110, seen(idle_s=10))).since_s == 100


def test_there_is_no_rest_while_something_works() -> None:
    found = follow((100, seen()), (105, seen(busy="A session works.")))
    assert (found.since_s, found.busy) == (None, "A session works.")


def test_rest_began_when_the_last_session_had_finished() -> None:
    assert follow((100, seen(busy="A session works.")), (105, seen(mark="1 later", idle_s=2))).since_s == 103


def test_rest_began_no_earlier_than_the_look_before_when_the_clock_has_jumped() -> None:
    assert follow((100, seen(busy="A session works.")), (105, seen(mark="1 later", idle_s=3600))).since_s == 100
    assert follow((100, seen(busy="A session works.")), (105, seen(mark="1 later", idle_s=-3600))).since_s == 105


def test_rest_begins_anew_when_a_session_did_something_between_two_looks() -> None:
    assert follow((100, seen()), (110, seen(mark="1 later", idle_s=4))).since_s == 106


def test_rest_begins_anew_when_the_engine_has_worked_by_itself() -> None:
    assert follow((100, seen()), (110, seen(idle_s=10, work=8))).since_s == 110


def test_there_is_no_rest_before_the_log_is_on_the_disk() -> None:
    unflushed = replace(seen(), log_flushed=False)
    assert quiet.follow(None, unflushed, 5).since_s is None


@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 100),
            st.sampled_from(["", "busy"]),
            st.integers(0, 2),
            st.none() | st.floats(-1e6, 1e6),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_rest_never_began_before_the_last_thing_that_was_seen_to_happen(
    looks: list[tuple[float, str, int, float | None, int]],
) -> None:
    now_s = 0.0
    found: Quiet | None = None
    for passed_s, busy, mark, idle_s, work in looks:
        before, now_s = found, now_s + passed_s
        found = quiet.follow(before, seen(busy=busy, mark=str(mark), idle_s=idle_s, work=work), now_s)
        assert (found.since_s is None) == bool(found.busy)
        if found.since_s is None:
            continue
        assert found.since_s <= now_s
        if before is None or before.own_work != work:
            assert found.since_s == now_s
        elif before.since_s is None or before.mark != str(mark):
            assert found.since_s >= before.seen_s
        else:
            assert found.since_s == before.since_s
