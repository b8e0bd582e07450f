"""How a client and its engine are brought together: the one place where the choice is made. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from zorya.core.model import Handoff


class Way(StrEnum):
    """The ways to attach; the value is what `show` prints as `attach`."""

    HANDOFF = "handoff"
    """The engine gets the client's connection itself, and Zorya has nothing more to do with it."""
    RELAY = "relay"
    """The gateway carries the bytes between the client's connection and one of its own to the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A way to attach, and why this one."""

    way: Way
    reason: str
    """A sentence for the operator; `show` prints it as `attach_reason`."""


def decide(handoff: Handoff, *, relay_only: bool, failure: str = "", only_relay: str = "") -> Choice:
    """Choose the way for one connection.

    `relay_only` is what the setting `attach` says; `failure` is why an attempt to hand this client over failed, empty
    before there was one; `only_relay` says why only the gateway can go on with this client, empty where that is not so.
    """
    if relay_only:
        return Choice(way=Way.RELAY, reason="The setting attach says so.")
    if only_relay:
        return Choice(way=Way.RELAY, reason=only_relay)
    if handoff.inlet is None:
        return Choice(way=Way.RELAY, reason=handoff.reason)
    if failure:
        return Choice(way=Way.RELAY, reason=f"Handing it over failed: {failure}.")
    return Choice(way=Way.HANDOFF, reason=handoff.reason)
