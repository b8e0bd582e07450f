"""What a modification makes of a record, and what the event says of it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from zorya.control import modify
from zorya.control.record import ClusterRecord
from zorya.control.view import UNCHANGED, ModifyRequest
from zorya.core import errors
from zorya.core.model import Access, Compute, EngineKind, Mode, Secret, Status, WakeOn

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
    pause_after_s=300,
    freeze_after_s=0.5,
    username="zorya",
    password=Secret("s3cret"),
    next_password=None,
    access=Access(max_clients=5),
    database="main",
    created_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    process=None,
)
NOTHING = ModifyRequest(
    allow=UNCHANGED,
    require_tls=UNCHANGED,
    wake_on=UNCHANGED,
    max_clients=UNCHANGED,
    pause_after_s=UNCHANGED,
    freeze_after_s=UNCHANGED,
)


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


def test_a_request_is_checked_before_it_is_carried_out() -> None:
    assert modify.checked(replace(NOTHING, allow=("192.168.1.7",))).allow == ("192.168.1.7/32",)
    assert modify.checked(NOTHING) == NOTHING
    for wrong in (replace(NOTHING, allow=("10.1.2.3/8",)), replace(NOTHING, max_clients=0)):
        with pytest.raises(errors.InvalidInput):
            modify.checked(wrong)
