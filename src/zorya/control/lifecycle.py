"""What a cluster's owner does next. Pure: a situation in, an action and its reason out.

`cluster.ClusterOwner` is the half that acts. It asks again after every step and whenever something changes, so a rule
here never has to remember what happened before; what matters of the past is in the situation.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from zorya.core.model import Compute, Status

MENDING_RECHECK_S = 1.0
"""How often it is asked again whether a copy that is mended is in the way of sleep still."""


class Process(StrEnum):
    """What is seen of the engine's process."""

    ABSENT = "absent"
    ENDED = "ended"
    """It was there and has ended, and that has not been dealt with yet."""
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    """Zorya has told it to stop, or it stops by itself; it serves nobody new."""


class StopWish(StrEnum):
    """That, and how, the engine shall stop though it is not idle."""

    NONE = "none"
    WHEN_UNUSED = "when unused"
    """By hand: a client that comes first wins."""
    NOW = "now"
    """By hand with force, or since the server stops: sessions are ended."""


class Action(StrEnum):
    """One step of the owner."""

    REST = "rest"
    BUILD = "build"
    START = "start"
    AWAIT_READY = "await ready"
    FINISH_RESUME = "finish resume"
    LOOK = "look"
    FREEZE = "freeze"
    LISTEN = "listen"
    RECLAIM = "reclaim"
    THAW = "thaw"
    GIVE_VERIFIER = "give verifier"
    BEGIN_PAUSE = "begin pause"
    CANCEL_PAUSE = "cancel pause"
    DROP_PAUSE = "drop pause"
    CHECKPOINT = "checkpoint"
    STOP = "stop"
    NOTE_EXIT = "note exit"
    BEGIN_DELETE = "begin delete"
    ABORT = "abort"
    KILL = "kill"
    ERASE = "erase"
    END = "end"


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """All that a decision depends on."""

    status: Status
    compute: Compute
    process: Process
    waiters: int
    """Clients and commands that wait for a running engine."""
    visitors: int
    """Clients at the endpoint that have no session yet, the waiting ones among them."""
    sessions: int
    """The visitors, and the sessions that the engine was last seen to have."""
    idle_s: float
    """How long there has been no session; 0 while there is one."""
    always_runs: bool
    """Whether it is provisioned: it is started without being wanted."""
    pause_after_s: int | None
    look_in_s: float
    """When the engine is to be looked at again; of a frozen one, whether a signal waits for it."""
    quiet_s: float
    """How long the engine has been at rest with all its sessions; 0 while it is not, or is not known to be."""
    freeze_after_s: float | None
    freeze_blocked_s: float
    """How long no freeze is to be tried, since one failed."""
    stirred: str
    """Why a frozen engine is wanted, as a sentence: one of its sessions has something for it. Empty if it is not."""
    frozen_s: float
    """How long it has been frozen; 0 if it is not."""
    reclaim_after_s: float | None
    """After how long the memory of a frozen engine is given back; None when it was, or cannot be."""
    primary_problem: str
    """Why the engine cannot go on though its process is there, as a sentence; empty when it can."""
    mends: str
    """What is being done for a copy of its volume that comes before any sleep, as a sentence; empty if nothing is."""
    recovers: bool
    """Whether its engine was lost while other copies can go on: it is brought back without being wanted."""
    password_due_in_s: float | None
    """When the engine is to be given a new password; None when there is none for it."""
    checkpointed: bool
    """Whether the checkpoint that goes before a stop is done."""
    counted_sessions: int
    """Client sessions that the engine itself counted before that checkpoint."""
    stopping_s: float
    """How long ago the engine was told to stop; 0 if it was not."""
    stop_timeout_s: float
    stop_wish: StopWish
    delete_asked: bool
    server_stops: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do, why (a sentence), and after how many seconds to ask again even if nothing changes."""

    action: Action
    reason: str
    recheck_s: float | None = None


def decide(now: Situation) -> Decision:
    """Answer the next step. Total: every situation has one."""
    match now.status:
        case Status.CREATING:
            if now.delete_asked:
                return Decision(action=Action.BEGIN_DELETE, reason="It was deleted while it was being created.")
            return Decision(action=Action.BUILD, reason="A new cluster needs its data folder.")
        case Status.DELETING:
            if now.process not in {Process.ABSENT, Process.ENDED}:
                return Decision(action=Action.ABORT, reason="A deleted cluster's engine has nothing to save.")
            return Decision(action=Action.ERASE, reason="It was deleted.")
        case Status.DELETED:
            return Decision(action=Action.END, reason="It is gone.")
        case Status.AVAILABLE:
            if now.delete_asked:
                return Decision(action=Action.BEGIN_DELETE, reason="It was deleted.")
            return _decide_compute(now)


def _decide_compute(now: Situation) -> Decision:
    match now.compute:
        case Compute.STOPPED | Compute.FAILED:
            return _while_down(now)
        case Compute.RESUMING:
            return _while_resuming(now)
        case Compute.RUNNING:
            return _while_running(now)
        case Compute.FROZEN:
            return _while_frozen(now)
        case Compute.PAUSING:
            return _while_pausing(now)


def _while_down(now: Situation) -> Decision:
    if now.waiters and not now.server_stops:
        return Decision(action=Action.START, reason=_wanted(now))
    if now.recovers and now.compute is Compute.STOPPED and not now.server_stops:
        return Decision(action=Action.START, reason="Its engine was lost, and its copies are there.")
    # One that failed is not tried again and again: the next who wants it has it tried.
    if now.always_runs and now.compute is Compute.STOPPED and not now.server_stops:
        return Decision(action=Action.START, reason="It is provisioned, and always runs.")
    return Decision(action=Action.REST, reason="Nobody wants it.")


def _while_resuming(now: Situation) -> Decision:
    if now.process is Process.ENDED:
        return Decision(action=Action.NOTE_EXIT, reason="The engine ended while it was starting.")
    if now.stop_wish is StopWish.NOW:
        return Decision(action=Action.BEGIN_PAUSE, reason=_stop_reason(now))
    if now.process is Process.ABSENT:
        return Decision(action=Action.START, reason=_wanted(now))
    if now.process is Process.READY:
        return Decision(action=Action.FINISH_RESUME, reason="The engine is ready.")
    return Decision(action=Action.AWAIT_READY, reason="The engine starts.")


def _while_running(now: Situation) -> Decision:
    if now.process in {Process.ABSENT, Process.ENDED}:
        return Decision(action=Action.NOTE_EXIT, reason="The engine ended without being asked to.")
    if now.primary_problem:
        return Decision(action=Action.KILL, reason=now.primary_problem)
    if now.stop_wish is StopWish.WHEN_UNUSED and now.sessions:
        if now.look_in_s <= 0:
            return Decision(action=Action.LOOK, reason="The last session may have ended.")
        return Decision(action=Action.DROP_PAUSE, reason="A client came first.")
    if now.stop_wish is not StopWish.NONE:
        return Decision(action=Action.BEGIN_PAUSE, reason=_stop_reason(now))
    if now.password_due_in_s is not None and now.password_due_in_s <= 0:
        return Decision(action=Action.GIVE_VERIFIER, reason="A new password was asked for.")
    if _pause_is_due(now):
        return Decision(action=Action.BEGIN_PAUSE, reason=f"No client session for {now.pause_after_s} s.")
    if now.look_in_s <= 0:
        return Decision(action=Action.LOOK, reason="It is seen from time to time what the engine does.")
    if _freeze_is_due(now):
        return Decision(action=Action.FREEZE, reason=f"Nothing has been done for {now.freeze_after_s:g} s.")
    return Decision(action=Action.REST, reason="There is nothing to do yet.", recheck_s=_next_check_s(now))


def _while_frozen(now: Situation) -> Decision:
    if now.process in {Process.ABSENT, Process.ENDED}:
        return Decision(action=Action.NOTE_EXIT, reason="The engine ended while it was frozen.")
    if now.primary_problem:
        return Decision(action=Action.KILL, reason=now.primary_problem)
    if now.visitors or now.waiters:
        return Decision(action=Action.THAW, reason=_wanted(now))
    if now.stop_wish is StopWish.WHEN_UNUSED and now.sessions:
        return Decision(action=Action.DROP_PAUSE, reason="It has sessions.")
    if now.stop_wish is not StopWish.NONE:
        return Decision(action=Action.BEGIN_PAUSE, reason=_stop_reason(now))
    if now.stirred:
        return Decision(action=Action.THAW, reason=now.stirred)
    if now.always_runs:
        return Decision(action=Action.THAW, reason="It is provisioned, and always runs.")
    if _pause_is_due(now):
        return Decision(action=Action.BEGIN_PAUSE, reason=f"No client session for {now.pause_after_s} s.")
    if now.look_in_s <= 0:
        return Decision(action=Action.LISTEN, reason="A timer or an operator may have signalled a session.")
    if now.reclaim_after_s is not None and now.frozen_s >= now.reclaim_after_s:
        return Decision(action=Action.RECLAIM, reason="What sleeps for long needs no memory.")
    return Decision(action=Action.REST, reason="Nobody wants it.", recheck_s=_next_check_s(now))


def _pause_is_due(now: Situation) -> bool:
    if now.pause_after_s is None or now.sessions or now.mends:
        return False
    return now.idle_s >= now.pause_after_s


def _freeze_is_due(now: Situation) -> bool:
    if now.freeze_after_s is None or now.visitors or now.waiters or now.freeze_blocked_s > 0 or now.mends:
        return False
    return now.quiet_s >= now.freeze_after_s


def _next_check_s(now: Situation) -> float | None:
    """Answer the time until something else is due; None when nothing is."""
    times = [now.look_in_s]
    if now.mends:
        times.append(MENDING_RECHECK_S)
    elif now.pause_after_s is not None and not now.sessions:
        times.append(now.pause_after_s - now.idle_s)
    if now.compute is Compute.RUNNING and now.password_due_in_s is not None:
        times.append(now.password_due_in_s)
    if now.compute is Compute.FROZEN and now.reclaim_after_s is not None:
        times.append(now.reclaim_after_s - now.frozen_s)
    may_freeze = now.compute is Compute.RUNNING and not now.mends and not now.visitors
    if may_freeze and now.freeze_after_s is not None and now.quiet_s > 0:
        times.append(max(now.freeze_after_s - now.quiet_s, now.freeze_blocked_s))
    return max(0.0, min(times)) if min(times) < inf else None


def _while_pausing(now: Situation) -> Decision:
    if now.process in {Process.ABSENT, Process.ENDED}:
        return Decision(action=Action.NOTE_EXIT, reason="The engine has stopped.")
    if now.process is Process.STOPPING:
        left_s = now.stop_timeout_s - now.stopping_s
        if left_s <= 0:
            return Decision(action=Action.ABORT, reason=f"It did not stop within {now.stop_timeout_s:g} s.")
        return Decision(action=Action.REST, reason="The engine stops.", recheck_s=left_s)
    if now.stop_wish is not StopWish.NOW:
        if now.visitors or now.waiters:
            return Decision(action=Action.CANCEL_PAUSE, reason=_wanted(now))
        if now.counted_sessions:
            return Decision(
                action=Action.CANCEL_PAUSE, reason=f"The engine has {now.counted_sessions} session(s) after all."
            )
    if now.process is Process.STARTING:
        # A PostgreSQL that is told to stop cleanly while it recovers may not stop at all.
        return Decision(action=Action.ABORT, reason="It was still starting: there is nothing to stop cleanly.")
    if not now.checkpointed:
        return Decision(action=Action.CHECKPOINT, reason="A checkpoint makes the stop short.")
    return Decision(action=Action.STOP, reason="Nothing is left to be done before the stop.")


def _wanted(now: Situation) -> str:
    return "A client connected." if now.visitors else "It was asked to."


def _stop_reason(now: Situation) -> str:
    return "The server was told to stop." if now.server_stops else "It was asked to."
