"""How long a newcomer waits because logins have failed before. Pure: `now_s` is passed in.

A guesser is slowed, and nobody is locked out for good. What counts are failures, whoever noticed them, the gateway or
an engine; they are forgotten at a steady pace. Addresses and roles are counted for each cluster by itself.

- An *address* whose logins fail gets turns: one newcomer after the other, each as far behind the last as the failures
  demand. However many connections it opens at once, it makes no more attempts than that. One whose turn is too far away
  is refused at once.
- A *role* that logins from anywhere fail for keeps newcomers waiting, but gives no turns and refuses nobody: else
  anyone could keep its owner out.
"""

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass

FREE_FAILURES = 5
"""Failures that cost nothing: people mistype, and programs start with an old password."""

FIRST_DELAY_S = 0.1
"""The delay after the first failure that counts; each further one doubles it, up to the most that is allowed."""

FORGET_EVERY_S = 12.0
"""How long it takes to forget one failure."""

MOST_FAILURES = FREE_FAILURES + 20
"""No more than these are remembered of an address or a role, so that all are forgotten within minutes."""

REMEMBERED = 10_000
"""Addresses and roles that are remembered at once; then the one that failed longest ago is forgotten."""


@dataclass(slots=True)
class _Record:
    failures: float
    counted_s: float
    next_turn_s: float = 0.0

    def remaining(self, now_s: float) -> float:
        """Answer the failures that are not forgotten yet. A clock that went back forgets nothing."""
        return max(0.0, self.failures - max(0.0, now_s - self.counted_s) / FORGET_EVERY_S)


class Throttle:
    """The failures of all clusters' newcomers. Keys are any strings, such as an address; see `key`."""

    def __init__(self, *, max_delay_s: float) -> None:
        """Never have anyone wait longer than `max_delay_s`; 0 turns it off."""
        self._max_delay_s = max_delay_s
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def failed(self, cluster: str, address: str, role: str, now_s: float) -> None:
        """Count a failed login."""
        for key in (_of_address(cluster, address), _of_role(cluster, role)):
            record = self._records.setdefault(key, _Record(0.0, now_s))
            record.failures = min(record.remaining(now_s) + 1, MOST_FAILURES)
            record.counted_s = now_s
            self._records.move_to_end(key)
        while len(self._records) > REMEMBERED:
            self._records.popitem(last=False)

    def turn(self, cluster: str, address: str, now_s: float) -> float | None:
        """Answer how long a newcomer from this address is to wait, in seconds; None if it is to be refused."""
        record = self._records.get(_of_address(cluster, address))
        if record is None:
            return 0.0
        delay_s = self._delay_s(record, now_s)
        if not delay_s:
            return 0.0
        wait_s = max(delay_s, record.next_turn_s + delay_s - now_s)
        if wait_s > self._max_delay_s:
            return None
        record.next_turn_s = now_s + wait_s
        return wait_s

    def delay_of_role(self, cluster: str, role: str, now_s: float) -> float:
        """Answer how long a newcomer who wants to be this role is to wait, in seconds."""
        record = self._records.get(_of_role(cluster, role))
        return self._delay_s(record, now_s) if record is not None else 0.0

    def _delay_s(self, record: _Record, now_s: float) -> float:
        counted = record.remaining(now_s) - FREE_FAILURES
        if counted <= 0:
            return 0.0
        # Half of the most: so that at least one more has room to wait behind the first.
        return min(FIRST_DELAY_S * math.pow(2, counted - 1), self._max_delay_s / 2)


def _of_address(cluster: str, address: str) -> str:
    return f"{cluster}\0address\0{_network(address)}"


def _of_role(cluster: str, role: str) -> str:
    return f"{cluster}\0role\0{role}"


def _network(address: str) -> str:
    """Answer the address, or for IPv6 the /64 that it is in: whoever has one address there has them all."""
    return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False)) if ":" in address else address
