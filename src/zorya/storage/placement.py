"""Which copies a volume has, and in which zones they are. Pure."""

from collections.abc import Callable, Sequence
from pathlib import Path

from zorya.core.volume import ZONES, Copy, CopyKind, Epoch, Volume

_KINDS = {
    1: ((ZONES[0], CopyKind.FULL),),
    3: tuple((zone, CopyKind.FULL) for zone in ZONES),
    6: tuple((zone, kind) for zone in ZONES for kind in CopyKind),
}

CHOICES: Sequence[int] = tuple(_KINDS)
"""How many copies a volume can have."""


def new_volume(copies: int, folder_of: Callable[[str], Path]) -> Volume:
    """Answer a new cluster's volume. `folder_of` answers the cluster's folder in a zone."""
    placed = place(copies, (), folder_of)
    return Volume(
        copies=placed,
        primary=placed[0].name,
        epochs=(Epoch(number=1, copy=placed[0].name, timeline=1, begins_at=0),),
        last_epoch=1,
        # They are made together, before the first commit.
        established=tuple(one.name for one in placed),
        rest=None,
    )


def resize(volume: Volume, copies: int, folder_of: Callable[[str], Path]) -> Volume:
    """Answer the volume with another number of copies: those that there are stay where they are, the primary always.

    The rule in force stays until all that are to be have been made. Those that remain of a larger one must have
    everything. Raises ValueError where the primary would not be among them.
    """
    placed = place(copies, volume.copies, folder_of)
    if volume.primary not in {one.name for one in placed}:
        # A volume of one copy is where its primary is.
        placed = (volume.copy(volume.primary),) if copies == 1 else placed
    if volume.primary not in {one.name for one in placed}:
        raise ValueError(f"the primary {volume.primary} would not be among the copies")
    names = {one.name for one in volume.copies}
    grows = any(one.name not in names for one in placed)
    return Volume(
        copies=placed,
        primary=volume.primary,
        epochs=volume.epochs,
        last_epoch=volume.last_epoch,
        established=volume.established if grows else tuple(one.name for one in placed),
        rest=volume.rest,
    )


def place(copies: int, present: Sequence[Copy], folder_of: Callable[[str], Path]) -> tuple[Copy, ...]:
    """Answer so many copies, each of `present` where it is."""
    found = {(one.zone, one.kind): one for one in present}
    folders = {one.zone: one.folder for one in present}
    return tuple(
        found.get((zone, kind)) or Copy(zone=zone, kind=kind, folder=folders.get(zone) or folder_of(zone))
        for zone, kind in _KINDS[copies]
    )
