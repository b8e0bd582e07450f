"""What a cluster is given, by value and for any load."""

from dataclasses import replace
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.driving import ACU, BOUNDS, GIB, MIB, REST, Driven, changes, rises
from zorya.core.capacity import STEP, Bounds
from zorya.scaling import policy
from zorya.scaling.demand import Demand
from zorya.scaling.needs import CAPPED_LASTS_S, KILL_LASTS_S, NEED_LASTS_S
from zorya.scaling.policy import READS_LAST_S, SETTLE_S, Part

LASTS = {True: NEED_LASTS_S, False: CAPPED_LASTS_S}
both = pytest.mark.parametrize("burst", [True, False])
bursts = st.booleans()


def busy(cores: float, at_work: int | None = None) -> Demand:
    at_work = ceil(cores) if at_work is None else at_work
    return replace(REST, cores=cores, sessions=at_work, at_work=at_work)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    figures = st.sampled_from([0.0, 0.001, 0.1, 1.0, 7.3, 1e3])
    sizes = st.sampled_from([0, MIB, GIB, 30 * GIB, 2**50])
    counts = st.sampled_from([0, 1, 60, 10**5])
    return Demand(
        cores=draw(figures),
        throttled=draw(st.sampled_from([0.0, 0.2, 1.0])),
        waiting_cores=draw(figures),
        memory_bytes=draw(sizes),
        unreclaimable_bytes=draw(sizes),
        warm_bytes=draw(sizes),
        read_bytes_s=draw(figures) * MIB,
        refault_bytes_s=draw(figures) * MIB,
        hit_ratio=draw(st.none() | st.just(0.5)),
        sessions=draw(counts),
        at_work=draw(counts),
        waiting=draw(counts),
        oom_kills=draw(st.sampled_from([0, 0, 0, 2])),
    )


@given(st.data())
@settings(max_examples=60)
def test_every_situation_has_a_step_within_the_bounds_and_a_sentence(data: st.DataObject) -> None:
    least, most = sorted(data.draw(st.tuples(*[st.sampled_from([0.5, 1.0, 8.0, 256.0])] * 2)))
    cluster = Driven(bounds=Bounds(least=least, most=most), burst=data.draw(bursts), known=False)
    for _ in range(8):
        cluster.capacity = data.draw(st.sampled_from([0.0, 0.5, 3.0, 8.0, 300.0]))
        if data.draw(st.booleans()):
            cluster.history = policy.set_by_hand(cluster.history, cluster.now_s + 20)
        demand = data.draw(demands())
        decision = cluster.look(demand, data.draw(st.sampled_from([0.0, 0.1, 1.0, 31.0, 1e6])))
        assert least <= decision.capacity <= most
        assert decision.capacity % STEP == 0
        assert decision.reason.endswith(".")
        assert decision.capacity == most or ACU.memory_of(decision.capacity) >= demand.unreclaimable_bytes


@both
@pytest.mark.parametrize("after_s", [0.1, 1.0])
def test_saturating_load_is_answered_in_one_decision(*, burst: bool, after_s: float) -> None:
    cluster = Driven(burst=burst)
    cores = 2.0 if burst else 0.125
    decision = cluster.look(replace(busy(cores, at_work=8), throttled=0.0 if burst else 0.9), after_s)
    assert decision.part is Part.CPU
    # Two cores with headroom; or, since nobody can tell, one for each of the eight.
    assert decision.capacity == (10.0 if burst else 40.0)


@pytest.mark.parametrize("cpu_s", [0.003, 0.01, 0.03])
def test_some_ms_of_work_at_rest_change_nothing(cpu_s: float) -> None:
    cluster = Driven()
    assert cluster.look(busy(cpu_s / 0.1), 0.1).capacity == 0.5
    assert set(cluster.run(60, REST)) == {0.5}


def test_cap_that_is_reached_at_least_doubles_the_capacity_until_it_is_not() -> None:
    cluster = Driven(burst=False)
    capacities = cluster.run(10, busy(1.9, at_work=0))
    assert capacities[:4] == [1.0, 2.0, 4.0, 8.0]
    assert changes(capacities[4:]) <= 1
    assert cluster.run(120, busy(1.9))[-1] == 9.5


def test_load_that_stays_above_its_cores_raises_the_capacity_though_burst_covers_it() -> None:
    cluster = Driven(capacity=8.0)
    cluster.run(20, busy(1.6))
    assert cluster.capacity == 8.0
    # It is no jump, but some seconds later the mean is too much for its cores.
    assert cluster.run(10, busy(2.5))[-1] == 12.5


def test_waiting_for_cores_counts_as_far_as_sessions_could_use_them() -> None:
    assert Driven().look(replace(busy(1.0, at_work=3), waiting_cores=9.0)).capacity == 15.0
    assert Driven().look(replace(busy(0.02), waiting_cores=9.0)).capacity <= 5.5
    asleep = replace(busy(0.02, at_work=9), waiting=9, waiting_cores=9.0)
    assert Driven().look(asleep).capacity == 0.5


@both
def test_capacity_falls_only_after_it_was_not_needed_for_a_while(*, burst: bool) -> None:
    cluster = Driven(burst=burst)
    cluster.run(90, busy(1.0, at_work=4))
    high = cluster.capacity
    assert high == 5.0
    calm = cluster.run(int(LASTS[burst]) - 1, REST)
    assert set(calm) == {high}
    decision = cluster.look(REST, 2.0)
    while decision.capacity == high:
        decision = cluster.look(REST)
    assert decision.reason.startswith("Nothing has needed more than")
    assert cluster.run(120, REST)[-1] == 0.5


@given(bursts, st.floats(0, 15), st.integers(0, 100), st.sampled_from([0.5, 4.0, 40.0]), st.floats(0, 20e6))
@settings(max_examples=12)
def test_constant_demand_ends_at_one_capacity(
    burst: bool, cores: float, memory_gib: int, capacity: float, reads: float
) -> None:
    cluster = Driven(capacity=capacity, burst=burst, known=False)
    demand = replace(
        busy(cores, at_work=5), unreclaimable_bytes=memory_gib * GIB, warm_bytes=3 * GIB, read_bytes_s=reads
    )
    cluster.run(int(READS_LAST_S) + 100, demand)
    assert changes(cluster.run(400, demand)) == 0


@given(bursts, st.floats(0.1, 12), st.lists(st.floats(1.0, 1.1), min_size=10, max_size=40))
@settings(max_examples=12)
def test_demand_that_varies_a_little_does_not_have_the_capacity_follow(
    burst: bool, cores: float, factors: list[float]
) -> None:
    cluster = Driven(burst=burst)
    capacities = cluster.run(500, lambda second: busy(cores * factors[second % len(factors)]))
    assert rises(capacities[120:]) <= 1
    assert changes(capacities[120:]) <= 3


@given(bursts, st.integers(5, 14), st.integers(1, 14), st.floats(0.5, 12), st.booleans())
@settings(max_examples=12)
def test_square_wave_faster_than_needs_are_forgotten_changes_nothing(
    burst: bool, high_s: int, low_s: int, cores: float, counted: bool
) -> None:
    cluster = Driven(burst=burst)
    high = busy(cores) if counted else busy(cores, at_work=0)

    def wave(second: int) -> Demand:
        return high if second % (high_s + low_s) < high_s else REST

    assert changes(cluster.run(400, wave)[200:]) == 0


@given(bursts, st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.1, 1.0, 9.0])), max_size=12))
@settings(max_examples=12)
def test_falls_are_never_close_to_each_other(burst: bool, spells: list[tuple[int, float]]) -> None:
    cluster = Driven(burst=burst)
    course = [cores for length, cores in spells for _ in range(length)]
    capacities = cluster.run(len(course), lambda second: busy(course[second]))
    fell = [second for second in range(1, len(capacities)) if capacities[second] < capacities[second - 1]]
    assert all(later - earlier >= SETTLE_S for earlier, later in pairwise(fell))


def test_first_decision_after_a_long_time_goes_straight_to_what_is_needed() -> None:
    cluster = Driven()
    cluster.run(20, busy(4.0))
    assert cluster.capacity == 20.0
    assert cluster.look(REST, 3600).capacity == 0.5


def test_first_look_after_a_freeze_is_not_taken_for_a_load() -> None:
    cluster = Driven()
    cluster.run(60, REST)
    assert cluster.look(busy(0.3), 3600).capacity == 0.5
    assert cluster.look(busy(4.0), 3600).capacity == 20.0


def test_cluster_that_was_just_found_keeps_its_capacity_for_a_while() -> None:
    cluster = Driven(capacity=6.0, known=False)
    assert set(cluster.run(int(NEED_LASTS_S), REST)) == {6.0}
    assert cluster.run(20, REST)[-1] == 0.5


def test_thousand_idle_sessions_ask_for_nothing_but_their_memory() -> None:
    cluster = Driven()
    assert set(cluster.run(90, replace(REST, sessions=1000))) == {0.5}
    decision = cluster.look(replace(REST, sessions=1000, unreclaimable_bytes=3 * GIB))
    assert (decision.part, decision.capacity) == (Part.MEMORY, 2.0)
    assert decision.reason == "Its memory in use is 3.0 GiB."


def test_sessions_at_work_ask_for_memory_before_they_use_it() -> None:
    decision = Driven().look(busy(0.05, at_work=256))
    assert (decision.part, decision.capacity) == (Part.SESSIONS, 4.0)


def test_page_cache_is_kept_as_long_as_it_is_read() -> None:
    cluster = Driven(capacity=4.0)
    reading = replace(REST, warm_bytes=5 * GIB, read_bytes_s=50 * MIB)
    assert cluster.run(400, reading)[-1] == 3.0
    idle = replace(reading, read_bytes_s=0.0)
    assert set(cluster.run(180, idle)) == {3.0}
    assert cluster.run(200, idle)[-1] == 0.5


def test_page_cache_that_is_hardly_read_asks_for_no_more_than_was_read() -> None:
    cluster = Driven(capacity=16.0)
    assert cluster.run(700, replace(REST, warm_bytes=20 * GIB, read_bytes_s=5 * MIB))[-1] == 1.0


def test_page_cache_of_a_cluster_that_was_just_found_is_kept_for_some_minutes() -> None:
    cluster = Driven(capacity=4.0, known=False)
    assert cluster.run(200, replace(REST, warm_bytes=5 * GIB))[-1] == 3.0
    assert cluster.run(200, replace(REST, warm_bytes=5 * GIB))[-1] == 0.5


def test_memory_that_is_needed_again_is_given_back_at_once() -> None:
    cluster = Driven(capacity=1.0)
    storm = replace(REST, warm_bytes=1600 * MIB, read_bytes_s=800 * MIB, refault_bytes_s=400 * MIB)
    grown = cluster.run(5, storm)
    assert rises([1.0, *grown]) >= 3
    assert ACU.memory_of(cluster.capacity) >= 1600 * MIB + 5 * 400 * MIB


@both
def test_kill_for_want_of_memory_doubles_the_capacity_for_minutes(*, burst: bool) -> None:
    cluster = Driven(capacity=2.0, burst=burst)
    decision = cluster.look(replace(REST, oom_kills=1))
    assert (decision.part, decision.capacity) == (Part.MEMORY, 4.0)
    assert decision.reason == "Processes that the kernel ended for want of memory: 1."
    assert set(cluster.run(int(KILL_LASTS_S) - 1, REST)) == {4.0}
    assert cluster.run(60, REST)[-1] == 0.5


def test_capacity_set_by_hand_stays_until_its_time() -> None:
    cluster = Driven(capacity=3.0)
    cluster.history = policy.set_by_hand(cluster.history, cluster.now_s + 100)
    assert set(cluster.run(40, REST)) == {3.0}
    decision = cluster.look(busy(8.0))
    assert (decision.part, decision.capacity) == (Part.HAND, 3.0)
    cluster.run(60, REST)
    assert cluster.capacity == 0.5


def test_capacity_set_by_hand_rises_for_memory_in_use() -> None:
    cluster = Driven(capacity=1.0)
    cluster.history = policy.set_by_hand(cluster.history, cluster.now_s + 100)
    assert cluster.look(replace(REST, warm_bytes=9 * GIB, read_bytes_s=9 * GIB)).part is Part.HAND
    decision = cluster.look(replace(REST, unreclaimable_bytes=4 * GIB))
    assert (decision.part, decision.capacity) == (Part.MEMORY, 2.5)
    assert cluster.look(replace(REST, oom_kills=1)).capacity == 5.0


def test_who_asked_is_named_and_the_least_where_nobody_did() -> None:
    cluster = Driven(bounds=Bounds(least=1.0, most=4.0))
    least = cluster.look(REST)
    assert (least.capacity, least.part, least.reason) == (1.0, Part.BOUNDS, "Its capacity is to be 1 to 4 ACUs.")
    assert cluster.look(REST).reason == "Nothing needs more than 1 ACUs."
    most = cluster.look(busy(3.0))
    assert (most.capacity, most.part) == (4.0, Part.CPU)
    assert most.reason == "It needs 15 ACUs and may have 4. It uses 3.00 of 0.25 cores."


def test_fixed_capacity_is_what_it_is() -> None:
    cluster = Driven(bounds=Bounds(least=2.0, most=2.0))
    for demand in (REST, busy(9.0), replace(REST, oom_kills=1)):
        decision = cluster.look(demand)
        assert (decision.capacity, decision.part) == (2.0, Part.BOUNDS)


def test_what_a_full_node_withheld_is_asked_for_again() -> None:
    cluster = Driven(burst=False)
    for _ in range(3):
        cluster.capacity = 0.5
        assert cluster.look(replace(busy(0.125, at_work=4), throttled=1.0)).capacity == 20.0


@given(st.lists(demands(), min_size=1, max_size=4), bursts)
@settings(max_examples=8)
def test_history_stays_small(course: list[Demand], burst: bool) -> None:
    cluster = Driven(burst=burst, bounds=BOUNDS)
    for second in range(800):
        cluster.look(course[second % len(course)], 0.5)
    assert len(cluster.history.reads) <= READS_LAST_S / policy.SLICE_S + 1
    assert len(cluster.history.kept) <= 3 * len(course)


@pytest.mark.parametrize("burst", [True, False])
def test_use_that_one_tick_has_shown_counts_at_once_and_not_for_long(burst: bool) -> None:
    cluster = Driven(burst=burst)
    assert cluster.jump(busy(0.01), tick_cores=2.0).capacity > 2
    for _ in range(20):
        cluster.now_s += 1
        cluster.look(REST)
    assert cluster.capacity == 0.5
