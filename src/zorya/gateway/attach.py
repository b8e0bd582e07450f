"""How a client and its engine are brought together: the one place where the choice is made. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Way(StrEnum):
    """The ways to attach; the value is what `show` prints as `attach`."""

    RELAY = "relay"
    """The gateway carries the bytes between the client's connection and one of its own to the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A way to attach, and why this one."""

    way: Way
    reason: str
    """A sentence for the operator; `show` prints it as `attach_reason`."""


def decide() -> Choice:
    """Choose the way for one connection. So far no connection differs, so it is also what holds for an endpoint."""
    return Choice(way=Way.RELAY, reason="The relay is the only way to attach that this version has.")
