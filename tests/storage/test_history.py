"""Where a copy stands in the history of its volume: by examples, and against logs that were really written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.core.volume import Epoch, Volume
from zorya.storage import history, placement
from zorya.storage.history import Relation
from zorya.storage.quorum import Position


def epoch(number: int, begins_at: int | None) -> Epoch:
    return Epoch(number=number, copy="a_full", timeline=None if begins_at is None else number, begins_at=begins_at)


HISTORY = (epoch(1, 0), epoch(2, 100), epoch(4, 250))


def at(number: int, position: int) -> Position:
    return Position(epoch=number, position=position)


@pytest.mark.parametrize(
    ("joined", "position", "found"),
    [
        (1, 0, at(1, 0)),
        (1, 100, at(1, 100)),
        (1, 170, at(1, 170)),
        (2, 100, at(1, 100)),
        (2, 101, at(2, 101)),
        (4, 100, at(1, 100)),
        (4, 250, at(2, 250)),
        (4, 251, at(4, 251)),
        (3, 90, None),
        (5, 90, None),
    ],
)
def test_the_epoch_of_the_last_record_is_found_when_a_copy_has_joined_one(
    joined: int, position: int, found: Position | None
) -> None:
    assert history.position_of(HISTORY, joined, position) == found


def test_a_copy_keeps_the_epoch_of_its_last_record_when_the_one_it_joined_has_not_begun() -> None:
    assert history.position_of((*HISTORY, epoch(5, None)), 5, 300) == at(4, 300)


@pytest.mark.parametrize(
    ("where", "relation"),
    [
        (at(1, 100), Relation.FOLLOWS),
        (at(1, 101), Relation.DIVERGED),
        (at(2, 250), Relation.FOLLOWS),
        (at(2, 251), Relation.DIVERGED),
        (at(4, 900), Relation.FOLLOWS),
        (None, Relation.UNKNOWN),
    ],
)
def test_a_copy_can_follow_when_it_has_no_more_than_the_next_epoch_began_with(
    where: Position | None, relation: Relation
) -> None:
    assert history.can_follow(HISTORY, where) is relation


def test_a_copy_has_diverged_when_an_epoch_after_the_next_began_with_less() -> None:
    epochs = (epoch(1, 0), epoch(2, 100), epoch(3, 95))
    assert history.can_follow(epochs, at(1, 98)) is Relation.DIVERGED
    assert history.can_follow(epochs, at(2, 120)) is Relation.DIVERGED
    assert history.can_follow(epochs, at(1, 95)) is Relation.FOLLOWS


@pytest.mark.parametrize(("joined", "begun", "mark"), [(3, False, 2), (3, True, 3), (4, False, 4), (5, False, 4)])
def test_a_mark_is_set_back_when_its_epoch_was_abandoned_and_the_copy_did_not_begin_it(
    joined: int, begun: bool, mark: int
) -> None:
    assert history.mark_of(HISTORY, joined, begun=begun) == mark


def new_volume() -> Volume:
    return placement.new_volume(6, lambda zone: Path("/", zone))


def test_the_number_of_an_epoch_is_not_given_again_when_it_was_abandoned() -> None:
    volume = history.begin(new_volume(), "b_full")
    assert (volume.primary, volume.epoch.number, volume.epoch.begins_at) == ("b_full", 2, None)
    volume = history.abandon(volume)
    assert (volume.primary, volume.epoch.number, volume.last_epoch) == ("a_full", 1, 2)
    volume = history.began(history.begin(volume, "c_full"), 2, 70)
    assert volume.epoch == Epoch(number=3, copy="c_full", timeline=2, begins_at=70)
    assert [one.number for one in volume.epochs] == [1, 3]


@dataclass(frozen=True, slots=True)
class Step:
    """One epoch: how much of the log before it the election found, and how much it wrote."""

    found: float
    wrote: int
    is_abandoned: bool


steps = st.builds(Step, found=st.floats(0, 1), wrote=st.integers(0, 5), is_abandoned=st.booleans())


def written(plan: Sequence[Step]) -> tuple[Volume, dict[int, list[int]]]:
    """Answer a volume after these epochs, and each epoch's whole log: the epoch of each record."""
    volume, logs = new_volume(), {1: [1, 1, 1]}
    for step in plan:
        before = logs[volume.epoch.number]
        # Those that count are beginnings of the last log.
        found = before[: round(step.found * len(before))]
        volume = history.begin(volume, "b_full")
        if step.is_abandoned:
            volume = history.abandon(volume)
        else:
            volume = history.began(volume, volume.epoch.number, len(found))
            logs[volume.epoch.number] = [*found, *[volume.epoch.number] * step.wrote]
    return volume, logs


@given(st.lists(steps, max_size=6), st.data())
def test_what_is_said_of_a_copy_is_true_of_its_log_when_it_has_any_part_of_any_epochs_log(
    plan: list[Step], data: st.DataObject
) -> None:
    volume, logs = written(plan)
    joined = data.draw(st.sampled_from(sorted(logs)))
    log = logs[joined][: data.draw(st.integers(0, len(logs[joined])))]
    position = history.position_of(volume.epochs, joined, len(log))
    assert position is not None
    assert position == at(log[-1] if log else 1, len(log))
    # Two epochs' records are never the same, so a beginning by the epochs of its records is one by its records.
    last = logs[volume.epoch.number]
    follows = history.can_follow(volume.epochs, position) is Relation.FOLLOWS
    assert follows == (log == last[: len(log)] or len(log) <= _shared(volume, joined, logs))


def _shared(volume: Volume, joined: int, logs: dict[int, list[int]]) -> int:
    """Answer how much the log of this epoch shares with the last: all that each later one took from the one before."""
    begins = [one.begins_at for one in volume.epochs if one.number > joined and one.begins_at is not None]
    return min([len(logs[joined]), *begins])
