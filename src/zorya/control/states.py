"""A cluster's states and every change between them, in one table. Nothing else changes a state.

`python -m zorya.control.states` prints the diagrams that ARCHITECTURE.md shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from zorya.control.events import EventKind
from zorya.core.model import Compute, Status


class Cause(StrEnum):
    """Why a state changes."""

    BUILT = "built"
    BUILD_FAILED = "build failed"
    DELETE_ASKED = "delete asked"
    ERASED = "erased"
    WANTED = "wanted"
    READY = "ready"
    START_FAILED = "start failed"
    STOP_DUE = "stop due"
    AT_REST = "at rest"
    EXITED = "exited"
    FOUND_READY = "found ready"
    FOUND_STARTING = "found starting"


@dataclass(frozen=True, slots=True)
class Change:
    """Where a cause leads, and the event that tells of it."""

    target: Status | Compute
    event: EventKind | None


STATUS: Mapping[tuple[Status, Cause], Change] = {
    (Status.CREATING, Cause.BUILT): Change(Status.AVAILABLE, EventKind.CREATED),
    (Status.CREATING, Cause.BUILD_FAILED): Change(Status.DELETING, EventKind.CREATE_FAILED),
    (Status.CREATING, Cause.DELETE_ASKED): Change(Status.DELETING, None),
    (Status.AVAILABLE, Cause.DELETE_ASKED): Change(Status.DELETING, None),
    (Status.DELETING, Cause.ERASED): Change(Status.DELETED, EventKind.DELETED),
}

COMPUTE: Mapping[tuple[Compute, Cause], Change] = {
    (Compute.STOPPED, Cause.WANTED): Change(Compute.RESUMING, EventKind.RESUMING),
    (Compute.FAILED, Cause.WANTED): Change(Compute.RESUMING, EventKind.RESUMING),
    (Compute.RESUMING, Cause.READY): Change(Compute.RUNNING, EventKind.RESUMED),
    (Compute.RESUMING, Cause.START_FAILED): Change(Compute.FAILED, EventKind.RESUME_FAILED),
    (Compute.RESUMING, Cause.STOP_DUE): Change(Compute.PAUSING, EventKind.PAUSING),
    (Compute.RUNNING, Cause.STOP_DUE): Change(Compute.PAUSING, EventKind.PAUSING),
    (Compute.RUNNING, Cause.AT_REST): Change(Compute.FROZEN, EventKind.FROZEN),
    (Compute.FROZEN, Cause.WANTED): Change(Compute.RUNNING, EventKind.THAWED),
    (Compute.FROZEN, Cause.STOP_DUE): Change(Compute.PAUSING, EventKind.PAUSING),
    (Compute.FROZEN, Cause.EXITED): Change(Compute.STOPPED, EventKind.ENGINE_LOST),
    (Compute.RUNNING, Cause.EXITED): Change(Compute.STOPPED, EventKind.ENGINE_LOST),
    (Compute.PAUSING, Cause.WANTED): Change(Compute.RUNNING, EventKind.PAUSE_CANCELED),
    (Compute.PAUSING, Cause.EXITED): Change(Compute.STOPPED, EventKind.PAUSED),
    # What the host shows when Zorya starts wins over what was recorded before it ended.
    (Compute.RUNNING, Cause.FOUND_READY): Change(Compute.RUNNING, EventKind.TAKEN_OVER),
    (Compute.FROZEN, Cause.FOUND_READY): Change(Compute.RUNNING, EventKind.TAKEN_OVER),
    (Compute.RESUMING, Cause.FOUND_READY): Change(Compute.RUNNING, EventKind.RESUMED),
    (Compute.STOPPED, Cause.FOUND_READY): Change(Compute.RUNNING, EventKind.TAKEN_OVER),
    (Compute.FAILED, Cause.FOUND_READY): Change(Compute.RUNNING, EventKind.TAKEN_OVER),
    (Compute.RUNNING, Cause.FOUND_STARTING): Change(Compute.RESUMING, EventKind.TAKEN_OVER),
    (Compute.FROZEN, Cause.FOUND_STARTING): Change(Compute.RESUMING, EventKind.TAKEN_OVER),
    (Compute.STOPPED, Cause.FOUND_STARTING): Change(Compute.RESUMING, EventKind.TAKEN_OVER),
    (Compute.FAILED, Cause.FOUND_STARTING): Change(Compute.RESUMING, EventKind.TAKEN_OVER),
}


def change_of_status(source: Status, cause: Cause) -> tuple[Status, EventKind | None]:
    """Answer the status that follows and its event. Raises AssertionError for a change that the table does not have."""
    change = STATUS.get((source, cause))
    if change is None or not isinstance(change.target, Status):
        raise AssertionError(f"no change from {source} by {cause}")
    return change.target, change.event


def change_of_compute(source: Compute, cause: Cause) -> tuple[Compute, EventKind | None]:
    """Answer the compute state that follows and its event. Raises AssertionError as `change_of_status` does."""
    change = COMPUTE.get((source, cause))
    if change is None or not isinstance(change.target, Compute):
        raise AssertionError(f"no change from {source} by {cause}")
    return change.target, change.event


def diagram() -> str:
    """Answer both tables as Mermaid state diagrams."""
    blocks = []
    for title, table in (("status", STATUS), ("compute", COMPUTE)):
        lines = [
            f"    {source} --> {change.target}: {cause}{f' ({change.event.id})' if change.event else ''}"
            for (source, cause), change in table.items()
        ]
        blocks.append("\n".join([f"**{title}**", "", "```mermaid", "stateDiagram-v2", *lines, "```"]))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    print(diagram())  # noqa: T201
