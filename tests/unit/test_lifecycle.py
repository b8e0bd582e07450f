"""The rules by value, and a small world in which random things happen to a cluster that follows them."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zorya.control import lifecycle, states
from zorya.control.lifecycle import Action, Process, Situation, StopWish
from zorya.control.states import Cause
from zorya.core.model import Compute, Status

ASLEEP = Situation(
    status=Status.AVAILABLE,
    compute=Compute.STOPPED,
    process=Process.ABSENT,
    waiters=0,
    visitors=0,
    sessions=0,
    idle_s=0,
    always_runs=False,
    pause_after_s=300,
    look_in_s=0.5,
    quiet_s=0,
    freeze_after_s=10,
    freeze_blocked_s=0,
    stirred="",
    frozen_s=0,
    reclaim_after_s=60,
    primary_problem="",
    mends="",
    recovers=False,
    password_due_in_s=None,
    checkpointed=False,
    counted_sessions=0,
    stopping_s=0,
    stop_timeout_s=60,
    stop_wish=StopWish.NONE,
    delete_asked=False,
    server_stops=False,
)
AWAKE = replace(ASLEEP, compute=Compute.RUNNING, process=Process.READY)
FROZEN = replace(AWAKE, compute=Compute.FROZEN, look_in_s=inf)
PAUSING = replace(AWAKE, compute=Compute.PAUSING)


@pytest.mark.parametrize(
    ("situation", "action"),
    [
        (ASLEEP, Action.REST),
        (replace(ASLEEP, waiters=1, sessions=1), Action.START),
        (replace(ASLEEP, waiters=1, server_stops=True, stop_wish=StopWish.NOW), Action.REST),
        (replace(ASLEEP, compute=Compute.FAILED), Action.REST),
        (replace(ASLEEP, always_runs=True), Action.START),
        (replace(ASLEEP, always_runs=True, server_stops=True), Action.REST),
        (replace(ASLEEP, always_runs=True, delete_asked=True), Action.BEGIN_DELETE),
        (replace(ASLEEP, always_runs=True, compute=Compute.FAILED), Action.REST),
        (replace(FROZEN, always_runs=True), Action.THAW),
        (replace(FROZEN, always_runs=True, stop_wish=StopWish.NOW, server_stops=True), Action.BEGIN_PAUSE),
        (replace(ASLEEP, compute=Compute.FAILED, waiters=1), Action.START),
        (replace(ASLEEP, compute=Compute.RESUMING), Action.START),
        (replace(ASLEEP, compute=Compute.RESUMING, process=Process.STARTING), Action.AWAIT_READY),
        (replace(ASLEEP, compute=Compute.RESUMING, process=Process.READY), Action.FINISH_RESUME),
        (replace(ASLEEP, compute=Compute.RESUMING, process=Process.ENDED, waiters=5), Action.NOTE_EXIT),
        (
            replace(ASLEEP, compute=Compute.RESUMING, process=Process.STARTING, stop_wish=StopWish.NOW),
            Action.BEGIN_PAUSE,
        ),
        (AWAKE, Action.REST),
        (replace(AWAKE, idle_s=300), Action.BEGIN_PAUSE),
        (replace(AWAKE, idle_s=300, look_in_s=0, quiet_s=300), Action.BEGIN_PAUSE),
        (replace(AWAKE, look_in_s=0), Action.LOOK),
        (replace(AWAKE, idle_s=300, quiet_s=300, mends="Copy b_full is being made anew."), Action.REST),
        (replace(AWAKE, mends="Copy b_full is being made anew.", stop_wish=StopWish.NOW), Action.BEGIN_PAUSE),
        (replace(AWAKE, primary_problem="The primary's files are gone.", sessions=3), Action.KILL),
        (replace(FROZEN, primary_problem="The primary's files are gone."), Action.KILL),
        (replace(ASLEEP, recovers=True), Action.START),
        (replace(ASLEEP, recovers=True, server_stops=True), Action.REST),
        (replace(ASLEEP, recovers=True, compute=Compute.FAILED), Action.REST),
        (replace(AWAKE, look_in_s=-3, sessions=5), Action.LOOK),
        (replace(AWAKE, quiet_s=10), Action.FREEZE),
        (replace(AWAKE, quiet_s=10, sessions=100), Action.FREEZE),
        (replace(AWAKE, quiet_s=9.9), Action.REST),
        (replace(AWAKE, quiet_s=10, visitors=1, sessions=1), Action.REST),
        (replace(AWAKE, quiet_s=10, freeze_blocked_s=0.1), Action.REST),
        (replace(AWAKE, quiet_s=9e9, freeze_after_s=None), Action.REST),
        (replace(AWAKE, password_due_in_s=0), Action.GIVE_VERIFIER),
        (replace(AWAKE, password_due_in_s=0, idle_s=300, look_in_s=0, quiet_s=300), Action.GIVE_VERIFIER),
        (replace(AWAKE, password_due_in_s=3), Action.REST),
        (replace(AWAKE, password_due_in_s=3, idle_s=300), Action.BEGIN_PAUSE),
        (replace(AWAKE, password_due_in_s=0, stop_wish=StopWish.NOW), Action.BEGIN_PAUSE),
        (replace(ASLEEP, password_due_in_s=0), Action.REST),
        (replace(ASLEEP, compute=Compute.RESUMING, process=Process.READY, password_due_in_s=0), Action.FINISH_RESUME),
        (replace(FROZEN, password_due_in_s=0), Action.REST),
        (replace(PAUSING, password_due_in_s=0), Action.CHECKPOINT),
        (FROZEN, Action.REST),
        (replace(FROZEN, sessions=100, idle_s=0), Action.REST),
        (replace(FROZEN, visitors=1, sessions=1), Action.THAW),
        (replace(FROZEN, waiters=1), Action.THAW),
        (replace(FROZEN, stirred="A client sent something.", sessions=1), Action.THAW),
        (replace(FROZEN, idle_s=300), Action.BEGIN_PAUSE),
        (replace(FROZEN, idle_s=9e9, pause_after_s=None), Action.REST),
        (replace(FROZEN, look_in_s=0, sessions=1), Action.LISTEN),
        (replace(FROZEN, frozen_s=60), Action.RECLAIM),
        (replace(FROZEN, frozen_s=9e9, reclaim_after_s=None), Action.REST),
        (replace(FROZEN, stop_wish=StopWish.WHEN_UNUSED), Action.BEGIN_PAUSE),
        (replace(FROZEN, stop_wish=StopWish.WHEN_UNUSED, sessions=1), Action.DROP_PAUSE),
        (replace(FROZEN, stop_wish=StopWish.NOW, sessions=1), Action.BEGIN_PAUSE),
        (replace(FROZEN, process=Process.ENDED, sessions=1), Action.NOTE_EXIT),
        (replace(FROZEN, delete_asked=True, sessions=3), Action.BEGIN_DELETE),
        (replace(FROZEN, status=Status.DELETING), Action.ABORT),
        (replace(AWAKE, idle_s=9e9, pause_after_s=None), Action.REST),
        (replace(AWAKE, sessions=1, idle_s=0), Action.REST),
        (replace(AWAKE, sessions=1, stop_wish=StopWish.WHEN_UNUSED), Action.DROP_PAUSE),
        (replace(AWAKE, sessions=1, stop_wish=StopWish.WHEN_UNUSED, look_in_s=0), Action.LOOK),
        (replace(AWAKE, stop_wish=StopWish.WHEN_UNUSED), Action.BEGIN_PAUSE),
        (replace(AWAKE, sessions=1, stop_wish=StopWish.NOW), Action.BEGIN_PAUSE),
        (replace(AWAKE, process=Process.ENDED), Action.NOTE_EXIT),
        (replace(AWAKE, process=Process.ABSENT), Action.NOTE_EXIT),
        (replace(AWAKE, delete_asked=True, sessions=3), Action.BEGIN_DELETE),
        (PAUSING, Action.CHECKPOINT),
        (replace(PAUSING, checkpointed=True), Action.STOP),
        (replace(PAUSING, counted_sessions=2), Action.CANCEL_PAUSE),
        (replace(PAUSING, counted_sessions=2, stop_wish=StopWish.NOW), Action.CHECKPOINT),
        (replace(PAUSING, visitors=1, sessions=1, waiters=1), Action.CANCEL_PAUSE),
        (replace(PAUSING, waiters=1, checkpointed=True), Action.CANCEL_PAUSE),
        (replace(PAUSING, sessions=1, stop_wish=StopWish.NOW, checkpointed=True), Action.STOP),
        (replace(PAUSING, process=Process.STARTING, stop_wish=StopWish.NOW), Action.ABORT),
        (replace(PAUSING, process=Process.STOPPING, sessions=1, waiters=1), Action.REST),
        (replace(PAUSING, process=Process.STOPPING, stopping_s=61), Action.ABORT),
        (replace(PAUSING, process=Process.ENDED), Action.NOTE_EXIT),
        (replace(PAUSING, process=Process.ABSENT), Action.NOTE_EXIT),
        (replace(ASLEEP, status=Status.CREATING), Action.BUILD),
        (replace(ASLEEP, status=Status.CREATING, delete_asked=True), Action.BEGIN_DELETE),
        (replace(AWAKE, status=Status.DELETING), Action.ABORT),
        (replace(AWAKE, status=Status.DELETING, process=Process.ENDED), Action.ERASE),
        (replace(ASLEEP, status=Status.DELETED), Action.END),
    ],
)
def test_each_situation_has_its_next_step(situation: Situation, action: Action) -> None:
    assert lifecycle.decide(situation).action is action


def test_idle_cluster_is_looked_at_again_when_its_pause_is_due() -> None:
    assert lifecycle.decide(replace(AWAKE, idle_s=120, look_in_s=1000)).recheck_s == 180
    assert lifecycle.decide(replace(FROZEN, idle_s=295)).recheck_s == 5


def test_frozen_cluster_is_looked_at_again_only_when_something_is_due() -> None:
    forgotten = replace(FROZEN, sessions=1, pause_after_s=None, reclaim_after_s=None)
    assert lifecycle.decide(forgotten).recheck_s is None
    assert lifecycle.decide(replace(forgotten, look_in_s=4)).recheck_s == 4
    assert lifecycle.decide(replace(forgotten, reclaim_after_s=60, frozen_s=20)).recheck_s == 40


def test_quiet_cluster_is_looked_at_again_when_its_freeze_is_due() -> None:
    assert lifecycle.decide(replace(AWAKE, quiet_s=9.75)).recheck_s == 0.25
    assert lifecycle.decide(replace(AWAKE, quiet_s=11, freeze_blocked_s=0.25)).recheck_s == 0.25


def test_an_engine_that_did_not_take_a_new_password_is_given_it_again_later() -> None:
    assert lifecycle.decide(replace(AWAKE, password_due_in_s=0.125)).recheck_s == 0.125
    assert lifecycle.decide(replace(ASLEEP, password_due_in_s=0.125)).recheck_s is None


@given(
    st.builds(
        Situation,
        status=st.sampled_from(Status),
        compute=st.sampled_from(Compute),
        process=st.sampled_from(Process),
        waiters=st.integers(0, 3),
        visitors=st.integers(0, 3),
        sessions=st.integers(0, 3),
        idle_s=st.floats(0, 1000),
        always_runs=st.booleans(),
        pause_after_s=st.none() | st.integers(1, 500),
        look_in_s=st.floats(-10, 10) | st.just(inf),
        quiet_s=st.floats(0, 1000),
        freeze_after_s=st.none() | st.floats(0.01, 100),
        freeze_blocked_s=st.floats(0, 10),
        stirred=st.sampled_from(["", "A client sent something."]),
        frozen_s=st.floats(0, 1000),
        reclaim_after_s=st.none() | st.floats(1, 100),
        password_due_in_s=st.none() | st.floats(0, 5),
        checkpointed=st.booleans(),
        counted_sessions=st.integers(0, 3),
        stopping_s=st.floats(0, 100),
        stop_timeout_s=st.just(60),
        stop_wish=st.sampled_from(StopWish),
        delete_asked=st.booleans(),
        server_stops=st.booleans(),
        primary_problem=st.sampled_from(["", "The primary's files are gone."]),
        mends=st.sampled_from(["", "Copy b_full is being made anew."]),
        recovers=st.booleans(),
    )
)
def test_every_situation_has_a_decision_with_a_reason(situation: Situation) -> None:
    decision = lifecycle.decide(situation)
    assert decision.reason.endswith(".")
    if decision.action in {Action.STOP, Action.FREEZE} and situation.stop_wish is not StopWish.NOW:
        assert situation.visitors == 0
        assert situation.waiters == 0
    if decision.action is Action.REST and decision.recheck_s == 0:
        # It would ask again at once, for ever.
        assert situation.process is Process.STOPPING


class World:
    """A cluster whose owner follows the rules, and whose server may be killed between any two steps.

    `visitors` are clients that wait for their session; those that have it are the engine's, `sessions` in all.
    """

    def __init__(self) -> None:
        self.now = ASLEEP
        self.served = 0
        self.cut_off = 0
        self.unheard = 0
        """Things that clients have sent to a frozen engine."""

    def step(self) -> Action:  # noqa: PLR0915 - one arm an action
        """Carry out one decision, as the owner does."""
        action = lifecycle.decide(self.now).action
        now = self.now
        match action:
            case Action.START:
                if now.compute is not Compute.RESUMING:
                    self._compute(Cause.WANTED)
                self.now = replace(self.now, process=Process.STARTING)
            case Action.AWAIT_READY:
                self.now = replace(now, process=Process.READY)
            case Action.FINISH_RESUME:
                self._compute(Cause.READY)
                self._serve()
            case Action.GIVE_VERIFIER:
                self.now = replace(now, password_due_in_s=None)
            case Action.BEGIN_PAUSE:
                self._compute(Cause.STOP_DUE)
                self._run_on()
                self.now = replace(self.now, checkpointed=False, counted_sessions=0)
            case Action.LOOK | Action.LISTEN:
                self.now = replace(now, look_in_s=0.5)
            case Action.RECLAIM:
                self.now = replace(now, reclaim_after_s=None)
            case Action.FREEZE:
                self._compute(Cause.AT_REST)
                self.now = replace(self.now, look_in_s=inf, frozen_s=0, reclaim_after_s=60)
            case Action.THAW:
                self._compute(Cause.WANTED)
                self._run_on()
                self._serve()
            case Action.CANCEL_PAUSE:
                self._compute(Cause.WANTED)
                self.now = replace(self.now, stop_wish=StopWish.NONE, idle_s=0)
                self._serve()
            case Action.DROP_PAUSE:
                self.now = replace(now, stop_wish=StopWish.NONE)
            case Action.CHECKPOINT:
                counted = now.sessions - now.visitors
                self.now = replace(now, checkpointed=not counted, counted_sessions=counted)
            case Action.STOP:
                if now.stop_wish is not StopWish.NOW:
                    self.cut_off += now.sessions
                self.now = replace(now, process=Process.STOPPING)
            case Action.ABORT:
                self.now = replace(now, process=Process.ENDED)
            case Action.NOTE_EXIT:
                self.now = replace(now, process=Process.ABSENT)
                self._compute(Cause.START_FAILED if now.compute is Compute.RESUMING else Cause.EXITED)
                left = 0 if now.compute is Compute.RESUMING else now.visitors
                self.unheard = 0
                self.now = replace(
                    self.now, waiters=left, visitors=left, sessions=left, stop_wish=StopWish.NONE, quiet_s=0, stirred=""
                )
            case _:
                assert action is Action.REST
        return action

    def _compute(self, cause: Cause) -> None:
        target, _ = states.change_of_compute(self.now.compute, cause)
        self.now = replace(self.now, compute=target)

    def _serve(self) -> None:
        self.served += self.now.waiters
        self.now = replace(self.now, waiters=0, visitors=0)

    def _run_on(self) -> None:
        self.unheard = 0
        self.now = replace(self.now, stirred="", quiet_s=0, look_in_s=0.5)

    def happen(self, what: str) -> None:
        """Let something happen from outside."""
        now = self.now
        match what:
            case "connect":
                running = now.compute is Compute.RUNNING and now.process is Process.READY
                more = 0 if running else 1
                self.now = replace(
                    now,
                    sessions=now.sessions + 1,
                    visitors=now.visitors + more,
                    waiters=now.waiters + more,
                    idle_s=0,
                    quiet_s=0,
                )
                self.served += running
            case "leave" | "speak" if now.sessions > now.visitors:
                if now.compute is Compute.FROZEN:
                    self.unheard += 1
                    self.now = replace(now, stirred="A client sent something.")
                elif what == "speak":
                    self.now = replace(now, quiet_s=0)
                else:
                    self.now = replace(now, sessions=now.sessions - 1, quiet_s=0)
            case "time":
                self.now = replace(
                    now,
                    idle_s=0 if now.sessions else now.idle_s + 200,
                    quiet_s=now.quiet_s + 20,
                    frozen_s=now.frozen_s + 20,
                    look_in_s=now.look_in_s - 20,
                )
            case "engine stops" if now.process is Process.STOPPING:
                self.now = replace(now, process=Process.ENDED)
            case "engine dies" if now.process not in {Process.ABSENT, Process.ENDED}:
                self.now = replace(now, process=Process.ENDED)
            case "password changes":
                self.now = replace(now, password_due_in_s=0)
            case "pause asked":
                self.now = replace(now, stop_wish=StopWish.WHEN_UNUSED)
            case "server dies":
                # Clients that had no session are gone; engine and sessions go on, thawed; the record says what it said.
                there = now.process in {Process.READY, Process.STARTING, Process.STOPPING}
                self.now = replace(
                    now,
                    process=Process.READY if there else Process.ABSENT,
                    sessions=now.sessions - now.visitors if there else 0,
                    visitors=0,
                    waiters=0,
                    idle_s=0,
                    stop_wish=StopWish.NONE,
                )
                self._run_on()
                if there and now.compute is not Compute.PAUSING:
                    self._compute(Cause.FOUND_READY)


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                "step",
                "connect",
                "leave",
                "speak",
                "time",
                "engine stops",
                "engine dies",
                "pause asked",
                "password changes",
                "server dies",
            ]
        ),
        max_size=60,
    )
)
def test_no_client_is_cut_off_and_none_waits_for_ever_whatever_happens(happenings: list[str]) -> None:
    world = World()
    for what in happenings:
        if what == "step":
            world.step()
        else:
            world.happen(what)
    for _ in range(20):
        world.happen("engine stops")
        if world.step() is Action.REST and world.now.process is not Process.STOPPING:
            break
    assert world.now.waiters == 0
    assert world.cut_off == 0
    assert world.unheard == 0
    assert world.now.compute is not Compute.RUNNING or world.now.password_due_in_s is None
    assert world.now.compute in {Compute.RUNNING, Compute.FROZEN, Compute.STOPPED, Compute.FAILED}
