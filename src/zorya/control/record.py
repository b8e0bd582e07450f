"""What the catalog keeps of a cluster, and its form in JSON."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from zorya.core.capacity import Bounds
from zorya.core.model import Access, Compute, EngineKind, Mode, ProcessIdentity, Secret, Status, WakeOn
from zorya.core.volume import Copy, CopyKind, Epoch, Volume


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterRecord:
    """One cluster. Changed only by its owner, by `dataclasses.replace`."""

    id: str
    name: str
    port: int
    engine: EngineKind
    engine_major: str
    """The version that the data folder is bound to."""
    mode: Mode
    status: Status
    compute: Compute
    reason: str
    """Why it is in this state, as a sentence."""
    min_capacity: float
    max_capacity: float
    fixed_capacity: float | None
    """That of a provisioned cluster; what it had last where it is serverless, None where it never was provisioned."""
    pause_after_s: int | None
    freeze_after_s: float | None
    username: str
    password: Secret
    next_password: Secret | None
    """Set from when a new password was chosen until the engine has it."""
    access: Access
    database: str
    created_at: datetime
    process: ProcessIdentity | None
    """The engine's process, as far as it is known; what the host shows wins."""
    volume: Volume
    reader_port: int | None
    """Where those who only read are served; None where the volume has one copy."""

    @property
    def is_provisioned(self) -> bool:
        """Whether it always runs, with one capacity."""
        return self.mode is Mode.PROVISIONED

    @property
    def bounds(self) -> Bounds:
        """Between which capacities it is kept while it runs."""
        if self.is_provisioned and self.fixed_capacity is not None:
            return Bounds(least=self.fixed_capacity, most=self.fixed_capacity)
        return Bounds(least=self.min_capacity, most=self.max_capacity)


def to_json(record: ClusterRecord) -> str:
    """Write the record, password included: the catalog is readable by Zorya's own user only."""
    values = asdict(record)
    values["password"] = record.password.value
    values["next_password"] = record.next_password.value if record.next_password else None
    values["created_at"] = record.created_at.isoformat()
    for copy in values["volume"]["copies"]:
        copy["folder"] = str(copy["folder"])
    return json.dumps(values)


def from_json(text: str) -> ClusterRecord:
    """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    values: dict[str, Any] = json.loads(text)
    process = values.pop("process")
    next_password = values.pop("next_password")
    access = values.pop("access")
    return ClusterRecord(
        engine=EngineKind(values.pop("engine")),
        mode=Mode(values.pop("mode")),
        status=Status(values.pop("status")),
        compute=Compute(values.pop("compute")),
        password=Secret(values.pop("password")),
        next_password=Secret(next_password) if next_password is not None else None,
        access=Access(
            allow=tuple(access.pop("allow")),
            wake_on=WakeOn(access.pop("wake_on")),
            **access,
        ),
        created_at=datetime.fromisoformat(values.pop("created_at")),
        process=ProcessIdentity(**process) if process else None,
        volume=_volume(values.pop("volume")),
        **values,
    )


def _volume(values: dict[str, Any]) -> Volume:
    copies = values.pop("copies")
    epochs = values.pop("epochs")
    return Volume(
        copies=tuple(Copy(zone=one["zone"], kind=CopyKind(one["kind"]), folder=Path(one["folder"])) for one in copies),
        epochs=tuple(Epoch(**one) for one in epochs),
        established=tuple(values.pop("established")),
        **values,
    )
