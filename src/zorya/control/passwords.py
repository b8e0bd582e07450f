"""A change of the password that a cluster's user logs in with, in steps that survive the server's death.

1. A new one is chosen and recorded beside the old one (`ClusterRecord.next_password`).
2. The engine is given it, and confirms it. From here on it alone is in force; open sessions stay.
3. It takes the old one's place in the record.

Where the server dies, or the engine cannot be reached, the second step is done again as soon as the engine runs. Until
the third is done the old one is told to whoever asks, since before the second it is the one that works; between the two
that is wrong, for the moment in which the record is written, or until the next server has done both again.
"""

from dataclasses import replace

from zorya.control.events import EventKind
from zorya.control.instance import InstanceRunner
from zorya.control.record import ClusterRecord
from zorya.control.standing import Standing
from zorya.core import errors, failpoints, ids, logging
from zorya.core.model import Secret

_log = logging.get("zorya.control")

AGAIN_AFTER_S = 5.0
"""How long the engine is left alone after it did not take the new password; each further time twice as long."""

AGAIN_AFTER_AT_MOST_S = 300.0


def choose(record: ClusterRecord) -> ClusterRecord:
    """Answer the record with a new password beside the present one; one that has one already stays as it is."""
    return record if record.next_password else replace(record, next_password=Secret(ids.new_password()))


def goes_on(error: errors.ZoryaError) -> errors.ZoryaError:
    """Answer the error for one who asked for a change that the engine has not confirmed."""
    return type(error)(
        f"The engine has not confirmed the new password: {error.message}",
        hint=f"{error.hint} It is given it again as soon as it can; until then `zorya url` prints the old one.".strip(),
        client_message=error.client_message,
    )


class PasswordChange:
    """The change of one cluster that is under way, if any is."""

    def __init__(self, runner: InstanceRunner, standing: Standing) -> None:
        """Go on with what the record says."""
        self.failures = 0
        """How often the engine did not take a new password."""
        self.problem: errors.ZoryaError | None = None
        """Why it did not the last time."""
        self._runner = runner
        self._standing = standing
        self._blocked_until_s = 0.0
        self._next_delay_s = AGAIN_AFTER_S / 2

    @property
    def is_under_way(self) -> bool:
        """Whether there is a new password that is not known to be in force."""
        return self._standing.record.next_password is not None

    def due_in_s(self, now_s: float) -> float | None:
        """Answer when the engine is to be given the new password; None when there is none."""
        return max(0.0, self._blocked_until_s - now_s) if self.is_under_way else None

    def try_soon(self) -> None:
        """Have the engine given the new password at once, whatever it did before: somebody asks for it."""
        self._blocked_until_s = 0.0
        self._next_delay_s = AGAIN_AFTER_S / 2

    async def set(self) -> None:
        """Give the running engine the new password, and have it in the record. Raises EngineProblem."""
        record = self._standing.record
        if record.next_password is None:
            return
        await self._runner.set_password(record, record.next_password)
        await failpoints.reached("password.set")
        self._standing.record = replace(self._standing.record, password=record.next_password, next_password=None)
        event = self._standing.event(EventKind.PASSWORD_CHANGED, "Sessions that are open stay.")
        await self._standing.save(event)
        _log.info("password changed", cluster=record.name)
        await failpoints.reached("password.promoted")

    def note_failure(self, error: errors.ZoryaError, now_s: float) -> None:
        """Have it tried again later."""
        _log.warning("the engine did not take the new password", cluster=self._standing.name, error=str(error))
        self.failures += 1
        self._next_delay_s = min(2 * self._next_delay_s, AGAIN_AFTER_AT_MOST_S)
        self.problem = error
        self._blocked_until_s = now_s + self._next_delay_s
