"""One event when many logins fail, not one a failure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.control import logins
from zorya.control.logins import MANY, REMEMBERED, TELL_EVERY_S, FailedLogins


def guess(failed: FailedLogins, times: list[float], *, address: str = "10.0.0.9", role: str = "admin") -> list[str]:
    return [reason for at in times if (reason := failed.note(address, role, at))]


def test_mistyping_is_not_told() -> None:
    assert guess(FailedLogins(), [0.0] * (MANY - 1)) == []
    assert guess(FailedLogins(), [n * 7.0 for n in range(1000)]) == []


def test_it_is_told_once_when_there_are_many_and_then_once_an_hour() -> None:
    failed = FailedLogins()
    told = [at for at in range(3 * 3600) if failed.note("10.0.0.9", "admin", float(at))]
    assert told == [MANY - 1, MANY - 1 + 3600, MANY - 1 + 7200]


def test_an_event_says_how_many_failed_since_the_last() -> None:
    failed = FailedLogins()
    assert guess(failed, [0.0] * MANY) == ['10 logins failed within 1 minute, from 10.0.0.9; as "admin".']
    assert guess(failed, [float(at) for at in range(1, 3600)]) == []
    (reason,) = guess(failed, [TELL_EVERY_S])
    assert reason == '3600 logins failed within 60 minutes, from 10.0.0.9; as "admin".'


def test_an_event_names_the_most_frequent_address_and_roles() -> None:
    failed = FailedLogins()
    guess(failed, [0.0] * 5, address="10.0.0.1", role="postgres")
    for number in range(3):
        guess(failed, [1.0], address=f"10.0.1.{number}", role=f"role{number}")
    (reason,) = guess(failed, [2.0, 2.0], address="10.0.0.2", role="admin")
    assert "from 5 addresses, 5 of them from 10.0.0.1" in reason
    assert 'as "postgres", "admin", "role0" and 2 more.' in reason


def test_the_count_begins_anew_after_an_hour_without_a_failure() -> None:
    failed = FailedLogins()
    guess(failed, [0.0] * 9)
    (reason,) = guess(failed, [TELL_EVERY_S] * MANY)
    assert reason.startswith("10 logins failed within 1 minute")


def test_memory_stays_bounded_when_addresses_and_roles_are_made_up() -> None:
    failed = FailedLogins()
    guess(failed, [0.0] * MANY)
    for number in range(5000):
        failed.note(f"10.1.{number // 256}.{number % 256}", f"role{number}" * 50, 1.0)
    (reason,) = guess(failed, [TELL_EVERY_S - 1] * MANY + [TELL_EVERY_S])
    assert f"from at least {REMEMBERED} addresses" in reason
    assert reason.startswith("5011 logins failed")
    assert len(reason) < 400


@pytest.mark.parametrize(
    ("role", "shown"),
    [
        ("admin", "admin"),
        ("a\n2026-01-01 FATAL", r"a\n2026-01-01 FATAL"),
        ("\x1b[2J", r"\x1b[2J"),
        ('a" and "b', "a' and 'b"),
        ("\udcff", r"\udcff"),
        ("x" * 10_000, "x" * 32 + "…"),
        ("käse", "käse"),
    ],
)
def test_a_roles_name_is_short_and_printable(role: str, shown: str) -> None:
    assert logins.shown_role(role) == shown


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0, max_value=600),
            st.sampled_from(["10.0.0.1", "10.0.0.2", "::1"]),
            st.text(max_size=80),
        ),
        max_size=200,
    )
)
def test_no_failure_is_lost_or_counted_twice(failures: list[tuple[float, str, str]]) -> None:
    failed, now_s, told = FailedLogins(), 0.0, 0
    since = 0
    for pause_s, address, role in failures:
        now_s += pause_s
        since += 1
        reason = failed.note(address, role, now_s)
        if reason:
            assert reason.isprintable()
            assert int(reason.split()[0]) == since
            told, since = told + 1, 0
    assert told <= 1 + now_s / TELL_EVERY_S
