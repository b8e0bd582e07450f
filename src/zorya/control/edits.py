"""Changes of a cluster's record that users ask for, made between its owner's steps whatever the engine does."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from zorya.control.events import EventKind
from zorya.control.record import ClusterRecord
from zorya.control.standing import Standing
from zorya.core import errors
from zorya.core.model import Status


@dataclass(frozen=True, kw_only=True, slots=True)
class _Edit:
    change: Callable[[ClusterRecord], ClusterRecord]
    kind: EventKind | None
    describe: Callable[[ClusterRecord, ClusterRecord], str]
    done: asyncio.Future[None]


class Edits:
    """Those that are waiting to be made, in their order."""

    def __init__(self, standing: Standing, *, changed: Callable[[], None]) -> None:
        """`changed` is called when there is one more."""
        self._standing = standing
        self._changed = changed
        self._waiting: deque[_Edit] = deque()

    async def ask(
        self,
        change: Callable[[ClusterRecord], ClusterRecord],
        *,
        kind: EventKind | None,
        describe: Callable[[ClusterRecord, ClusterRecord], str],
    ) -> None:
        """Have a change made and wait until it is; see Standing.edit. If the caller stops waiting, it is made anyway.

        Raises DiskFull and HomeUnusable, or what `refuse` was given; then nothing is changed.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Edit(change=change, kind=kind, describe=describe, done=done))
        self._changed()
        await done

    @property
    def is_due(self) -> bool:
        """Whether one can be made now: not while the cluster is being made or removed."""
        return bool(self._waiting) and self._standing.record.status is Status.AVAILABLE

    async def make(self) -> None:
        """Make the first."""
        edit = self._waiting.popleft()
        try:
            await self._standing.edit(edit.change, edit.kind, edit.describe)
        except errors.ZoryaError as error:
            _fail(edit, error)
        else:
            if not edit.done.done():
                edit.done.set_result(None)

    def refuse(self, error: errors.ZoryaError) -> None:
        """Make none of them."""
        while self._waiting:
            _fail(self._waiting.popleft(), error)


def _fail(edit: _Edit, error: errors.ZoryaError) -> None:
    if not edit.done.done():
        edit.done.set_exception(error)
