"""The unit of capacity and its steps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.core.capacity import LIMIT, STEP, Acu, Bounds, is_capacity, round_down, round_up

capacities = st.floats(min_value=0, max_value=LIMIT)


def test_memory_and_cores_go_with_the_capacity() -> None:
    acu = Acu(memory_bytes=2 * 1024**3, cores=0.25)
    assert acu.memory_of(0.5) == 1024**3
    assert acu.cores_of(16) == 4.0
    assert acu.memory_of(0) == 0


@pytest.mark.parametrize(("wanted", "given_"), [(0.2, 1), (1, 1), (2.5, 2.5), (4, 4), (9, 4)])
def test_bounds_give_the_nearest_capacity_within(wanted: float, given_: float) -> None:
    assert Bounds(least=1, most=4).clamp(wanted) == given_


def test_a_hair_more_than_a_step_is_that_step() -> None:
    assert round_up(0.1 + 0.2 + 0.2) == 0.5
    assert round_up(0.30000000000000004 * 10) == 3.0
    assert round_down(2.9999999999999996) == 3.0


@given(capacities)
def test_rounding_ends_on_the_steps_beside_it(value: float) -> None:
    up, down = round_up(value), round_down(value)
    assert up % STEP == down % STEP == 0
    assert down >= STEP
    assert 0 <= up - down <= STEP
    if value >= STEP:
        assert down - 1e-8 <= value <= up + 1e-8


@given(capacities)
def test_only_steps_up_to_the_limit_are_capacities(value: float) -> None:
    assert is_capacity(round_up(value))
    assert is_capacity(value) == (value in {round_up(value), round_down(value)})


@pytest.mark.parametrize("value", [0, -0.5, 0.25, LIMIT + STEP, math.inf, math.nan])
def test_what_is_no_step_is_no_capacity(value: float) -> None:
    assert not is_capacity(value)
