"""What a modification makes of a cluster's record, and how it is told. Pure."""

from dataclasses import replace
from typing import TypeVar

from zorya.control import access, capacities
from zorya.control.record import ClusterRecord
from zorya.control.view import UNCHANGED, ModifyRequest, Unchanged
from zorya.core import errors
from zorya.core.model import Access, EngineKind, Mode, WakeOn
from zorya.storage import placement

_T = TypeVar("_T")


NOTHING = ModifyRequest(
    min_capacity=UNCHANGED,
    max_capacity=UNCHANGED,
    mode=UNCHANGED,
    fixed_capacity=UNCHANGED,
    allow=UNCHANGED,
    require_tls=UNCHANGED,
    wake_on=UNCHANGED,
    max_clients=UNCHANGED,
    copies=UNCHANGED,
    pause_after_s=UNCHANGED,
    freeze_after_s=UNCHANGED,
)
"""The request that leaves everything as it is."""


def only(*, fixed_capacity: float) -> ModifyRequest:
    """Answer the request for nothing but this."""
    return replace(NOTHING, fixed_capacity=fixed_capacity)


def checked(request: ModifyRequest) -> ModifyRequest:
    """Answer the request with its networks as they are kept. Raises InvalidInput when a value cannot be."""
    for value in (request.min_capacity, request.max_capacity, request.fixed_capacity):
        if value is not UNCHANGED:
            capacities.check(value)
    if request.max_clients is not UNCHANGED:
        access.check_max_clients(request.max_clients)
    return request if request.allow is UNCHANGED else replace(request, allow=access.parse_allow(request.allow))


def check_copies(copies: int, engine: EngineKind, *, most: int) -> None:
    """Raise InvalidInput when a volume of this kind of engine, which may have `most`, cannot have so many copies."""
    choices = [choice for choice in placement.CHOICES if choice <= most]
    if copies not in choices:
        if len(choices) == 1:
            raise errors.InvalidInput(
                f"The volume of a {engine.product} cluster has one copy, not {copies}.", hint="Leave --copies out."
            )
        *some, last = map(str, choices)
        raise errors.InvalidInput(
            f"A volume cannot have {copies} copies.", hint=f"Choose {', '.join(some)} or {last} copies."
        )


def apply(record: ClusterRecord, request: ModifyRequest) -> ClusterRecord:
    """Answer the record as a checked request wants it. Raises InvalidInput when its parts do not fit together.

    The number of copies is left as it is: the owner changes the volume, since copies have to be made or removed for it.
    """
    before = record.access
    mode = _or(request.mode, record.mode)
    least, most, fixed = _capacities(record, request, mode)
    return replace(
        record,
        min_capacity=least,
        max_capacity=most,
        fixed_capacity=fixed,
        mode=mode,
        access=Access(
            allow=_or(request.allow, before.allow),
            require_tls=_or(request.require_tls, before.require_tls),
            wake_on=_or(request.wake_on, before.wake_on),
            max_clients=_or(request.max_clients, before.max_clients),
        ),
        pause_after_s=_or(request.pause_after_s, record.pause_after_s),
        freeze_after_s=_or(request.freeze_after_s, record.freeze_after_s),
    )


def _capacities(record: ClusterRecord, request: ModifyRequest, mode: Mode) -> tuple[float, float, float | None]:
    """Answer the least, the most and the fixed capacity; those of the other mode are kept for the way back."""
    least, most = _or(request.min_capacity, record.min_capacity), _or(request.max_capacity, record.max_capacity)
    capacities.check_bounds(least, most)
    wanted = None if request.fixed_capacity is UNCHANGED else request.fixed_capacity
    return least, most, capacities.choose_fixed(mode, wanted=wanted, present=record.fixed_capacity, most=most)


def _or(wanted: _T | Unchanged, present: _T) -> _T:
    return present if wanted is UNCHANGED else wanted


def describe(before: ClusterRecord, after: ClusterRecord) -> str:
    """Answer what has become otherwise, in sentences; empty when nothing has."""
    old, new = before.access, after.access
    said = [
        (before.mode != after.mode, _is(after)),
        (
            (before.min_capacity, before.max_capacity) != (after.min_capacity, after.max_capacity),
            f"It has between {after.min_capacity:g} and {after.max_capacity:g} ACUs"
            f"{' once it is serverless again' if after.is_provisioned else ''}.",
        ),
        (
            before.mode == after.mode and before.fixed_capacity != after.fixed_capacity,
            f"It has {after.fixed_capacity or 0:g} ACUs.",
        ),
        (old.allow != new.allow, f"Clients may connect from {', '.join(new.allow)}."),
        (old.require_tls != new.require_tls, f"TLS is {'required' if new.require_tls else 'offered'}."),
        (old.wake_on != new.wake_on, f"It wakes for {wakes_for(new.wake_on)}."),
        (old.max_clients != new.max_clients, f"It serves {_number(new.max_clients)} clients at once."),
        (before.pause_after_s != after.pause_after_s, f"It pauses {_delay(after.pause_after_s)}."),
        (before.freeze_after_s != after.freeze_after_s, f"It freezes {_delay(after.freeze_after_s)}."),
    ]
    return " ".join(sentence for is_so, sentence in said if is_so)


def _is(record: ClusterRecord) -> str:
    if record.is_provisioned:
        return f"It is provisioned with {record.fixed_capacity or 0:g} ACUs, and always runs."
    return "It is serverless: its capacity follows the load."


def wakes_for(wake_on: WakeOn) -> str:
    """Answer for whom a stopped cluster starts, in words that complete "it wakes for …"."""
    return "clients that have logged in" if wake_on is WakeOn.AUTHENTICATED else "any client"


def _number(most: int | None) -> str:
    return "any number of" if most is None else f"at most {most}"


def _delay(seconds: float | None) -> str:
    return "never" if seconds is None else f"after {seconds:g} s"
