"""When the failed logins of one cluster are worth an event, and what it says. Pure: `now_s` is passed in.

One who guesses passwords fails by the thousand. That is told of once as it begins, and then once an hour while it goes
on.
"""

from collections import Counter, deque

MANY = 10
WITHIN_S = 60.0
"""So many failures within this time are more than people mistype."""

TELL_EVERY_S = 3600.0
"""How long nothing is told, at least, after it was. After as long without a failure, the count begins anew."""

REMEMBERED = 1000
"""How many addresses, and how many roles, are counted one by one; the failures of further ones count in the sum."""

_ROLES_NAMED = 3
_LONGEST_ROLE = 32


class FailedLogins:
    """Counts for one cluster."""

    def __init__(self) -> None:
        """Nothing has failed yet."""
        self._recent: deque[float] = deque(maxlen=MANY)
        self._told_s: float | None = None
        self._begin(0.0)

    def _begin(self, now_s: float) -> None:
        self._since_s = now_s
        self._total = 0
        self._addresses: Counter[str] = Counter()
        self._roles: Counter[str] = Counter()

    def note(self, address: str, role: str, now_s: float) -> str:
        """Count a failure. Answer the reason of the event that is due now, as a sentence; empty when none is."""
        if not self._total or now_s - self._recent[-1] >= TELL_EVERY_S:
            self._begin(now_s)
        self._recent.append(now_s)
        self._total += 1
        _count(self._addresses, address)
        _count(self._roles, shown_role(role))
        if not self._is_due(now_s):
            return ""
        reason = self._describe(now_s)
        self._told_s = now_s
        self._total = 0
        return reason

    def _is_due(self, now_s: float) -> bool:
        many = len(self._recent) == MANY and now_s - self._recent[0] <= WITHIN_S
        return many and (self._told_s is None or now_s - self._told_s >= TELL_EVERY_S)

    def _describe(self, now_s: float) -> str:
        known = "at least " if len(self._addresses) == REMEMBERED else ""
        address, most = self._addresses.most_common(1)[0]
        whence = (
            f"from {address}"
            if len(self._addresses) == 1
            else f"from {known}{len(self._addresses)} addresses, {most} of them from {address}"
        )
        roles = [role for role, _ in self._roles.most_common(_ROLES_NAMED)]
        more = len(self._roles) - len(roles)
        named = ", ".join(f'"{role}"' for role in roles) + (f" and {more} more" if more else "")
        return f"{self._total} logins failed within {_minutes(now_s - self._since_s)}, {whence}; as {named}."


def _count(counter: Counter[str], key: str) -> None:
    if key in counter or len(counter) < REMEMBERED:
        counter[key] += 1


def shown_role(role: str) -> str:
    """Answer a role's name, which a client chose freely, in one short printable piece."""
    short = role if len(role) <= _LONGEST_ROLE else role[:_LONGEST_ROLE] + "…"
    return "".join("'" if char == '"' else char if char.isprintable() else ascii(char)[1:-1] for char in short)


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'' if minutes == 1 else 's'}"
