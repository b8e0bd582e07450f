"""Who gets how much of a node, by value and for any claims."""

from hypothesis import given, settings
from hypothesis import strategies as st

from zorya.core.capacity import STEP
from zorya.scaling.shares import Claim, allot


def steps(most: int) -> st.SearchStrategy[float]:
    return st.integers(1, most).map(lambda count: count * STEP)


@st.composite
def claims(draw: st.DrawFn) -> list[Claim]:
    names = draw(st.lists(st.text("abcdef", min_size=1, max_size=3), max_size=12, unique=True))
    return [
        Claim(
            name=name,
            wanted=draw(steps(40)),
            least=draw(steps(8)),
            weight=draw(st.sampled_from([0.5, 1.0, 2.0, 3.0, 16.0])),
        )
        for name in names
    ]


def claim(name: str, wanted: float, *, least: float = 0.5, weight: float = 1.0) -> Claim:
    return Claim(name=name, wanted=wanted, least=least, weight=weight)


def test_all_get_what_they_want_when_it_fits() -> None:
    assert allot([claim("a", 3), claim("b", 5)], 8) == {"a": 3, "b": 5}


def test_shares_go_by_weight_when_it_does_not_fit() -> None:
    assert allot([claim("a", 20, weight=1), claim("b", 20, weight=3)], 13) == {"a": 3.5, "b": 9.5}


def test_what_one_does_not_want_is_the_others() -> None:
    assert allot([claim("a", 1), claim("b", 20), claim("c", 20)], 9) == {"a": 1, "b": 4, "c": 4}


def test_leasts_are_given_even_when_the_node_has_less() -> None:
    assert allot([claim("a", 8, least=4), claim("b", 8, least=2)], 1) == {"a": 4, "b": 2}


def test_step_that_nobody_deserves_more_goes_by_name() -> None:
    assert allot([claim("b", 8), claim("a", 8)], 1.5) == {"a": 1.0, "b": 0.5}


def test_claim_without_weight_gets_what_the_others_leave() -> None:
    assert allot([claim("a", 4, weight=0), claim("b", 2)], 3) == {"a": 1.0, "b": 2.0}


@given(claims(), steps(200))
@settings(max_examples=40)
def test_nobody_gets_less_than_its_least_or_more_than_it_wants(wanted: list[Claim], node: float) -> None:
    granted = allot(wanted, node)
    assert granted.keys() == {each.name for each in wanted}
    for each in wanted:
        assert each.least <= granted[each.name] <= max(each.wanted, each.least)
        assert granted[each.name] % STEP == 0


@given(claims(), st.floats(min_value=0.5, max_value=100))
@settings(max_examples=40)
def test_no_step_is_left_while_somebody_wants_one(wanted: list[Claim], node: float) -> None:
    granted = allot(wanted, node)
    total, leasts = sum(granted.values()), sum(each.least for each in wanted)
    assert total <= max(node, leasts)
    if any(granted[each.name] < each.wanted for each in wanted):
        assert total + STEP > node


@given(claims(), steps(200))
@settings(max_examples=40)
def test_nobody_has_had_more_for_its_weight_than_one_who_waits(wanted: list[Claim], node: float) -> None:
    granted = allot(wanted, node)
    for waits in (each for each in wanted if granted[each.name] < each.wanted):
        next_share = (granted[waits.name] - waits.least + STEP) / waits.weight
        for other in wanted:
            assert (granted[other.name] - other.least) / other.weight <= next_share


@given(claims(), steps(200))
@settings(max_examples=40)
def test_order_of_the_claims_does_not_matter(wanted: list[Claim], node: float) -> None:
    assert allot(wanted, node) == allot(sorted(wanted, key=lambda each: each.name), node)


@given(claims(), steps(200))
@settings(max_examples=40)
def test_larger_node_gives_nobody_less(wanted: list[Claim], node: float) -> None:
    before, after = allot(wanted, node), allot(wanted, node + STEP)
    assert all(after[name] >= before[name] for name in before)
