"""gateway/throttle.py: who guesses is slowed, whoever else is not, and nobody is locked out for good."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.gateway.throttle import FORGET_EVERY_S, FREE_FAILURES, MOST_FAILURES, REMEMBERED, Throttle

GUESSER, OTHER = "203.0.113.9", "198.51.100.1"


def after(failures: int, *, max_delay_s: float = 5.0, address: str = GUESSER) -> Throttle:
    throttle = Throttle(max_delay_s=max_delay_s)
    for _ in range(failures):
        throttle.failed("shop", address, "ann", 0.0)
    return throttle


def test_nobody_waits_when_people_only_mistype() -> None:
    throttle = after(FREE_FAILURES)
    assert throttle.turn("shop", GUESSER, 0.0) == 0
    assert throttle.delay_of_role("shop", "ann", 0.0) == 0


def test_delay_grows_with_each_failure_up_to_half_of_the_most() -> None:
    delays = [after(FREE_FAILURES + more).turn("shop", GUESSER, 0.0) for more in range(1, 12)]
    assert delays[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert delays[-1] == 2.5


def test_connections_of_one_address_get_turns_when_it_opens_many_at_once() -> None:
    throttle = after(FREE_FAILURES + 10)
    assert [throttle.turn("shop", GUESSER, 0.0) for _ in range(4)] == [2.5, 5.0, None, None]
    assert throttle.turn("shop", GUESSER, 2.5) == 5.0


def test_address_gets_no_more_attempts_than_its_turns_allow_however_it_comes() -> None:
    throttle = after(FREE_FAILURES + 10)
    attempts = 0
    for tick in range(1000):  # ten a second
        now_s = tick / 10
        wait_s = throttle.turn("shop", GUESSER, now_s)
        if wait_s is not None:
            attempts += 1
            throttle.failed("shop", GUESSER, "ann", now_s + wait_s)
    assert attempts <= 100 / 2.5 + 2


def test_other_addresses_and_clusters_do_not_wait() -> None:
    throttle = after(MOST_FAILURES)
    assert throttle.turn("shop", OTHER, 0.0) == 0
    assert throttle.turn("bank", GUESSER, 0.0) == 0
    assert throttle.delay_of_role("bank", "ann", 0.0) == 0


def test_role_keeps_everyone_waiting_but_refuses_nobody() -> None:
    throttle = after(MOST_FAILURES)
    assert [throttle.delay_of_role("shop", "ann", 0.0) for _ in range(50)] == [2.5] * 50
    assert throttle.delay_of_role("shop", "bob", 0.0) == 0


def test_failures_are_forgotten_one_after_the_other() -> None:
    throttle = after(FREE_FAILURES + 2)
    assert throttle.turn("shop", GUESSER, FORGET_EVERY_S) == pytest.approx(0.1)
    assert throttle.turn("shop", GUESSER, 2 * FORGET_EVERY_S) == 0


def test_all_is_forgotten_within_minutes_however_many_there_were() -> None:
    assert after(100_000).turn("shop", GUESSER, MOST_FAILURES * FORGET_EVERY_S) == 0


def test_nothing_is_forgotten_when_the_clock_goes_back() -> None:
    throttle = after(0)
    for _ in range(FREE_FAILURES + 1):
        throttle.failed("shop", GUESSER, "ann", 1000.0)
    assert throttle.turn("shop", GUESSER, 0.0) == pytest.approx(0.1)


def test_nobody_waits_when_it_is_turned_off() -> None:
    throttle = after(MOST_FAILURES, max_delay_s=0)
    assert throttle.turn("shop", GUESSER, 0.0) == 0
    assert throttle.delay_of_role("shop", "ann", 0.0) == 0


def test_addresses_of_one_ipv6_network_count_as_one() -> None:
    throttle = after(MOST_FAILURES, address="2001:db8:1:2::1")
    assert throttle.turn("shop", "2001:db8:1:2:ffff::9%eth0", 0.0) == 2.5
    assert throttle.turn("shop", "2001:db8:1:3::1", 0.0) == 0


def test_those_that_failed_longest_ago_are_forgotten_when_there_are_too_many() -> None:
    throttle = after(MOST_FAILURES)
    for number in range(REMEMBERED):
        throttle.failed("shop", f"10.0.{number // 250}.{number % 250}", "bob", 1.0)
    assert throttle.turn("shop", GUESSER, 1.0) == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=60), st.floats(0.1, 60))
def test_nobody_ever_waits_longer_than_the_most(steps: list[tuple[bool, float]], most_s: float) -> None:
    throttle = Throttle(max_delay_s=most_s)
    now_s = 0.0
    for fails, later_s in steps:
        now_s += later_s
        if fails:
            throttle.failed("shop", GUESSER, "ann", now_s)
        wait_s = throttle.turn("shop", GUESSER, now_s)
        assert wait_s is None or 0 <= wait_s <= most_s
        assert 0 <= throttle.delay_of_role("shop", "ann", now_s) <= most_s
