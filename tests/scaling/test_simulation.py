"""The simulator's accounts, on traces small enough to work out by hand, and its traces' recipe."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from bench import models, play, simulate, traces
from bench.traces import GIB, Trace

from zorya.scaling import policy
from zorya.scaling.policy import Decision, History, Part, Situation


def trace(seconds: int, *, sessions: float = 0.0, memory_gib: float = 0.25, **cores: float) -> Trace:
    """Answer a trace in which nothing is asked for but `at_N` core-seconds in second N, by one session."""
    asked, there, zeros = np.zeros(seconds), np.full(seconds, sessions), np.zeros(seconds)
    for name, value in cores.items():
        at = int(name.removeprefix("at_"))
        asked[at], there[at] = value, max(sessions, 1.0)
    return Trace(
        name="by hand",
        cores=asked,
        memory_bytes=np.full(seconds, memory_gib * GIB),
        cache_bytes=zeros,
        read_bytes_s=zeros,
        sessions=there,
        at_work=(asked > 0).astype(np.float64),
    )


def played(of: Trace, make: Callable[[Trace], models.System]) -> play.Outcome:
    return play.Play(of, make(of)).run()


def fixed(capacity: float) -> Callable[[Trace], models.System]:
    return lambda _: models.Fixed(capacity)


def test_work_that_does_not_fit_waits_and_every_second_of_it_is_unmet() -> None:
    # Half an ACU has an eighth of a core: of 0.5 core-seconds 0.375, 0.25 and 0.125 are left, and then nothing.
    outcome = played(trace(20, at_1=0.1, at_5=0.5), fixed(0.5))
    assert outcome.unmet_s == 3
    assert outcome.late_core_s == pytest.approx(0.75)
    assert outcome.acu_hours == pytest.approx(0.5 * 20 / 3600)
    assert (outcome.changes, outcome.resumes) == (0, 0)


def test_nobody_waits_longer_than_his_patience() -> None:
    assert played(trace(60, at_10=10.0), fixed(0.5)).unmet_s == play.PATIENCE_S


def test_too_little_memory_is_unmet_while_it_lasts() -> None:
    assert played(trace(25, sessions=1, memory_gib=1.01), fixed(0.5)).unmet_s == 25
    assert played(trace(25, sessions=1, memory_gib=1.01), fixed(1.0)).unmet_s == 0


def test_a_resume_is_unmet_and_costs_nothing() -> None:
    # It rests after 300 s, is wanted at 400 and back at 415; by then the work fits into one second.
    outcome = played(trace(500, at_400=0.05), simulate.SYSTEMS["Aurora v2"])
    assert (outcome.unmet_s, outcome.resumes, outcome.worst_resume_s) == (15, 1, 15.0)
    assert outcome.acu_hours == pytest.approx(0.5 * (300 + 85) / 3600)
    assert not outcome.capacity[300:415].any()


@pytest.mark.parametrize(("system", "rests"), [("Aurora v1", False), ("Aurora v2", False), ("Neon", True)])
def test_an_open_session_keeps_some_systems_awake(system: str, rests: bool) -> None:
    outcome = played(trace(1000, sessions=2, at_0=0.01), simulate.SYSTEMS[system])
    assert bool(outcome.capacity[-1]) is not rests


def test_zorya_freezes_with_sessions_and_starts_anew_without_them() -> None:
    kept = played(trace(1000, sessions=2, at_0=0.01, at_900=0.01), simulate.SYSTEMS[simulate.ZORYA])
    assert (kept.worst_resume_s, kept.unmet_s) == (models.Zorya.FROM_FROZEN_S, 0)
    assert np.count_nonzero(kept.capacity) == 22  # two seconds at work, and twice the ten after it
    left = played(trace(1000, at_0=0.01, at_900=0.01), simulate.SYSTEMS[simulate.ZORYA])
    assert (left.worst_resume_s, left.unmet_s) == (models.Zorya.FROM_STOPPED_S, 0)


@pytest.mark.parametrize("burst", [False, True])
def test_zorya_does_what_the_policy_that_ships_says(monkeypatch: pytest.MonkeyPatch, burst: bool) -> None:
    asked: list[Situation] = []

    def decide(now: Situation, history: History) -> tuple[Decision, History]:
        asked.append(now)
        return Decision(capacity=now.bounds.most, part=Part.CPU, reason="It says so."), history

    monkeypatch.setattr(policy, "decide", decide)
    outcome = played(trace(15, sessions=3, at_0=0.4), simulate.SYSTEMS[simulate.BURST if burst else simulate.ZORYA])
    first = asked[0]
    assert (first.now_s, first.capacity, first.bounds.most, first.burst) == (1.0, 0.5, 2.0, burst)
    assert first.demand.cores == pytest.approx(0.4 if burst else 0.125)
    assert first.demand.throttled == pytest.approx(0.0 if burst else 1 - 0.125 / 0.4)
    assert (first.demand.sessions, first.demand.at_work) == (3, 1)
    assert outcome.capacity[:12].tolist() == [0.5] + [2.0] * 10 + [0.0]
    assert outcome.unmet_s == (0 if burst else 1)
    # In the first second 0.275 of a core beyond its own, 1.1 ACUs.
    assert outcome.borrowed_acu_hours == pytest.approx(1.1 / 3600 if burst else 0)


def test_the_policy_that_ships_grows_with_a_load_that_stays() -> None:
    load = {f"at_{at}": 1.0 for at in range(10, 40)}
    outcome = played(trace(60, sessions=4, **load), simulate.SYSTEMS[simulate.ZORYA])
    assert outcome.capacity[39] >= 4.0
    assert outcome.capacity[5] == play.LEAST


@pytest.mark.parametrize("system", ["Aurora v1", "Aurora v2", "Neon", "fixed at mean"])
def test_skipping_quiet_stretches_changes_no_figure(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    of = _sparse()
    skipping = played(of, simulate.SYSTEMS[system])
    monkeypatch.setattr(play, "SETTLED_S", len(of.cores))
    stepping = played(of, simulate.SYSTEMS[system])
    assert np.array_equal(skipping.capacity, stepping.capacity)
    differing = {
        field.name
        for field in dataclasses.fields(play.Outcome)
        if field.name != "capacity" and getattr(skipping, field.name) != pytest.approx(getattr(stepping, field.name))
    }
    assert differing == set()


def test_traces_are_the_same_for_the_same_seed_and_differ_for_another() -> None:
    first, again, other = (traces.cases(seed, days=1) for seed in (1, 1, 2))
    assert [case.name for case in first] == list(traces.NAMES)
    for one, same, another in zip(first, again, other, strict=True):
        assert np.array_equal(one.traces[0].cores, same.traces[0].cores)
        assert not np.array_equal(one.traces[0].cores, another.traces[0].cores)


def test_what_is_not_met_is_said() -> None:
    def result(acu_hours: float, unmet_s: int) -> simulate.Result:
        return simulate.Result(
            acu_hours=acu_hours, unmet_s=unmet_s, worst_resume_s=0, changes=0, cold_s=0, borrowed_acu_hours=0
        )

    results = {name: result(100.0, 50) for name in simulate.SYSTEMS}
    assert simulate.misses({"A case": results | {simulate.ZORYA: result(90.0, 50)}}, simulate.ZORYA) == []
    said = simulate.misses(
        {"A case": results | {simulate.ZORYA: result(90.1, 51), "Neon": result(300, 0)}}, simulate.ZORYA
    )
    assert said[0] == "A case: 51 s unmet, Aurora v2 50 s."
    assert len(said) == 5


def _sparse() -> Trace:
    """Answer three hours in which work comes seldom, and sessions come and go."""
    rng = np.random.default_rng(3)
    made = trace(3 * traces.HOUR_S)
    for start in (500, 3000, 3200, 5000, 9000):
        made.sessions[start : start + 700] += 2
        made.cores[start : start + 200] += rng.gamma(0.5, 0.4, 200) * (rng.random(200) < 0.3)
        made.memory_bytes[start : start + 150] += 1.5 * GIB
        made.cache_bytes[start : start + 400] += 0.4 * GIB
    made.read_bytes_s[:] = made.cores * GIB
    made.at_work[:] = made.cores > 0
    return made
