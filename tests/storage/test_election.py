"""Which log is gone on from: by examples, those of the proof among them, and for any copies."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from zorya.core.volume import CopyKind, Epoch
from zorya.storage import election, history, placement, quorum
from zorya.storage.election import Choice, Refusal, Seen
from zorya.storage.history import Relation
from zorya.storage.quorum import Position

COPIES = {copy.name: copy for copy in placement.new_volume(6, lambda zone: Path("/", zone)).copies}
RULE = quorum.rule(6)
ONE = (Epoch(number=1, copy="a_full", timeline=1, begins_at=0),)
TWO = (*ONE, Epoch(number=2, copy="b_full", timeline=2, begins_at=100))


def seen(**positions: tuple[int, int]) -> list[Seen]:
    """Answer all six copies, those that are named at these epochs and positions, the others out of reach."""
    at = {name: Position(epoch=epoch, position=position) for name, (epoch, position) in positions.items()}
    return [Seen(copy=copy, position=at.get(name), begins_at=0) for name, copy in COPIES.items()]


def chosen(answer: Choice | Refusal) -> Choice:
    assert isinstance(answer, Choice), answer
    return answer


def refused(answer: Choice | Refusal) -> Refusal:
    assert isinstance(answer, Refusal), answer
    return answer


def test_the_furthest_full_copy_gets_the_log_of_a_tail_when_that_goes_further() -> None:
    answer = chosen(election.choose(RULE, seen(b_full=(1, 80), c_full=(1, 90), c_tail=(1, 95)), epochs=ONE))
    assert (answer.candidate, answer.source, answer.position) == ("c_full", "c_tail", Position(epoch=1, position=95))
    assert "c_tail" in answer.reason


def test_the_candidate_is_its_own_source_when_no_log_goes_further() -> None:
    answer = chosen(election.choose(RULE, seen(b_full=(1, 90), a_tail=(1, 90), b_tail=(1, 90)), epochs=ONE))
    assert answer.candidate == answer.source == "b_full"


def test_the_preferred_copy_is_chosen_when_others_are_as_far_and_only_then() -> None:
    even = seen(b_full=(1, 90), c_full=(1, 90), c_tail=(1, 90))
    assert chosen(election.choose(RULE, even, epochs=ONE)).candidate == "b_full"
    assert chosen(election.choose(RULE, even, epochs=ONE, prefer="c_full")).candidate == "c_full"
    uneven = seen(b_full=(1, 91), c_full=(1, 90), c_tail=(1, 90))
    assert chosen(election.choose(RULE, uneven, epochs=ONE, prefer="c_full")).candidate == "b_full"


def test_the_commit_is_kept_when_a_copy_without_it_has_joined_a_later_epoch() -> None:
    """The example of the proof: c_tail joined epoch 2 and got no log of it; a_tail has the commit, of epoch 1."""
    positions = {
        "c_full": history.position_of(TWO, 2, 90),
        "a_tail": history.position_of(TWO, 1, 100),
        "c_tail": history.position_of(TWO, 2, 90),
    }
    found = [Seen(copy=COPIES[name], position=position) for name, position in positions.items()]
    answer = chosen(election.choose(RULE, found, epochs=TWO))
    assert (answer.source, answer.position) == ("a_tail", Position(epoch=1, position=100))


def test_a_short_log_of_a_later_epoch_is_chosen_when_a_longer_one_is_of_an_earlier() -> None:
    found = seen(c_full=(1, 95), a_tail=(2, 103), b_tail=(2, 101), c_tail=(1, 180))
    answer = chosen(election.choose(RULE, found, epochs=TWO))
    assert (answer.candidate, answer.source) == ("c_full", "a_tail")


def test_a_full_copy_does_not_become_the_primary_when_it_has_diverged() -> None:
    found = seen(a_full=(1, 120), c_full=(1, 60), a_tail=(2, 110), b_tail=(2, 110))
    assert chosen(election.choose(RULE, found, epochs=TWO)).candidate == "c_full"
    alone = seen(a_full=(1, 120), a_tail=(2, 110), b_tail=(2, 110), c_tail=(2, 110))
    assert "data" in refused(election.choose(RULE, alone, epochs=TWO)).reason


def test_a_tail_does_not_count_when_its_log_begins_after_the_candidates_ends() -> None:
    found = [
        replace(one, begins_at=95) if one.copy.name == "c_tail" else one
        for one in seen(b_full=(1, 90), c_full=(1, 80), b_tail=(1, 85), c_tail=(1, 120))
    ]
    answer = chosen(election.choose(RULE, found, epochs=ONE))
    assert (answer.candidate, answer.source) == ("b_full", "b_full")
    without = [one for one in found if one.copy.name != "b_tail"]
    assert "c_tail" in refused(election.choose(RULE, without, epochs=ONE)).reason


def test_nothing_is_chosen_when_fewer_copies_than_have_to_be_read_are_there() -> None:
    refusal = refused(election.choose(RULE, seen(b_full=(1, 90), b_tail=(1, 90)), epochs=ONE))
    assert "2 copies of 6" in refusal.reason
    assert refusal.hint


def test_nothing_is_chosen_when_only_tails_are_there() -> None:
    tails = seen(a_tail=(1, 90), b_tail=(1, 90), c_tail=(1, 90))
    assert "data" in refused(election.choose(RULE, tails, epochs=ONE)).reason
    assert "data" in refused(election.after_loss(tails, epochs=ONE)).reason


def test_the_furthest_there_is_is_gone_on_from_when_a_loss_is_accepted() -> None:
    answer = chosen(election.after_loss(seen(b_full=(1, 80), b_tail=(1, 90)), epochs=ONE))
    assert (answer.candidate, answer.source) == ("b_full", "b_tail")


def test_a_diverged_copy_is_gone_on_from_alone_when_a_loss_is_accepted_and_no_other_has_data() -> None:
    answer = chosen(election.after_loss(seen(a_full=(1, 120), b_tail=(2, 150)), epochs=TWO))
    assert answer.candidate == answer.source == "a_full"


positions = st.builds(Position, epoch=st.integers(1, 2), position=st.integers(0, 200))
volumes = st.fixed_dictionaries({name: st.none() | positions for name in COPIES})


@given(volumes, st.sampled_from(["", *COPIES]))
def test_the_choice_is_the_furthest_that_counts_when_there_is_one(
    found: dict[str, Position | None], prefer: str
) -> None:
    everything = [Seen(copy=copy, position=found[name]) for name, copy in COPIES.items()]
    answer = election.choose(RULE, everything, epochs=TWO, prefer=prefer)
    counted = {
        name: position
        for name, position in found.items()
        if position is not None and history.can_follow(TWO, position) is Relation.FOLLOWS
    }
    fulls = [name for name in counted if COPIES[name].kind is CopyKind.FULL]
    assert isinstance(answer, Choice) == (len(counted) >= RULE.read and bool(fulls))
    if isinstance(answer, Choice):
        assert counted[answer.source] == answer.position == max(counted.values())
        assert answer.candidate in fulls
        assert counted[answer.candidate] == max(counted[name] for name in fulls)
        if prefer in fulls and counted[prefer] == counted[answer.candidate]:
            assert answer.candidate == prefer


@given(volumes, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_when_copies_are_seen_in_any(found, random) -> None:  # type: ignore[no-untyped-def]
    everything = [Seen(copy=copy, position=found[name]) for name, copy in COPIES.items()]
    shuffled = random.sample(everything, len(everything))
    assert election.choose(RULE, everything, epochs=TWO) == election.choose(RULE, shuffled, epochs=TWO)


@given(st.data())
def test_a_commit_is_in_the_chosen_log_when_it_was_on_as_many_copies_as_the_rule_says(data: st.DataObject) -> None:
    commit = data.draw(st.integers(1, 100))
    names = data.draw(st.permutations(list(COPIES)))
    far = st.integers(commit, 100)
    ends = {name: data.draw(far if place < RULE.write else st.integers(0, 100)) for place, name in enumerate(names)}
    reached = data.draw(st.sets(st.sampled_from(list(COPIES)), min_size=RULE.read))
    everything = seen(**{name: (1, ends[name]) for name in reached})
    answer = election.choose(RULE, everything, epochs=ONE)
    if isinstance(answer, Choice):
        assert answer.position.position >= commit
    else:
        assert all(COPIES[name].kind is CopyKind.TAIL for name in reached)
