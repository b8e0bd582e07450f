"""The bodies of requests, as the OpenAPI document shows them. Unknown fields are refused."""

from collections.abc import Callable
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr, model_validator

from zorya.control import access, view
from zorya.core import settings
from zorya.core.capacity import USUAL
from zorya.core.model import EngineKind, Mode, WakeOn
from zorya.storage import placement


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


Seconds = TypeVar("Seconds", int, float)
Networks = Annotated[list[StrictStr], Field(min_length=1, max_length=access.MOST_NETWORKS)]
Most = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
Acus = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _read_delay(parse: Callable[[object], float | None]) -> BeforeValidator:
    """Read a delay with `parse`, but keep null, which is the server's default, apart from `never`."""
    return BeforeValidator(lambda value: None if value is None else parse(value) or "never")


def _or_default(given: Seconds | Literal["never"] | None, default_s: Seconds | None) -> Seconds | None:
    """Answer a delay in control's terms, where None is never."""
    if given is None:
        return default_s
    return None if isinstance(given, str) else given


def _check_copies(given: object) -> object:
    """Answer a number of copies. Raises ValueError for others, and for JSON's true and 3.0, which only equal one."""
    if type(given) is not int or given not in placement.CHOICES:
        raise ValueError("must be 1, 3 or 6")
    return given


def _refuse_fixed(capacity: float | None) -> None:
    """Raise ValueError where a serverless cluster is given a capacity of its own."""
    if capacity is not None:
        raise ValueError("capacity: only a provisioned cluster has a fixed capacity")


Copies = Annotated[Literal[1, 3, 6], BeforeValidator(_check_copies)]
PauseDelay = Annotated[Annotated[StrictInt, Field(ge=1)] | Literal["never"] | None, _read_delay(settings.parse_delay)]
FreezeDelay = Annotated[
    Annotated[float, Field(ge=settings.SHORTEST_DELAY_S)] | Literal["never"] | None,
    _read_delay(settings.parse_short_delay),
]


class CreateCluster(_Body):
    """What a new cluster should be. Only the name is needed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "main"},
                {"name": "shop", "max_capacity": 8, "pause_after": "never", "freeze_after": 2.5},
                {"name": "web", "allow": ["10.0.0.0/8", "fd00::/8"], "require_tls": True, "max_clients": 200},
                {"name": "ledger", "mode": "provisioned", "capacity": 2},
                {"name": "scratch", "copies": 1},
            ]
        }
    )

    name: StrictStr = Field(
        description="1 to 63 letters, digits and single hyphens, starting with a letter. Stored in lower case."
    )
    engine: EngineKind = EngineKind.POSTGRES
    version: StrictStr | None = Field(
        default=None, description="Major version, such as 16; null is the newest installed.", max_length=20
    )
    min_capacity: Acus = Field(
        default=USUAL.least, description="Lowest capacity in ACUs while running, in steps of 0.5."
    )
    max_capacity: Acus = Field(default=USUAL.most, description="Highest capacity in ACUs, in steps of 0.5.")
    mode: Mode = Field(
        default=Mode.SERVERLESS,
        description="`serverless` pauses and scales by itself; `provisioned` always runs, with one capacity.",
    )
    capacity: Acus | None = Field(
        default=None,
        description="The capacity of a provisioned cluster in ACUs, in steps of 0.5; null is its max_capacity.",
    )
    pause_after: PauseDelay = Field(
        default=None,
        description="Seconds without a session after which the cluster pauses, or `never`; null: the server's default.",
    )
    freeze_after: FreezeDelay = Field(
        default=None,
        description="Seconds of quiet after which the cluster freezes, or `never`; null: the server's default.",
    )
    allow: Networks | None = Field(
        default=None,
        description="Networks from which clients may connect, such as 10.0.0.0/8; null is this host alone, and is "
        "refused where the setting `bind` lets others reach the server.",
    )
    require_tls: bool = Field(default=False, strict=True, description="Refuse clients without TLS.")
    wake_on: WakeOn = Field(
        default=WakeOn.AUTHENTICATED,
        description="Who starts a stopped engine: `authenticated` (who has logged in) or `any` (who connects).",
    )
    max_clients: Most | None = Field(
        default=None, description="The most clients at once, at least 1; null is no limit of its own."
    )
    copies: Copies | None = Field(
        default=None,
        description="How many copies its volume has: 6, of which 4 have a commit before the client hears of it; 3, of "
        "which 2 have; or 1. null: the server's default.",
    )
    port: StrictInt | None = Field(
        default=None, ge=1, le=65535, description="Port of the endpoint; null takes a free one of the configured range."
    )

    @model_validator(mode="after")
    def _check_capacity(self) -> Self:
        if self.mode is not Mode.PROVISIONED:
            _refuse_fixed(self.capacity)
        return self

    def to_request(
        self, *, default_pause_after_s: int | None, default_freeze_after_s: float | None
    ) -> view.CreateRequest:
        """Answer the request in control's terms."""
        return view.CreateRequest(
            name=self.name,
            engine=self.engine,
            version=self.version,
            min_capacity=self.min_capacity,
            max_capacity=self.max_capacity,
            mode=self.mode,
            fixed_capacity=self.capacity,
            pause_after_s=_or_default(self.pause_after, default_pause_after_s),
            freeze_after_s=_or_default(self.freeze_after, default_freeze_after_s),
            allow=None if self.allow is None else tuple(self.allow),
            require_tls=self.require_tls,
            wake_on=self.wake_on,
            max_clients=self.max_clients,
            copies=self.copies,
            port=self.port,
        )


class ModifyCluster(_Body):
    """What of a cluster should be otherwise. What is absent or null stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"allow": ["10.0.0.0/8"], "require_tls": True},
                {"max_clients": "none", "pause_after": 60, "freeze_after": "never"},
                {"min_capacity": 1, "max_capacity": 8},
                {"mode": "provisioned", "capacity": 2},
                {"copies": 6},
            ]
        }
    )

    min_capacity: Acus | None = Field(
        default=None, description="Lowest capacity in ACUs while running, in steps of 0.5."
    )
    max_capacity: Acus | None = Field(default=None, description="Highest capacity in ACUs, in steps of 0.5.")
    mode: Mode | None = Field(
        default=None, description="`serverless` or `provisioned`. Limits and delays are kept for the way back."
    )
    capacity: Acus | None = Field(
        default=None, description="The capacity of a provisioned cluster in ACUs, in steps of 0.5."
    )
    allow: Networks | None = Field(
        default=None, description="Networks from which clients may connect, in place of the present ones."
    )
    require_tls: bool | None = Field(default=None, strict=True, description="Whether clients without TLS are refused.")
    wake_on: WakeOn | None = Field(default=None, description="Who starts a stopped engine: `authenticated` or `any`.")
    max_clients: Most | Literal["none"] | None = Field(
        default=None, description="The most clients at once, at least 1, or `none` for no limit of its own."
    )
    copies: Copies | None = Field(
        default=None,
        description="How many copies its volume has: 1, 3 or 6. Those that it lacks are made while it serves.",
    )
    pause_after: PauseDelay = Field(
        default=None, description="Seconds without a session after which the cluster pauses, or `never`."
    )
    freeze_after: FreezeDelay = Field(
        default=None, description="Seconds of quiet after which the cluster freezes, at least 0.01, or `never`."
    )

    @model_validator(mode="after")
    def _check_capacity(self) -> Self:
        if self.mode is Mode.SERVERLESS:
            _refuse_fixed(self.capacity)
        return self

    def to_request(self) -> view.ModifyRequest:
        """Answer the request in control's terms."""
        return view.ModifyRequest(
            min_capacity=_or_unchanged(self.min_capacity),
            max_capacity=_or_unchanged(self.max_capacity),
            mode=_or_unchanged(self.mode),
            fixed_capacity=_or_unchanged(self.capacity),
            allow=view.UNCHANGED if self.allow is None else tuple(self.allow),
            require_tls=_or_unchanged(self.require_tls),
            wake_on=_or_unchanged(self.wake_on),
            max_clients=None if self.max_clients == "none" else _or_unchanged(self.max_clients),
            copies=_or_unchanged(self.copies),
            pause_after_s=None if self.pause_after == "never" else _or_unchanged(self.pause_after),
            freeze_after_s=None if self.freeze_after == "never" else _or_unchanged(self.freeze_after),
        )


Given = TypeVar("Given")


def _or_unchanged(given: Given | None) -> Given | view.Unchanged:
    """Answer a value in control's terms, where None means something."""
    return view.UNCHANGED if given is None else given


class SetCapacity(_Body):
    """The capacity that a cluster is to have now."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"capacity": 2.5}]})

    capacity: Acus = Field(description="ACUs, in steps of 0.5, within the cluster's limits.")


class PauseCluster(_Body):
    """How to pause a cluster."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"force": True}]})

    force: bool = Field(default=False, strict=True, description="End open sessions rather than refuse to pause.")


class RecoverCluster(_Body):
    """Whether a cluster may go on from what is left of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"accept_data_loss": True}]})

    accept_data_loss: bool = Field(
        default=False,
        strict=True,
        description="What was committed last may be lost, and nobody can tell how much. Refused unless it is true.",
    )


class StopServer(_Body):
    """How to stop the server."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"leave_running": True}]})

    leave_running: bool = Field(
        default=False, strict=True, description="Leave engines and their sessions running, for the next server."
    )
