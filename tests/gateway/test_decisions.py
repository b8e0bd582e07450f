"""The pure decisions: how to attach, what to tell a client, which warnings to keep back."""

from pathlib import Path

import pytest

from zorya.core import errors
from zorya.core.model import Handoff
from zorya.gateway import attach, refusals
from zorya.gateway.listeners import Thinner
from zorya.gateway.postgres import refusals as postgres_refusals

INLET = Path("/run/inlet")
TAKES = "Engines take clients' connections themselves."
NOT_BUILT = "The handoff library was not built."
FAILED = "Connection refused"
SETTING = "The setting attach says so."


@pytest.mark.parametrize(
    ("inlet", "relay_only", "failure", "way", "reason"),
    [
        (INLET, False, "", "handoff", TAKES),
        (INLET, False, FAILED, "relay", "Handing it over failed: Connection refused."),
        (INLET, True, "", "relay", SETTING),
        (INLET, True, FAILED, "relay", SETTING),
        (None, False, "", "relay", NOT_BUILT),
        (None, False, FAILED, "relay", NOT_BUILT),
        (None, True, "", "relay", SETTING),
        (None, True, FAILED, "relay", SETTING),
    ],
)
def test_way_to_attach_and_its_reason(
    inlet: Path | None, relay_only: bool, failure: str, way: str, reason: str
) -> None:
    handoff = Handoff(inlet=inlet, reason=TAKES if inlet else NOT_BUILT)
    choice = attach.decide(handoff, relay_only=relay_only, failure=failure)
    assert choice == attach.Choice(way=attach.Way(way), reason=reason)


@pytest.mark.parametrize(
    ("error", "sqlstate"),
    [
        (errors.WakeTimeout("late"), "57P03"),
        (errors.StartFailed("broken"), "58000"),
        (errors.EngineProblem("odd"), "57P03"),
        (errors.DiskFull("full"), "53100"),
        (errors.HomeUnusable("unreadable"), "58000"),
        (errors.ClusterNotFound("gone"), "3D000"),
        (errors.ClusterBusy("busy"), "57P03"),
        (errors.ProtocolViolation("nonsense"), "08P01"),
        (errors.InvalidSetting("wrong"), "58000"),
    ],
)
def test_sqlstate_fits_the_error(error: errors.ZoryaError, sqlstate: str) -> None:
    assert postgres_refusals.of(refusals.explain(error)).sqlstate == sqlstate


def test_client_is_told_no_path_when_the_operator_is() -> None:
    error = errors.StartFailed("postgres exited: see /home/x/log", hint="Read /home/x/log.", client_message="No start.")
    refusal = refusals.explain(error)
    assert (refusal.message, refusal.hint) == ("No start.", "")


def test_client_is_told_to_try_again_when_the_start_goes_on() -> None:
    assert refusals.explain(errors.WakeTimeout("Not ready.")).hint == "The database is still starting. Try again."


def test_thinner_lets_one_through_in_each_interval_and_counts_the_rest() -> None:
    thinner = Thinner(60)
    assert [thinner.admit(now_s) for now_s in (0, 1, 59.9, 60, 61, 200)] == [0, None, None, 2, None, 1]
