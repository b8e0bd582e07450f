"""Who is counted as being at a cluster, by value and under random comings and goings."""

from hypothesis import given
from hypothesis import strategies as st

from zorya.control.attendance import FORK_S, Attendance


def look(found: Attendance, sessions: int, now_s: float) -> bool:
    return found.see(sessions, of_unseen=found.seen_by_look_at(now_s), now_s=now_s)


def come(found: Attendance, now_s: float) -> None:
    found.enter()
    found.attach(now_s)
    found.leave(now_s)


def test_time_without_anybody_begins_when_the_last_visitor_leaves() -> None:
    found = Attendance(0)
    assert found.idle_s(7) == 7
    found.enter()
    assert found.idle_s(9) == 0
    assert found.leave(10)
    assert found.idle_s(12) == 2


def test_client_with_a_session_counts_until_a_look_shows_that_it_has_ended() -> None:
    found = Attendance(0)
    come(found, 1)
    assert found.idle_s(5) == 0
    assert not look(found, 1, 6)
    assert (found.total, found.idle_s(50)) == (1, 0)
    assert look(found, 0, 60)
    assert found.idle_s(61) == 1


def test_client_that_came_during_a_look_is_counted_until_the_next() -> None:
    found = Attendance(0)
    of_unseen = found.seen_by_look_at(1)
    come(found, 1)
    assert not found.see(0, of_unseen=of_unseen, now_s=2)
    assert found.total == 1
    assert look(found, 0, 3)


def test_client_that_came_just_before_a_look_is_counted_until_the_next() -> None:
    found = Attendance(0)
    come(found, 1)
    assert not look(found, 0, 1 + FORK_S / 2)
    assert found.total == 1
    assert look(found, 0, 2)


def test_look_that_shows_nobody_again_does_not_begin_the_time_anew() -> None:
    found = Attendance(0)
    assert not look(found, 0, 5)
    assert found.idle_s(6) == 6


def test_nobody_is_there_when_the_engine_is_lost_but_those_who_wait() -> None:
    found = Attendance(0)
    found.enter()
    look(found, 4, 1)
    found.lose_engine(2)
    assert found.total == 1
    found.leave(3)
    assert found.idle_s(5) == 2


@given(st.lists(st.sampled_from(["enter", "come", "leave", "end", "look", "engine dies"]), max_size=60))
def test_nobody_who_is_there_is_ever_missed(happenings: list[str]) -> None:
    found, waiting, sessions, now_s = Attendance(0), 0, 0, 0.0
    for what in happenings:
        now_s += 1
        match what:
            case "enter":
                found.enter()
                waiting += 1
            case "come" if waiting:
                found.attach(now_s)
                found.leave(now_s)
                waiting, sessions = waiting - 1, sessions + 1
            case "leave" if waiting:
                found.leave(now_s)
                waiting -= 1
            case "end" if sessions:
                sessions -= 1
            case "look":
                look(found, sessions, now_s)
                assert found.total == waiting + sessions
            case "engine dies":
                found.lose_engine(now_s)
                sessions = 0
        assert found.total >= waiting + sessions
        assert (found.idle_s(now_s + 1) == 0) == (found.total > 0)
