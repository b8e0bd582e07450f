"""A copy's mark: one small file beside its data that says which copy it is, and which epoch it has joined last.

It is written, durably, before the copy first takes log of that epoch. So what a copy has is of no later epoch than its
mark says; see storage.history. A copy whose mark is gone is not trusted: it is made anew, never gone on from.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from zorya.core import files


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """What the file says."""

    cluster: str
    """The cluster's id."""
    copy: str
    epoch: int
    verified_at: datetime | None
    """When its checksums were last found to be right."""


def read(path: Path) -> Mark | None:
    """Answer the mark; None where there is none that can be read."""
    try:
        values = json.loads(path.read_text())
        verified_at = values["verified_at"]
        return Mark(
            cluster=str(values["cluster"]),
            copy=str(values["copy"]),
            epoch=int(values["epoch"]),
            verified_at=datetime.fromisoformat(verified_at) if verified_at is not None else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, mark: Mark) -> None:
    """Write the mark, durable on return. Raises OSError."""
    values = {
        "cluster": mark.cluster,
        "copy": mark.copy,
        "epoch": mark.epoch,
        "verified_at": mark.verified_at.isoformat() if mark.verified_at is not None else None,
    }
    files.write_if_different(path, json.dumps(values) + "\n", mode=0o600)


def distrust(path: Path) -> None:
    """Remove the mark, durably, so that the copy is not gone on from. Idempotent. Raises OSError."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        files.sync_folder(path.parent)
