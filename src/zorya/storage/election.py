"""Which log to go on from when the primary is lost, and with which copy. Pure.

**What is chosen.** Of the copies that can be reached, at least `Rule.read`, the log whose last record is of the highest
epoch, and of these the longest.

**Why no acknowledged commit is lost.** Assumptions: (1) before their positions are read, the copies that are read take
no more log of the older epoch (they are fenced); (2) a copy joins an epoch only after that epoch's primary had every
record that its election found; (3) a copy's log is written in order, and what it has said it has is on its disk.

A commit that a client has heard of is on `write` copies. `read` copies were read, and write + read > copies, so one of
those read, X, has it. Let the commit be of epoch e. The chosen log L ends with a record of epoch f, and since X's last
record is of epoch e or later, f >= e. If f = e, L and X's log of that epoch are beginnings of what the one primary of e
wrote, and L is the longer: it has the commit. If f > e, a primary of epoch f wrote L's last record. It went on, by (2),
from a log that an election had found, after the commit or before it. After: by induction over the epochs that log had
the commit. Before: then that election had fenced `read` copies, by (1), before the commit was acknowledged, so at most
copies - read < write could have taken it, and it was not acknowledged.

**Why by the epoch of the last record, and not by the highest joined.** Epoch 1: a and five others. A commit is on a, b,
c and d. a fails; e is elected with d, e, f read, collects the commit from d, joins epoch 2 and is lost before it has
written a record, or before others have joined. If f had joined epoch 2 with its short log of epoch 1, and the next
election went by the epoch joined, it would choose f's log, without the commit, before those of b, c and d, which have
it. By the epoch of the last record all of these are of epoch 1, and the longest wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zorya.core.volume import Copy, CopyKind, format_position
from zorya.storage.quorum import Position, Rule


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One copy, and how far its log goes."""

    copy: Copy
    position: Position | None
    """None while it is out of reach, or cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What to go on from."""

    candidate: str
    """The full copy that becomes the primary."""
    source: str
    """The copy whose log it is to have first; itself, where its own goes as far."""
    position: Position
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why nothing can be gone on from."""

    reason: str
    hint: str


def choose(rule: Rule, seen: Sequence[Seen], *, prefer: str = "") -> Choice | Refusal:
    """Answer the log to go on from. `prefer` becomes the primary where several full copies could equally well."""
    found = [one for one in seen if one.position is not None]
    if len(found) < rule.read:
        return Refusal(
            reason=f"{len(found)} of {rule.copies} copies can be reached, and {rule.read} have to be there to know "
            "what was committed.",
            hint="Bring back the missing ones, or accept a loss with `zorya recover`.",
        )
    return _furthest(found, prefer)


def after_loss(seen: Sequence[Seen]) -> Choice | Refusal:
    """Answer the furthest log that is left, which may lack commits: for a recovery by hand."""
    return _furthest([one for one in seen if one.position is not None], "")


def _furthest(found: Sequence[Seen], prefer: str) -> Choice | Refusal:
    fulls = [one for one in found if one.copy.kind is CopyKind.FULL]
    if not fulls:
        return Refusal(reason="No copy with data can be reached.", hint="Bring back a full copy, or restore a backup.")
    candidate = max(fulls, key=lambda one: (one.position, one.copy.name == prefer, _first(one)))
    source = max(found, key=lambda one: (one.position, one is candidate, one.copy.kind is CopyKind.FULL, _first(one)))
    assert source.position is not None
    where = format_position(source.position.position)
    reason = f"{len(found)} copies can be reached; the furthest, {source.copy.name}, is at {where}."
    return Choice(candidate=candidate.copy.name, source=source.copy.name, position=source.position, reason=reason)


def _first(one: Seen) -> tuple[int, ...]:
    """Answer what orders names backwards, so that the first is the greatest."""
    return tuple(-ord(letter) for letter in one.copy.name)
