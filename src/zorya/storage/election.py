"""Which log to go on from when the primary is lost, and with which copy. Pure.

**What is chosen.** Of the copies that can be reached and whose log is a beginning of the present one, at least
`Rule.read`, the log whose last record is of the highest epoch, and of these the longest.

**What is assumed.** `control.failover` and `control.copies` keep to it. The simulation in `tests/storage` finds a lost
commit, or a volume that is stuck, as soon as one of these is dropped:

1. Before their positions are read, the copies that are read take no more log of an older epoch (they are fenced), and
   never will again.
2. What a copy has said it has is on its disk, and the primary gives away only what is on its own disk. So within one
   epoch logs are beginnings of one another, also when the primary is started anew in place.
3. A primary of a new epoch has, before its first record, all of the log that its election chose.
4. A copy's mark says an epoch only if its log is a beginning of that epoch's: one that has diverged is cut back, or
   made anew, *before* its mark says the new epoch. And a copy takes no log of an epoch later than its mark says.
5. A volume's history is durable before any copy but the new primary joins its last epoch.

**Why no acknowledged commit is lost.** A commit that a client has heard of is on `write` copies. Let k copies be out of
reach for good, or not counted since their log is not of the present history, or has gaps. At least write - k of the
other copies - k have the commit, `read` of these are read, and (write - k) + read > copies - k: one of them, X, has it.
Let the commit be of epoch e. The chosen log L ends with a record of epoch f, and since X's last record is of epoch e or
later, f >= e. If f = e, then by (2) L and X's log are beginnings of what the one primary of e wrote, and L is the
longer: it has the commit. If f > e, a primary of epoch f wrote L's last record. It went on, by (3), from a log that an
election had chosen, after the commit was acknowledged or before. After: by induction over the epochs that log had the
commit. Before: then that election had fenced `read` copies, by (1), none of which had the commit, for it chose the
furthest log. At most copies - read < write others could have taken it since, and it was not acknowledged.

**Why by the epoch of the last record, and not by the highest joined.** Epoch 1: the primary a, and b, c, d, e, f. A
commit is on a, b, c and d. a is lost, and b, e and f are read; b has the commit, is elected, and begins epoch 2. e
joins it, by its mark, and before it gets any log, b is lost. Now c, e and f are read. By the epoch joined, e's short
log of epoch 1 comes before c's, which has the commit: it would be lost, though the rule of four and three was kept. By
the epoch of the last record all three are of epoch 1, and c's, the longest, is chosen.

**Why those that have diverged do not count.** A copy that was out of reach in an election may have records that no
commit needed, and that the present log does not have. If it counted, its long log of epoch 1 could be chosen with a
short one of epoch 2 to follow it, or it could become the primary with the records of epoch 2 never replayed: an engine
cannot go back. It has to be cut back first; the proof above allows for its absence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zorya.core.volume import Copy, CopyKind, Epoch, format_position
from zorya.storage import history
from zorya.storage.history import Relation
from zorya.storage.quorum import Position, Rule


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One copy, and how far its log goes."""

    copy: Copy
    position: Position | None
    """None while it is out of reach, or cannot be used."""
    begins_at: int = 0
    """From where on its log is there without a gap, in bytes: a tail that was made anew lacks what was before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What to go on from."""

    candidate: str
    """The full copy that becomes the primary."""
    source: str
    """The copy whose log it is to have first; itself, where its own goes as far."""
    position: Position
    """How far that log goes."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why nothing can be gone on from."""

    reason: str
    hint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Usable:
    """A copy that counts."""

    copy: Copy
    position: Position
    begins_at: int

    @property
    def is_full(self) -> bool:
        return self.copy.kind is CopyKind.FULL


def choose(rule: Rule, seen: Sequence[Seen], *, epochs: Sequence[Epoch] | None, prefer: str = "") -> Choice | Refusal:
    """Answer the log to go on from. `prefer` becomes the primary where several full copies could equally well.

    `epochs` is the volume's history; copies that have log which it does not have do not count. Without it all are taken
    to be of the present log, which is safe only before the first failover. Each copy is in `seen` once at most.
    """
    usable = _usable(seen, epochs)
    candidate = _candidate(usable, prefer)
    if candidate is None:
        return _no_data(usable)
    counted = [one for one in usable if one.begins_at <= candidate.position.position]
    if len(counted) < rule.read:
        return Refusal(
            reason=f"{_copies(len(counted))} of {rule.copies} can be gone by, and {rule.read} have to be there to know "
            f"what was committed.{_left_out(seen, counted)}",
            hint="Bring back the missing ones, or accept a loss with `zorya recover`.",
        )
    return _furthest(counted, candidate)


def after_loss(seen: Sequence[Seen], *, epochs: Sequence[Epoch] | None) -> Choice | Refusal:
    """Answer the furthest log that is left, which may lack commits: for a recovery by hand.

    Copies whose log the present one does not have do not count here either, unless there are no others with data.
    """
    usable = _usable(seen, epochs)
    candidate = _candidate(usable, "")
    if candidate is None:
        # Its log alone: what others have cannot be put behind it.
        alone = _candidate(_usable(seen, None), "")
        return _no_data(usable) if alone is None else _furthest([alone], alone)
    return _furthest([one for one in usable if one.begins_at <= candidate.position.position], candidate)


def _usable(seen: Sequence[Seen], epochs: Sequence[Epoch] | None) -> Sequence[_Usable]:
    return [
        _Usable(copy=one.copy, position=one.position, begins_at=one.begins_at)
        for one in seen
        if one.position is not None and (epochs is None or history.can_follow(epochs, one.position) is Relation.FOLLOWS)
    ]


def _candidate(usable: Sequence[_Usable], prefer: str) -> _Usable | None:
    fulls = [one for one in usable if one.is_full]
    return max(fulls, key=lambda one: (one.position, one.copy.name == prefer, _first(one)), default=None)


def _furthest(counted: Sequence[_Usable], candidate: _Usable) -> Choice:
    source = max(counted, key=lambda one: (one.position, one is candidate, one.is_full, _first(one)))
    where = format_position(source.position.position)
    return Choice(
        candidate=candidate.copy.name,
        source=source.copy.name,
        position=source.position,
        reason=f"{_copies(len(counted))} can be gone by; the furthest, {source.copy.name}, is at {where}.",
    )


def _no_data(usable: Sequence[_Usable]) -> Refusal:
    return Refusal(
        reason=f"No copy with data can be gone by; {_copies(len(usable))} with log alone can.",
        hint="Bring back a full copy, or restore a backup.",
    )


def _copies(number: int) -> str:
    return "1 copy" if number == 1 else f"{number} copies"


def _left_out(seen: Sequence[Seen], counted: Sequence[_Usable]) -> str:
    """Answer, as a sentence with a space before it, which copies are there and do not count; empty when none."""
    names = {one.copy.name for one in counted}
    left_out = sorted(one.copy.name for one in seen if one.position is not None and one.copy.name not in names)
    return (
        f" Not counted, since their log is not of the present one, or has a gap: {', '.join(left_out)}."
        if left_out
        else ""
    )


def _first(one: _Usable) -> tuple[int, ...]:
    """Answer what orders names backwards, so that the first is the greatest."""
    return tuple(-ord(letter) for letter in one.copy.name)
