"""What is done for a copy that does not follow as it should."""

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.core.volume import Copy, CopyKind
from zorya.storage import repair, retention
from zorya.storage.history import Relation
from zorya.storage.repair import Action, CopySeen, Process, Way

FULL = Copy(zone="b", kind=CopyKind.FULL, folder=Path("/b"))
TAIL = Copy(zone="b", kind=CopyKind.TAIL, folder=Path("/b"))
WELL = CopySeen(
    copy=FULL,
    folder_there=True,
    marked=True,
    process=Process.RUNNING,
    ended_times_in_a_row=0,
    ended_s=inf,
    streaming=True,
    lag_bytes=0,
    kept=True,
    relation=Relation.FOLLOWS,
    damaged="",
    rebuilding=False,
    failed_rebuilds=0,
    since_failure_s=inf,
    unconnected_s=0.0,
)
ENDED = replace(WELL, process=Process.ENDED, streaming=False, ended_times_in_a_row=1)
GONE = replace(ENDED, folder_there=False)


@pytest.mark.parametrize(
    ("seen", "action"),
    [
        (WELL, Action.NONE),
        (replace(WELL, process=Process.ABSENT, streaming=False), Action.RESTART),
        (ENDED, Action.RESTART),
        (replace(ENDED, ended_times_in_a_row=5), Action.REBUILD),
        (replace(WELL, ended_times_in_a_row=5), Action.NONE),
        (GONE, Action.REBUILD),
        (replace(GONE, rebuilding=True), Action.NONE),
        (replace(WELL, damaged="A page's checksum is wrong."), Action.REBUILD),
        (replace(ENDED, marked=False), Action.REBUILD),
        (replace(ENDED, relation=Relation.UNKNOWN), Action.REBUILD),
        (replace(ENDED, kept=False), Action.REBUILD),
        (replace(WELL, kept=False), Action.NONE),
        (replace(WELL, streaming=False, unconnected_s=repair.UNCONNECTED_S), Action.NONE),
        (replace(WELL, streaming=False, unconnected_s=repair.UNCONNECTED_S + 1), Action.REBUILD),
        (replace(ENDED, relation=Relation.DIVERGED), Action.REJOIN),
        (replace(ENDED, relation=Relation.DIVERGED, copy=TAIL), Action.REBUILD),
        (replace(ENDED, relation=Relation.DIVERGED, damaged="It is short."), Action.REBUILD),
    ],
)
def test_a_copy_is_mended_when_it_needs_it(seen: CopySeen, action: Action) -> None:
    step = repair.decide(seen)
    assert step.action is action
    assert step.reason.endswith(".")
    assert step.wait_s is None


@pytest.mark.parametrize(("times", "delay_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8)])
def test_a_restart_waits_longer_when_a_copy_has_ended_more_often(times: int, delay_s: float) -> None:
    seen = replace(ENDED, ended_times_in_a_row=times, ended_s=0.0)
    step = repair.decide(seen)
    assert step.action is Action.NONE
    assert step.wait_s == pytest.approx(delay_s)
    assert repair.decide(replace(seen, ended_s=delay_s)).action is Action.RESTART


@pytest.mark.parametrize(("times", "delay_s"), [(1, 5.0), (2, 10.0), (4, 40.0), (5, 60.0), (2000, 60.0)])
def test_a_rebuild_waits_longer_when_it_has_failed_more_often(times: int, delay_s: float) -> None:
    seen = replace(GONE, failed_rebuilds=times, since_failure_s=0.0)
    step = repair.decide(seen)
    assert step.action is Action.NONE
    assert step.wait_s == pytest.approx(delay_s)
    assert repair.decide(replace(seen, since_failure_s=delay_s)).action is Action.REBUILD


situations = st.builds(
    CopySeen,
    copy=st.sampled_from([FULL, TAIL]),
    folder_there=st.booleans(),
    marked=st.booleans(),
    process=st.sampled_from(Process),
    ended_times_in_a_row=st.integers(0, 5000),
    ended_s=st.floats(0, 1e6),
    streaming=st.booleans(),
    lag_bytes=st.none() | st.integers(0),
    kept=st.booleans(),
    relation=st.sampled_from(Relation),
    damaged=st.sampled_from(["", "A page's checksum is wrong."]),
    rebuilding=st.booleans(),
    failed_rebuilds=st.integers(0, 5000),
    since_failure_s=st.floats(0, 1e6),
    unconnected_s=st.floats(0, 1e6),
)


@given(situations)
def test_there_is_a_step_with_a_reason_when_anything_is_seen(seen: CopySeen) -> None:
    step = repair.decide(seen)
    assert step.reason
    assert step.wait_s is None or 0 < step.wait_s <= repair.LONGEST_REBUILD_DELAY_S
    assert step.wait_s is None or step.action is Action.NONE


@given(situations)
def test_a_copy_is_never_simply_started_when_what_it_has_is_not_of_the_present_log(seen: CopySeen) -> None:
    if seen.relation is not Relation.FOLLOWS or not seen.marked or not seen.folder_there:
        assert repair.decide(seen).action is not Action.RESTART


@given(situations)
def test_something_is_done_in_the_end_when_a_copy_does_not_run(seen: CopySeen) -> None:
    if seen.process is not Process.RUNNING and not seen.rebuilding:
        assert repair.decide(replace(seen, ended_s=inf, since_failure_s=inf)).action is not Action.NONE


@pytest.mark.parametrize(
    ("to_replay_bytes", "candidates", "way"),
    [
        (0, 2, Way.RESTART),
        (repair.REPLAY_IN_PLACE_BYTES, 2, Way.RESTART),
        (repair.REPLAY_IN_PLACE_BYTES + 1, 1, Way.PROMOTE),
        (repair.REPLAY_IN_PLACE_BYTES + 1, 0, Way.RESTART),
    ],
)
def test_an_ended_primary_is_started_in_place_when_that_is_faster(
    to_replay_bytes: int, candidates: int, way: Way
) -> None:
    found, reason = repair.way_back(log_to_replay_bytes=to_replay_bytes, candidates_current=candidates)
    assert found is way
    assert reason.endswith(".")


def test_log_is_kept_from_the_lowest_need_when_all_are_near() -> None:
    assert retention.keep_from([500, 300, 400], flushed=1000, keep_bytes=800) == 300


def test_a_need_does_not_count_when_it_is_further_back_than_log_is_kept() -> None:
    assert retention.keep_from([100, 700], flushed=1000, keep_bytes=500) == 700
    assert retention.keep_from([100], flushed=1000, keep_bytes=500) == 500


@given(st.lists(st.integers(0, 10**6), max_size=3), st.integers(0, 10**6), st.integers(0, 10**6))
def test_no_more_log_is_kept_than_is_allowed_and_none_is_missing_when_any_is_needed(
    needs: list[int], flushed: int, keep_bytes: int
) -> None:
    before = retention.keep_from(needs, flushed=flushed, keep_bytes=keep_bytes)
    assert before >= flushed - keep_bytes
    assert all(before <= need for need in needs if need >= flushed - keep_bytes)
