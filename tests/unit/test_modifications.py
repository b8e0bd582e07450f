"""What a modification makes of a record, and what the event says of it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from zorya.control import modify
from zorya.control.record import ClusterRecord
from zorya.control.view import ModifyRequest
from zorya.core import errors
from zorya.core.model import Access, Compute, EngineKind, Mode, Secret, Status, WakeOn
from zorya.storage import placement

RECORD = ClusterRecord(
    id="abcdefgh",
    name="main",
    port=7400,
    engine=EngineKind.POSTGRES,
    engine_major="15",
    mode=Mode.SERVERLESS,
    status=Status.AVAILABLE,
    compute=Compute.STOPPED,
    reason="",
    min_capacity=0.5,
    max_capacity=4,
    fixed_capacity=None,
    pause_after_s=300,
    freeze_after_s=0.5,
    username="zorya",
    password=Secret("s3cret"),
    next_password=None,
    access=Access(max_clients=5),
    database="main",
    created_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    process=None,
    volume=placement.new_volume(1, lambda _: Path("clusters", "abcdefgh")),
    reader_port=None,
)
NOTHING = modify.NOTHING
PROVISIONED = replace(RECORD, mode=Mode.PROVISIONED, fixed_capacity=2)


def test_nothing_is_changed_and_told_when_nothing_was_asked_for() -> None:
    assert modify.apply(RECORD, NOTHING) == RECORD
    assert modify.describe(RECORD, RECORD) == ""


@pytest.mark.parametrize(
    ("request_", "changed", "told"),
    [
        (
            replace(NOTHING, allow=("10.0.0.0/8", "::1/128")),
            replace(RECORD, access=replace(RECORD.access, allow=("10.0.0.0/8", "::1/128"))),
            "Clients may connect from 10.0.0.0/8, ::1/128.",
        ),
        (
            replace(NOTHING, require_tls=True),
            replace(RECORD, access=replace(RECORD.access, require_tls=True)),
            "TLS is required.",
        ),
        (
            replace(NOTHING, wake_on=WakeOn.ANY),
            replace(RECORD, access=replace(RECORD.access, wake_on=WakeOn.ANY)),
            "It wakes for any client.",
        ),
        (
            replace(NOTHING, max_clients=None),
            replace(RECORD, access=replace(RECORD.access, max_clients=None)),
            "It serves any number of clients at once.",
        ),
        (
            replace(NOTHING, max_clients=9),
            replace(RECORD, access=replace(RECORD.access, max_clients=9)),
            "It serves at most 9 clients at once.",
        ),
        (
            replace(NOTHING, min_capacity=1, max_capacity=8),
            replace(RECORD, min_capacity=1, max_capacity=8),
            "It has between 1 and 8 ACUs.",
        ),
        (
            replace(NOTHING, mode=Mode.PROVISIONED),
            replace(RECORD, mode=Mode.PROVISIONED, fixed_capacity=4),
            "It is provisioned with 4 ACUs, and always runs.",
        ),
        (replace(NOTHING, pause_after_s=None), replace(RECORD, pause_after_s=None), "It pauses never."),
        (replace(NOTHING, pause_after_s=60), replace(RECORD, pause_after_s=60), "It pauses after 60 s."),
        (replace(NOTHING, freeze_after_s=0.05), replace(RECORD, freeze_after_s=0.05), "It freezes after 0.05 s."),
        (
            replace(NOTHING, require_tls=False, freeze_after_s=None),
            replace(RECORD, freeze_after_s=None),
            "It freezes never.",
        ),
    ],
)
def test_only_what_was_asked_for_is_changed_and_told(
    request_: ModifyRequest, changed: ClusterRecord, told: str
) -> None:
    assert modify.apply(RECORD, request_) == changed
    assert modify.describe(RECORD, changed) == told


@pytest.mark.parametrize("copies", [1, 3, 6])
def test_the_number_of_copies_is_left_to_the_owner(copies: int) -> None:
    request = modify.checked(replace(NOTHING, copies=copies))
    assert request.copies == copies
    assert modify.apply(RECORD, request) == RECORD


@pytest.mark.parametrize("copies", [-6, 0, 2, 4, 5, 7, 60])
def test_a_number_of_copies_that_no_volume_can_have_is_refused(copies: int) -> None:
    with pytest.raises(errors.InvalidInput, match=f"cannot have {copies} copies. Choose 1, 3 or 6 copies."):
        modify.check_copies(copies, EngineKind.POSTGRES, most=6)


def test_a_kind_without_copies_has_one() -> None:
    modify.check_copies(1, EngineKind.MARIADB, most=1)
    with pytest.raises(errors.InvalidInput, match=r"The volume of a MariaDB cluster has one copy, not 3\."):
        modify.check_copies(3, EngineKind.MARIADB, most=1)


def test_conversion_there_and_back_loses_nothing() -> None:
    there = modify.apply(RECORD, replace(NOTHING, mode=Mode.PROVISIONED, fixed_capacity=2))
    assert there == PROVISIONED
    assert modify.apply(there, modify.only(fixed_capacity=3)).fixed_capacity == 3
    assert modify.describe(there, modify.apply(there, modify.only(fixed_capacity=3))) == "It has 3 ACUs."
    wider = modify.apply(there, replace(NOTHING, max_capacity=16))
    assert modify.describe(there, wider) == "It has between 0.5 and 16 ACUs once it is serverless again."
    back = modify.apply(there, replace(NOTHING, mode=Mode.SERVERLESS))
    assert back == replace(RECORD, fixed_capacity=2)
    assert modify.describe(there, back) == "It is serverless: its capacity follows the load."
    assert modify.apply(back, replace(NOTHING, mode=Mode.PROVISIONED)) == there


@pytest.mark.parametrize(
    "wrong",
    [
        replace(NOTHING, min_capacity=8),
        replace(NOTHING, max_capacity=0.5, min_capacity=1),
        replace(NOTHING, fixed_capacity=2),
    ],
)
def test_capacities_that_do_not_fit_together_are_refused(wrong: ModifyRequest) -> None:
    with pytest.raises(errors.InvalidInput):
        modify.apply(RECORD, wrong)


def test_a_request_is_checked_before_it_is_carried_out() -> None:
    assert modify.checked(replace(NOTHING, allow=("192.168.1.7",))).allow == ("192.168.1.7/32",)
    assert modify.checked(NOTHING) == NOTHING
    for wrong in (
        replace(NOTHING, allow=("10.1.2.3/8",)),
        replace(NOTHING, max_clients=0),
        replace(NOTHING, min_capacity=0.7),
        replace(NOTHING, fixed_capacity=0),
        replace(NOTHING, max_capacity=512),
    ):
        with pytest.raises(errors.InvalidInput):
            modify.checked(wrong)
