"""What a modification makes of a cluster's record, and how it is told. Pure."""

from dataclasses import replace
from typing import TypeVar

from zorya.control import access
from zorya.control.record import ClusterRecord
from zorya.control.view import UNCHANGED, ModifyRequest, Unchanged
from zorya.core.model import Access, WakeOn

_T = TypeVar("_T")


def checked(request: ModifyRequest) -> ModifyRequest:
    """Answer the request with its networks as they are kept. Raises InvalidInput when a value cannot be."""
    if request.max_clients is not UNCHANGED:
        access.check_max_clients(request.max_clients)
    return request if request.allow is UNCHANGED else replace(request, allow=access.parse_allow(request.allow))


def apply(record: ClusterRecord, request: ModifyRequest) -> ClusterRecord:
    """Answer the record as a checked request wants it."""
    before = record.access
    return replace(
        record,
        access=Access(
            allow=_or(request.allow, before.allow),
            require_tls=_or(request.require_tls, before.require_tls),
            wake_on=_or(request.wake_on, before.wake_on),
            max_clients=_or(request.max_clients, before.max_clients),
        ),
        pause_after_s=_or(request.pause_after_s, record.pause_after_s),
        freeze_after_s=_or(request.freeze_after_s, record.freeze_after_s),
    )


def _or(wanted: _T | Unchanged, present: _T) -> _T:
    return present if wanted is UNCHANGED else wanted


def describe(before: ClusterRecord, after: ClusterRecord) -> str:
    """Answer what has become otherwise, in sentences; empty when nothing has."""
    old, new = before.access, after.access
    said = [
        (old.allow != new.allow, f"Clients may connect from {', '.join(new.allow)}."),
        (old.require_tls != new.require_tls, f"TLS is {'required' if new.require_tls else 'offered'}."),
        (old.wake_on != new.wake_on, f"It wakes for {wakes_for(new.wake_on)}."),
        (old.max_clients != new.max_clients, f"It serves {_number(new.max_clients)} clients at once."),
        (before.pause_after_s != after.pause_after_s, f"It pauses {_delay(after.pause_after_s)}."),
        (before.freeze_after_s != after.freeze_after_s, f"It freezes {_delay(after.freeze_after_s)}."),
    ]
    return " ".join(sentence for is_so, sentence in said if is_so)


def wakes_for(wake_on: WakeOn) -> str:
    """Answer for whom a stopped cluster starts, in words that complete "it wakes for …"."""
    return "clients that have logged in" if wake_on is WakeOn.AUTHENTICATED else "any client"


def _number(most: int | None) -> str:
    return "any number of" if most is None else f"at most {most}"


def _delay(seconds: float | None) -> str:
    return "never" if seconds is None else f"after {seconds:g} s"
