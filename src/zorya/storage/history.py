"""The epochs that a volume's log has gone through, and where copies stand in it. Pure.

Every epoch but the first goes on from a beginning of the log of the one before it: an election counts only copies whose
log is of the present history. So the log at a position is of the last epoch that begins before it, and an epoch that
another followed before it had a record, or whose records nobody else ever had, takes no part of the log.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from zorya.core.volume import Epoch, Volume
from zorya.storage.quorum import Position


class Relation(StrEnum):
    """How a copy's log stands to the present one."""

    FOLLOWS = "follows"
    """It is a beginning of the present log."""
    DIVERGED = "diverged"
    """It has records that the present log does not have."""
    UNKNOWN = "unknown"
    """It took part in an epoch that is not in the history."""


def position_of(epochs: Sequence[Epoch], joined: int, position: int) -> Position | None:
    """Answer how far a copy's log goes that ends at `position`, in bytes, by the epoch of its last record.

    `joined` is the epoch that it has joined last, by its mark. What it has is of no later one, and of an earlier one
    where it has nothing beyond the later one's beginning. None when `joined` is not in the history: it took part in an
    epoch that was abandoned, so its records cannot be told from those of another that has the same timeline.
    """
    if all(epoch.number != joined for epoch in epochs):
        return None
    of = [
        epoch.number
        for epoch in epochs
        if epoch.number <= joined and epoch.begins_at is not None and (epoch.begins_at < position or epoch is epochs[0])
    ]
    return Position(epoch=max(of), position=position) if of else None


def mark_of(epochs: Sequence[Epoch], joined: int, *, begun: bool) -> int:
    """Answer what the mark of a copy is to say that says `joined`: another epoch, if it joined one that was abandoned.

    Only the copy that is to begin an epoch joins it before it has begun. If it did not become the primary (`begun`, as
    the engine's files tell), its log is still a beginning of that of the last epoch before, which is answered. If it
    did, its mark stays: what it has is not to be gone by.
    """
    before = [epoch.number for epoch in epochs if epoch.number < joined]
    is_abandoned = all(epoch.number != joined for epoch in epochs)
    return max(before) if is_abandoned and before and not begun else joined


def can_follow(epochs: Sequence[Epoch], at: Position | None) -> Relation:
    """Answer how a log that ends there stands to that of the last epoch.

    It has diverged if it has more than a later epoch began with, though that was not the next one.
    """
    if at is None:
        return Relation.UNKNOWN
    later = [epoch.begins_at for epoch in epochs if epoch.number > at.epoch and epoch.begins_at is not None]
    return Relation.DIVERGED if later and at.position > min(later) else Relation.FOLLOWS


def begin(volume: Volume, primary: str) -> Volume:
    """Answer the volume with a new epoch, in which another copy is to become the primary.

    The last one must have begun; one that has not is abandoned first.
    """
    number = volume.last_epoch + 1
    epoch = Epoch(number=number, copy=primary, timeline=None, begins_at=None)
    return replace(volume, primary=primary, epochs=(*volume.epochs, epoch), last_epoch=number)


def began(volume: Volume, timeline: int, begins_at: int) -> Volume:
    """Answer the volume whose last epoch's copy has become the primary, with a log of its own from `begins_at` on."""
    return replace(volume, epochs=(*volume.epochs[:-1], replace(volume.epoch, timeline=timeline, begins_at=begins_at)))


def abandon(volume: Volume) -> Volume:
    """Answer the volume without its last epoch, which nobody but the copy that was to begin it has joined.

    Its number is not given again, so a copy that has joined it is known by that.
    """
    epochs = volume.epochs[:-1]
    return replace(volume, primary=epochs[-1].copy, epochs=epochs)
