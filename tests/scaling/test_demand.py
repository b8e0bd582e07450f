"""Two readings of counters, and what was wanted between them."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zorya.scaling.demand import BLOCK_BYTES, Demand, Reading, between

BEFORE = Reading(
    at_s=100.0,
    cpu_s=40.0,
    throttled_s=3.0,
    waited_s=7.0,
    memory_bytes=900,
    unreclaimable_bytes=500,
    warm_bytes=200,
    refaults=1000,
    oom_kills=2,
    sessions=5,
    at_work=1,
    waiting=0,
    blocks_hit=10_000,
    blocks_read=2000,
)
COUNTERS = ("cpu_s", "throttled_s", "waited_s", "refaults", "oom_kills", "blocks_hit", "blocks_read")


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    counts = st.none() | st.integers(0, 10**15)
    seconds = st.floats(0, 1e9)
    return Reading(
        at_s=draw(seconds),
        cpu_s=draw(seconds),
        throttled_s=draw(st.none() | seconds),
        waited_s=draw(st.none() | seconds),
        memory_bytes=draw(st.integers(0, 2**45)),
        unreclaimable_bytes=draw(st.integers(0, 2**45)),
        warm_bytes=draw(st.integers(0, 2**45)),
        refaults=draw(counts),
        oom_kills=draw(counts),
        sessions=draw(st.integers(0, 10**5)),
        at_work=draw(st.integers(0, 10**5)),
        waiting=draw(st.integers(0, 10**5)),
        blocks_hit=draw(counts),
        blocks_read=draw(counts),
    )


def test_counters_become_what_was_wanted_in_a_second() -> None:
    after = replace(
        BEFORE,
        at_s=102.0,
        cpu_s=43.0,
        throttled_s=3.5,
        waited_s=8.0,
        memory_bytes=1000,
        unreclaimable_bytes=600,
        refaults=1100,
        oom_kills=3,
        at_work=4,
        waiting=2,
        blocks_hit=10_900,
        blocks_read=2100,
    )
    demand = between(BEFORE, after)
    assert (demand.cores, demand.throttled, demand.waiting_cores) == (1.5, 0.25, 0.5)
    assert (demand.memory_bytes, demand.unreclaimable_bytes, demand.warm_bytes) == (1000, 600, 200)
    assert (demand.sessions, demand.at_work, demand.waiting, demand.oom_kills) == (5, 4, 2, 1)
    assert demand.read_bytes_s == 50 * BLOCK_BYTES
    assert demand.refault_bytes_s > 0
    assert demand.hit_ratio == 0.9


def test_a_tenth_of_a_second_is_told_as_a_rate() -> None:
    demand = between(BEFORE, replace(BEFORE, at_s=100.1, cpu_s=40.2, throttled_s=3.5))
    assert demand.cores == pytest.approx(2.0)
    # The kernel counts it on each core.
    assert demand.throttled == 1.0


@pytest.mark.parametrize("counter", COUNTERS)
def test_counter_that_began_anew_says_nothing(counter: str) -> None:
    risen = replace(BEFORE, at_s=101.0, **{name: getattr(BEFORE, name) + 1 for name in COUNTERS})
    fallen = replace(risen, **{counter: 0})
    changed = {
        field.name
        for field in fields(Demand)
        if getattr(between(BEFORE, risen), field.name) != getattr(between(BEFORE, fallen), field.name)
    }
    assert changed
    assert (
        changed
        <= {
            "cpu_s": {"cores"},
            "throttled_s": {"throttled"},
            "waited_s": {"waiting_cores"},
            "refaults": {"refault_bytes_s"},
            "oom_kills": {"oom_kills"},
            "blocks_hit": {"hit_ratio"},
            "blocks_read": {"hit_ratio", "read_bytes_s"},
        }[counter]
    )


@pytest.mark.parametrize("counter", COUNTERS[1:])
def test_counter_that_nobody_has_says_nothing(counter: str) -> None:
    nothing: dict[str, Any] = {counter: None}
    after = replace(BEFORE, at_s=101.0, **{name: getattr(BEFORE, name) + 8 for name in COUNTERS})
    gone = between(BEFORE, replace(after, **nothing))
    assert between(replace(BEFORE, **nothing), after) == gone
    assert gone != between(BEFORE, after)


def test_nothing_needed_has_no_hit_ratio() -> None:
    assert between(BEFORE, replace(BEFORE, at_s=101.0)).hit_ratio is None


@given(readings(), readings())
@settings(max_examples=40)
def test_no_readings_make_a_negative_demand(before: Reading, after: Reading) -> None:
    demand = between(before, after)
    assert all((getattr(demand, field.name) or 0) >= 0 for field in fields(Demand))
    assert demand.throttled <= 1
    assert demand.hit_ratio is None or demand.hit_ratio <= 1


@given(readings(), st.floats(0.1, 100))
@settings(max_examples=40)
def test_rates_are_those_of_the_parts_when_time_is_cut(before: Reading, span_s: float) -> None:
    before = replace(before, cpu_s=before.cpu_s % 1000, at_s=before.at_s % 1000)
    middle = replace(before, at_s=before.at_s + span_s, cpu_s=before.cpu_s + 1)
    after = replace(middle, at_s=middle.at_s + span_s, cpu_s=middle.cpu_s + 3)
    mean = (between(before, middle).cores + between(middle, after).cores) / 2
    assert between(before, after).cores == pytest.approx(mean)
