"""Since when an engine has been at rest, from what it was seen doing. Pure."""

from dataclasses import dataclass

from zorya.engines.base import Activity


@dataclass(frozen=True, kw_only=True, slots=True)
class Quiet:
    """What the last look at an engine showed."""

    seen_s: float
    """When it was looked at, by the clock that never jumps."""
    mark: str
    own_work: int
    since_s: float | None
    """Since when it has been at rest; None while it is not."""
    busy: str
    """What keeps it from resting, as a sentence; empty while it rests, or has just written what it did."""


def follow(before: Quiet | None, seen: Activity, now_s: float) -> Quiet:
    """Answer what is known once the engine was `seen` at `now_s`, `before` being what was known.

    Rest goes on from look to look as long as neither a session nor the engine by itself has done anything between them:
    the mark and its own work tell that. A rest that began between two looks began when the last session had finished,
    or at the earlier look.
    """
    since_s: float | None
    if seen.busy or not seen.log_flushed:
        since_s = None
    elif before is None or before.own_work != seen.own_work:
        since_s = now_s
    elif before.since_s is not None and before.mark == seen.mark:
        since_s = before.since_s
    else:
        # The engine's figure is of the wall clock, which may have jumped: it counts no further than the earlier look.
        since_s = max(before.seen_s, now_s - max(0.0, seen.idle_s or 0.0))
    return Quiet(seen_s=now_s, mark=seen.mark, own_work=seen.own_work, since_s=since_s, busy=seen.busy)
