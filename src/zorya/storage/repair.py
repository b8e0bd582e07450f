"""What is done for a copy that does not follow as it should. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from zorya.core.volume import Copy, CopyKind
from zorya.storage.history import Relation

FIRST_DELAY_S = 0.1
"""How long a copy that has ended waits before it is started again; twice as long each time that it ends again."""

LONGEST_DELAY_S = 10.0

ENDS_BEFORE_REBUILD = 5
"""A copy that has ended so often in a row is made anew."""

UNCONNECTED_S = 30.0
"""A copy that serves, and has not connected for so long, lacks log that nobody keeps: it is made anew."""

FIRST_REBUILD_DELAY_S = 5.0
LONGEST_REBUILD_DELAY_S = 60.0

REPLAY_IN_PLACE_BYTES = 256 * 1024**2
"""As long as no more log than this has to be replayed, an ended primary is started in place."""


class Process(StrEnum):
    """What is seen of a copy's process."""

    RUNNING = "running"
    ENDED = "ended"
    ABSENT = "absent"


class Action(StrEnum):
    """One step for a copy."""

    NONE = "none"
    RESTART = "restart"
    REJOIN = "rejoin"
    """Take back what it has too much of."""
    REBUILD = "rebuild"


class Way(StrEnum):
    """How a cluster goes on whose primary has ended."""

    RESTART = "restart"
    PROMOTE = "promote"


@dataclass(frozen=True, kw_only=True, slots=True)
class CopySeen:
    """All that a decision depends on."""

    copy: Copy
    folder_there: bool
    marked: bool
    """Whether its mark can be read, and is of an epoch of the history."""
    process: Process
    ended_times_in_a_row: int
    ended_s: float
    """How long ago it ended last."""
    streaming: bool
    lag_bytes: int | None
    kept: bool
    """Whether the primary still keeps the log that it needs."""
    relation: Relation
    damaged: str
    """What was found to be damaged in it, as a sentence; empty when nothing is."""
    rebuilding: bool
    failed_rebuilds: int
    since_failure_s: float
    unconnected_s: float = 0.0
    """How long its engine has served without being connected to the primary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What to do, why (a sentence), and in how many seconds where it is not time yet."""

    action: Action
    reason: str
    wait_s: float | None = None


def decide(seen: CopySeen) -> Step:
    """Answer the next step for a copy. Total."""
    if seen.rebuilding:
        return Step(action=Action.NONE, reason="It is being made anew.")
    why = _why_anew(seen)
    if why:
        delay_s = _delay(FIRST_REBUILD_DELAY_S, LONGEST_REBUILD_DELAY_S, seen.failed_rebuilds)
        return _after(delay_s - seen.since_failure_s, Step(action=Action.REBUILD, reason=why))
    if seen.relation is Relation.DIVERGED:
        return Step(action=Action.REJOIN, reason="It was the primary, and has log that the present one does not.")
    if seen.process is Process.RUNNING:
        return Step(action=Action.NONE, reason="It runs.")
    if seen.process is Process.ABSENT:
        return Step(action=Action.RESTART, reason="It does not run.")
    delay_s = _delay(FIRST_DELAY_S, LONGEST_DELAY_S, seen.ended_times_in_a_row)
    return _after(delay_s - seen.ended_s, Step(action=Action.RESTART, reason="Its process ended."))


def _why_anew(seen: CopySeen) -> str:
    if not seen.folder_there:
        return "Its files are gone."
    if seen.damaged:
        return f"It is damaged: {seen.damaged}"
    if not seen.marked:
        return "It is not known what it has: it took part in nothing that the volume went on from."
    if seen.relation is Relation.UNKNOWN:
        return "It is not known what it has: it took part in an epoch that was given up."
    if seen.relation is Relation.DIVERGED and seen.copy.kind is CopyKind.TAIL:
        return "It has log that the present one does not."
    if not seen.kept and not seen.streaming:
        return "The primary has no more the log that it would need."
    if seen.unconnected_s > UNCONNECTED_S:
        return f"It has not connected to the primary for {UNCONNECTED_S:g} s."
    if seen.process is not Process.RUNNING and seen.ended_times_in_a_row >= ENDS_BEFORE_REBUILD:
        return f"It has ended {seen.ended_times_in_a_row} times in a row."
    return ""


def _after(wait_s: float, step: Step) -> Step:
    return step if wait_s <= 0 else Step(action=Action.NONE, reason=step.reason, wait_s=wait_s)


def _delay(first_s: float, longest_s: float, times: int) -> float:
    # Doubled so often it is longer than the longest of all; beyond a thousand times a float cannot hold it.
    return 0.0 if times == 0 else min(longest_s, first_s * 2.0 ** min(times - 1, 32))


def way_back(*, log_to_replay_bytes: int, candidates_current: int) -> tuple[Way, str]:
    """Answer how to go on when the primary's process has ended and its data is there, and why, as a sentence.

    A start in place replays the log since the last checkpoint; another copy has replayed it already.
    """
    if log_to_replay_bytes > REPLAY_IN_PLACE_BYTES and candidates_current:
        mib = log_to_replay_bytes // 1024**2
        return Way.PROMOTE, f"The primary ended, and would have {mib} MiB of log to replay; another copy has it all."
    return Way.RESTART, "The primary ended, and is started again in place."
