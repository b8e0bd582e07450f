"""Which copies a volume has, where they are, and by whose number the rule for commits goes."""

from dataclasses import replace
from pathlib import Path

import pytest

from zorya.core.volume import CopyKind
from zorya.storage import placement


def folder_of(zone: str) -> Path:
    return Path("/zones", zone, "abcdefgh")


@pytest.mark.parametrize(
    ("copies", "names"),
    [
        (1, ["a_full"]),
        (3, ["a_full", "b_full", "c_full"]),
        (6, ["a_full", "a_tail", "b_full", "b_tail", "c_full", "c_tail"]),
    ],
)
def test_new_volume_has_its_copies_in_all_zones_and_goes_by_their_number(copies: int, names: list[str]) -> None:
    volume = placement.new_volume(copies, folder_of)
    assert [one.name for one in volume.copies] == names
    assert volume.established == tuple(names)
    assert volume.is_established
    assert (volume.primary, volume.epoch.number, volume.epoch.copy) == ("a_full", 1, "a_full")
    assert all(one.folder == folder_of(one.zone) for one in volume.copies)


@pytest.mark.parametrize("copies", [3, 6])
def test_rule_stays_until_the_copies_are_there_when_a_volume_gets_more(copies: int) -> None:
    grown = placement.resize(placement.new_volume(1, folder_of), copies, folder_of)
    assert len(grown.copies) == copies
    assert grown.established == ("a_full",)
    assert not grown.is_established


def test_rule_of_three_stays_when_three_become_six() -> None:
    grown = placement.resize(placement.new_volume(3, folder_of), 6, folder_of)
    assert grown.established == ("a_full", "b_full", "c_full")


def test_copies_stay_where_they_are_when_the_zones_have_other_folders_now() -> None:
    before = placement.new_volume(3, folder_of)
    after = placement.resize(before, 6, lambda zone: Path("/elsewhere", zone))
    assert {one.folder for one in after.copies} == {one.folder for one in before.copies}


@pytest.mark.parametrize("copies", [1, 3])
def test_smaller_volume_goes_by_its_own_number_at_once(copies: int) -> None:
    smaller = placement.resize(placement.new_volume(6, folder_of), copies, folder_of)
    assert len(smaller.copies) == copies
    assert smaller.is_established
    assert all(one.kind is CopyKind.FULL for one in smaller.copies)


def test_primary_is_the_one_copy_that_is_left_wherever_it_is() -> None:
    moved = replace(placement.new_volume(6, folder_of), primary="c_full")
    assert [one.name for one in placement.resize(moved, 1, folder_of).copies] == ["c_full"]
